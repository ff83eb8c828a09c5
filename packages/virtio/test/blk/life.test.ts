import { patientScheduler } from "@virtio/testkit/patient-scheduler";
import fc from "fast-check";
import { expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { BlkDriver } from "../../src/drivers/blk/driver.ts";
import { ALL_RING_FEATURES, Loopback, RINGS } from "../support/loopback.ts";
import { SlowDisk } from "./disks.ts";

const SIZE = 1 << 20;

/** Turns of the event loop, as a real disk takes them. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test.each(RINGS)(
  "a machine saved and restored in the middle of traffic loses nothing: $name",
  async ({ ring }) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(6), { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        async (waits, slow) => {
          const disk = slow ? new SlowDisk(SIZE) : new MemoryBlockBackend(SIZE);
          if (disk instanceof SlowDisk) disk.turn = turn;
          const transport = new Loopback(new BlkDevice(disk), { features: ring });
          const { instance } = transport;
          const driver = await BlkDriver.open(transport, { depth: 16, transferSize: 4096 });
          driver.setWriteback(false);
          const write = driver.write(8, new Uint8Array(40_960).fill(0x77));
          const reads = Array.from({ length: 10 }, () => driver.read(0, new Uint8Array(2048)));
          for (const count of waits) {
            for (let i = 0; i < count; i++) await turn();
            await instance.pause();
            const state: unknown = structuredClone(instance.save());
            instance.restore(state);
            instance.resume();
          }
          await Promise.all([write, ...reads]);
          const target = new Uint8Array(40_960);
          await driver.read(8, target);
          expect(target.every((byte) => byte === 0x77)).toBe(true);
          expect(driver.info.writeback).toBe(false);
          expect([instance.status & 0x40, transport.faults]).toEqual([0, []]);
        },
      ),
      { numRuns: 10 },
    );
  },
);

test("a restored disk that has another size tells the driver", async () => {
  const disk = new MemoryBlockBackend(SIZE);
  const transport = new Loopback(new BlkDevice(disk), { features: ALL_RING_FEATURES });
  const driver = await BlkDriver.open(transport);
  await transport.instance.pause();
  const state = transport.instance.save();
  const other = new DeviceInstance(new BlkDevice(new MemoryBlockBackend(2 * SIZE)), {
    label: "other",
    scheduler: patientScheduler,
    memory: transport.instance.memory,
    features: ALL_RING_FEATURES,
  });
  let told = 0;
  other.notifier = { usedBuffer: () => undefined, configurationChange: () => told++ };
  other.restore(state);
  other.resume();
  expect([told, other.generation > transport.instance.generation]).toEqual([1, true]);
  const capacity = new Uint8Array(8);
  other.readConfigBytes(0, capacity);
  expect(new DataView(capacity.buffer).getUint32(0, true)).toBe((2 * SIZE) / 512);
  expect(driver.info.capacity).toBe(SIZE / 512);
});

test("a driver that is opened again after a close finds a device as new", async () => {
  const disk = new SlowDisk(SIZE);
  disk.turn = turn;
  const transport = new Loopback(new BlkDevice(disk, { serial: "again" }));
  for (let round = 1; round <= 3; round++) {
    const driver = await BlkDriver.open(transport);
    expect(driver.info.writeback).toBe(true);
    driver.setWriteback(false);
    const [id] = await Promise.all([driver.getId(), driver.write(round, new Uint8Array(512).fill(round))]);
    expect(id).toBe("again");
    await driver.close();
  }
  const bytes = new Uint8Array(2048);
  disk.inner.read(0, bytes);
  expect([0, 1, 2, 3].map((sector) => bytes[sector * 512])).toEqual([0, 1, 2, 3]);
});

test("closing waits for a disk that needs many turns of the event loop", async () => {
  const disk = new SlowDisk(SIZE);
  disk.turn = async () => {
    for (let i = 0; i < 30; i++) await turn();
  };
  const transport = new Loopback(new BlkDevice(disk));
  const driver = await BlkDriver.open(transport);
  const write = driver.write(0, new Uint8Array(512));
  for (let i = 0; i < 3; i++) await turn();
  const [closed, written] = await Promise.allSettled([driver.close(), write]);
  expect([closed.status, written.status, disk.busy, transport.instance.status]).toEqual([
    "fulfilled",
    "rejected",
    0,
    0,
  ]);
});
