/** Rings at addresses that no 32-bit arithmetic carries, and such that end with their memory. */
import { expect, test } from "vitest";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { createDeviceQueue, createDriverQueue } from "../../src/virtqueue/create.ts";

const SIZE = 8;
const cases = [2 ** 52, 2 ** 53 - 2 ** 16].flatMap((base) =>
  [false, true].map((packed) => [base, packed] as const),
);

test.each(cases)("a ring at %d, packed: %s, whose device area is the last of a region", (base, packed) => {
  const bytes = new Uint8Array(2 ** 16 - 8);
  const memory = new RegionMemory([{ gpa: base, bytes }]);
  const end = base + bytes.length;
  const used = end - (6 + 8 * SIZE);
  const deviceArea = packed ? end - 4 : used - (used % 4);
  const config = {
    index: 0,
    size: SIZE,
    descriptorArea: base,
    driverArea: base + 256,
    deviceArea,
    eventIdx: true,
  };
  const driver = createDriverQueue(memory, config, packed);
  const device = createDeviceQueue(memory, config, packed);
  for (let round = 0; round < 3 * SIZE; round++) {
    const gpa = end - 200 + round;
    const token = driver.addAvailable([], [{ gpa, length: 64 }]);
    driver.takeNotification();
    const chain = device.popAvailable();
    expect(chain?.writable.map((segment) => ({ ...segment }))).toEqual([{ gpa, length: 64 }]);
    if (chain !== undefined) device.addUsed(chain, 64);
    device.takeNotification();
    expect(driver.popUsed()).toMatchObject({ token, written: 64 });
  }
});
