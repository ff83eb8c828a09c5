/** Options of constructors that cannot be: a RangeError that names option and value. */
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { NullCharacterBackend } from "../../src/backends/null-character.ts";
import type { VirtioDevice } from "../../src/device/device.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { virtioMmio } from "../../src/transport/mmio/registers.ts";
import { FakeCable } from "../support/ends.ts";
import { ProbeDevice } from "./rig.ts";

const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(4096) }]);
const instance = (options: object = {}, device: VirtioDevice = new ProbeDevice()): DeviceInstance =>
  new DeviceInstance(device, { label: "it", memory, ...options });
const mmio = (options: object): unknown =>
  virtioMmio(instance({ features: 1n << 32n }), { interrupt: { set: () => undefined }, ...options });
const net = (options: object): unknown =>
  new NetDevice({ backend: new FakeCable(), mac: Uint8Array.of(2, 0, 0, 0, 0, 1), ...options });
const terminal = (options: object): unknown =>
  new ConsoleDevice({ ports: [{ kind: "console", backend: new NullCharacterBackend() }], ...options });

const NO_SIZES = [100, 0, -1, 1.5, Number.NaN, 65_536, Infinity];

describe("sizes of virtqueues are powers of two", () => {
  const cases: readonly [string, (queueSize: number) => unknown][] = [
    ["of an instance", (queueSize) => instance({ queueSize })],
    ["of a network device", (queueSize) => net({ queueSize })],
    ["of a console", (queueSize) => terminal({ queueSize })],
    ["of a disk", (queueSize) => new BlkDevice(new MemoryBlockBackend(4096), { queueSize })],
  ];
  test.each(cases)("%s", (_, make) => {
    for (const size of NO_SIZES) {
      const attempt = (): unknown => make(size);
      expect(attempt, String(size)).toThrow(RangeError);
      expect(attempt).toThrow(/queue-?size/i);
      expect(attempt).toThrow(String(size));
    }
    make(16);
  });

  test("of a device type", () => {
    const device = { id: 4, name: "odd", features: 0n, queues: [{ name: "q", maxSize: 7 }] };
    expect(() => instance({}, device)).toThrow(
      "odd: maxSize of q must be a power of two from 1 to 32768, not 7",
    );
  });
});

test.each<readonly [RegExp, () => unknown]>([
  [
    /two regions of shared memory have the id 1/,
    () =>
      mmio({
        sharedMemory: [
          { id: 1, base: 0, length: 1 },
          { id: 1, base: 9, length: 1 },
        ],
      }),
  ],
])("%s", (message, make) => {
  expect(make).toThrow(RangeError);
  expect(make).toThrow(message);
});

describe("a machine that caps the size of virtqueues", () => {
  test("has disks whose seg_max follows it, so that no request of a driver is longer than the Queue Size", () => {
    for (const [queueSize, segMax] of [
      [4, 2],
      [16, 14],
      [256, 254],
      [1024, 254],
    ] as const) {
      const machine = new InProcessMachine();
      const plugged = machine.plugMmio(new BlkDevice(new MemoryBlockBackend(1 << 20)), { queueSize });
      expect(plugged.instance.readConfig(12, 4)).toBe(segMax);
    }
  });

  test("has no disk where a request finds no room", () => {
    const disk = (): BlkDevice => new BlkDevice(new MemoryBlockBackend(4096));
    expect(() => instance({ queueSize: 2 }, disk())).toThrow(/Queue Size of 2 has no room/);
  });
});
