import fc from "fast-check";
import { expect, test } from "vitest";
import type { FileHandle, FileLock } from "../../src/backends/file-system.ts";
import { LockTable, MAX_LOCKS } from "../../src/backends/lock-table.ts";

const SIZE = 24;
const handles: FileHandle[] = [0, 1, 2].map(() => ({ node: { id: 5, kind: 0, version: 0 } }));
const owner = (n: number): FileLock["owner"] => ({ key: `o${n}`, process: n, client: "" });

const step = fc.record({
  what: fc.constantFrom("lock", "lock", "unlock", "test", "close"),
  exclusive: fc.boolean(),
  who: fc.nat(2),
  handle: fc.nat(2),
  start: fc.nat(SIZE - 1),
  length: fc.nat(SIZE),
});

test("does what an array of bytes with their lockers does", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const table = new LockTable();
      /** By owner and byte: undefined, or how and through which handle it is locked. The last byte is "to the end". */
      const model = [0, 1, 2].map(
        () => new Array<{ exclusive: boolean; handle: number } | undefined>(SIZE + 1),
      );
      for (const { what, exclusive, who, handle: number, start, length } of steps) {
        const handle = handles[number];
        const mine = model[who];
        if (handle === undefined || mine === undefined) continue;
        const end = length === 0 ? SIZE + 1 : Math.min(SIZE, start + length);
        const inTheWay = model.some((bytes, other) => {
          if (other === who) return false;
          return bytes.some((byte, at) => {
            return byte !== undefined && at >= start && at < end && (byte.exclusive || exclusive);
          });
        });
        const lock = { exclusive, start, length: length === 0 ? 0 : end - start, owner: owner(who) };
        if (what === "lock") {
          expect(table.lock(handle, lock)).toBe(!inTheWay);
          if (!inTheWay) mine.fill({ exclusive, handle: number }, start, end);
        } else if (what === "unlock") {
          table.unlock(handle, lock.owner, start, lock.length);
          mine.fill(undefined, start, end);
        } else if (what === "test") {
          const found = table.test(handle, lock);
          expect(found !== undefined).toBe(inTheWay);
          if (found !== undefined) {
            const first = model[found.owner.process]?.[found.start];
            expect(first?.exclusive).toBe(found.exclusive);
          }
        } else {
          table.closed(handle);
          for (const bytes of model) {
            for (let at = 0; at <= SIZE; at++) if (bytes[at]?.handle === number) bytes[at] = undefined;
          }
        }
      }
      for (const handle of handles) table.closed(handle);
      expect(
        table.test(
          { node: { id: 5, kind: 0, version: 0 } },
          { exclusive: true, start: 0, length: 0, owner: owner(9) },
        ),
      ).toBe(undefined);
    }),
    { numRuns: 1000 },
  );
});

test("is bounded", () => {
  const table = new LockTable();
  const [handle] = handles;
  if (handle === undefined) throw new Error("no handle");
  let taken = 0;
  expect(() => {
    for (let i = 0; i <= MAX_LOCKS; i++, taken++) {
      // Many files: a long list of one file would be slow to search here.
      const other = { node: { id: i, kind: 0, version: 0 } };
      table.lock(other, { exclusive: true, start: 0, length: 1, owner: owner(1) });
    }
  }).toThrow("ENOLCK");
  expect(taken).toBeGreaterThan(MAX_LOCKS - 3);
});
