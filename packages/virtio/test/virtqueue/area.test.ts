import fc from "fast-check";
import { expect, test } from "vitest";
import { RegionMemory } from "virtio/memory/region-memory";
import { TableReader, passesEvent } from "../../src/virtqueue/area.ts";

const MIB = 1 << 20;

/** Two regions with a hole between them; counts what is looked up, and a new epoch can be made. */
function countedMemory(): { memory: RegionMemory; looks: () => number; move: () => void } {
  const bytes = [new Uint8Array(MIB), new Uint8Array(MIB)];
  bytes.forEach((part, region) => part.forEach((_, i) => (part[i] = i * 7 + region)));
  let looks = 0;
  let epoch = 0;
  const [low, high] = bytes;
  class Counted extends RegionMemory {
    override get epoch(): number {
      return super.epoch + epoch;
    }
    override view(gpa: number, length: number): Uint8Array {
      looks++;
      return super.view(gpa, length);
    }
  }
  const memory = new Counted([
    { gpa: 0x1000, bytes: low ?? new Uint8Array() },
    { gpa: 8 * MIB, bytes: high ?? new Uint8Array() },
  ]);
  return { memory, looks: () => looks, move: () => void epoch++ };
}

test("one look-up serves all tables of a region, until memory moves", () => {
  const { memory, looks, move } = countedMemory();
  const reader = new TableReader(memory);
  for (let gpa = 0x1000; gpa < 0x1000 + MIB - 16; gpa += 4096) reader.find(gpa, 16);
  expect(looks()).toBe(1);
  reader.find(8 * MIB, 16);
  reader.find(9 * MIB - 16, 16);
  expect(looks()).toBe(2);
  move();
  reader.find(8 * MIB, 16);
  expect(looks()).toBe(3);
});

test("a table is found where it lies, whatever was read before, or is not in memory", () => {
  const { memory, move } = countedMemory();
  const reader = new TableReader(memory);
  const place = fc.oneof(
    fc.integer({ min: 0, max: 0x1000 + MIB + 64 }),
    fc.integer({ min: 8 * MIB - 64, max: 9 * MIB + 64 }),
    fc.constantFrom(0x1000, 0x1000 + MIB - 16, 0x1000 + MIB, 8 * MIB, 9 * MIB - 16, 9 * MIB, 2 ** 40),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(place, fc.integer({ min: 1, max: 64 }), fc.boolean())), (tables) => {
      for (const [gpa, length, moved] of tables) {
        if (moved) move();
        const at = reader.find(gpa, length);
        const region = [0x1000, 8 * MIB].find((start) => gpa >= start && gpa + length <= start + MIB);
        if (region === undefined) expect(at).toBe(-1);
        else {
          expect(at).toBeGreaterThanOrEqual(0);
          const wanted = Array.from(memory.view(gpa, length));
          expect(Array.from({ length }, (_, i) => reader.data.getUint8(at + i))).toEqual(wanted);
        }
      }
    }),
  );
});

test("an event is passed when it lies between the old index and the new one, also around 65,536", () => {
  const index = fc.integer({ min: 0, max: 0xffff });
  fc.assert(
    fc.property(index, fc.integer({ min: 0, max: 0x7fff }), index, (old, count, event) => {
      const passed = Array.from({ length: count }, (_, i) => (old + i) & 0xffff).includes(event);
      expect(passesEvent(event, (old + count) & 0xffff, old)).toBe(passed);
    }),
  );
});
