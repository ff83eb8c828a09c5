/** Options of constructors that cannot be: a RangeError that names option and value. */
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { RingCharacterBackend } from "../../src/backends/ring-character.ts";
import { NullCharacterBackend } from "../../src/backends/null-character.ts";
import type { VirtioDevice } from "../../src/device/device.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import { ninePDevice } from "../../src/devices/9p/device.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { virtioMmio } from "../../src/transport/mmio/registers.ts";
import { virtioPciFunction } from "../../src/transport/pci/function.ts";
import { FakeCable } from "../support/ends.ts";
import { ProbeDevice } from "./rig.ts";

const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(4096) }]);
const instance = (options: object = {}, device: VirtioDevice = new ProbeDevice()): DeviceInstance =>
  new DeviceInstance(device, { label: "it", memory, ...options });
const mmio = (options: object): unknown =>
  virtioMmio(instance({ features: 1n << 32n }), { interrupt: { set: () => undefined }, ...options });
const pci = (options: object): unknown => virtioPciFunction(instance(), options);
const net = (options: object): unknown =>
  new NetDevice({ backend: new FakeCable(), mac: Uint8Array.of(2, 0, 0, 0, 0, 1), ...options });
const terminal = (options: object): unknown =>
  new ConsoleDevice({ ports: [{ kind: "console", backend: new NullCharacterBackend() }], ...options });
const share = (limits: object): unknown =>
  ninePDevice({ tag: "t", fileSystem: new MemoryFileSystem(), limits });

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
    expect(() => instance({}, device)).toThrow("odd: maxSize of q must be a power of two, not 7");
  });
});

test.each<readonly [RegExp, () => unknown]>([
  [/budget must be .*, not 0/, () => instance({ budget: 0 })],
  [/budget must be .*, not NaN/, () => instance({ budget: Number.NaN })],
  [/needs a label/, () => instance({ label: "" })],
  [/MMIO: version must be .*, not 3/, () => mmio({ version: 3 })],
  [/MMIO: vendorId must be .*, not -1/, () => mmio({ vendorId: -1 })],
  [/MMIO: base of shared memory/, () => mmio({ sharedMemory: [{ id: 0, base: -1, length: 1 }] })],
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
  [/PCI: revision must be .*, not 256/, () => pci({ revision: 256 })],
  [/PCI: classCode must be .*, not 16777216/, () => pci({ classCode: 0x100_0000 })],
  [/PCI: subsystemId must be .*, not 0.5/, () => pci({ subsystemId: 0.5 })],
  [/PCI: minimumBarSize must be .*, not NaN/, () => pci({ minimumBarSize: Number.NaN })],
  [/MSI-X vectors/, () => pci({ msixVectors: 4096 })],
  [/maxBytes must be .*, not NaN/, () => new MemoryBlockBackend(4096, { maxBytes: Number.NaN })],
  [/maxBytes must be .*, not -1/, () => new MemoryFileSystem({ maxBytes: -1 })],
  [/maxInodes must be .*, not 0/, () => new MemoryFileSystem({ maxInodes: 0 })],
  [/a ring of NaN bytes/, () => new RingCharacterBackend(Number.NaN)],
  [/9p: fids must be .*, not NaN/, () => share({ fids: Number.NaN })],
  [/9p: msize must be .*, not -5/, () => share({ msize: -5 })],
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
