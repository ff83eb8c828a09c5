import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { FileBlockBackend } from "../../src/block/file-block.ts";

/** No whole number of sectors: the end of the disk lies behind the end of the file. */
const FILE_SIZE = 20_100;
const SIZE = 20_480;

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-vectors-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Buffers of any lengths, also none, that lie apart in one array, as segments of guest memory do. */
function buffers(lengths: readonly number[]): Uint8Array[] {
  const memory = new Uint8Array(lengths.reduce((sum, length) => sum + length + 7, 0));
  let at = 0;
  return lengths.map((length) => memory.subarray(at, (at += length + 7) - 7));
}

const cuts = fc.oneof(
  fc.array(fc.nat(3000), { maxLength: 6 }),
  fc.array(fc.nat(12), { minLength: 1000, maxLength: 1600 }),
);

test("lists of buffers are read and written as one piece", () => {
  const path = join(folder, "vectors.img");
  fc.assert(
    fc.property(cuts, cuts, fc.nat(SIZE), fc.nat(SIZE), (readCuts, writeCuts, readAt, writeAt) => {
      const model = new Uint8Array(SIZE);
      model.set(Uint8Array.from({ length: FILE_SIZE }, (_, i) => i * 7));
      writeFileSync(path, model.subarray(0, FILE_SIZE));
      const disk = new FileBlockBackend(path, { format: "raw" });
      try {
        const sources = buffers(writeCuts);
        let next = 1;
        for (const source of sources) for (let i = 0; i < source.length; i++) source[i] = next++;
        const written = Buffer.concat(sources);
        const offset = Math.max(0, Math.min(writeAt, SIZE - written.length));
        void disk.writev(offset, sources);
        model.set(written, offset);
        const targets = buffers(readCuts);
        const length = targets.reduce((sum, target) => sum + target.length, 0);
        const from = Math.max(0, Math.min(readAt, SIZE - length));
        for (const target of targets) target.fill(0xee);
        void disk.readv(from, targets);
        expect(Buffer.compare(Buffer.concat(targets), model.subarray(from, from + length))).toBe(0);
      } finally {
        disk.close();
      }
      const file = readFileSync(path);
      expect(Buffer.compare(file, model.subarray(0, file.length))).toBe(0);
    }),
    { numRuns: 60 },
  );
});

test("a list that leaves the disk is refused whole", () => {
  const path = join(folder, "small.img");
  writeFileSync(path, new Uint8Array(1024));
  const disk = new FileBlockBackend(path);
  const list = buffers([512, 513]).map((buffer) => buffer.fill(1));
  expect(() => disk.writev(0, list)).toThrow(RangeError);
  expect(() => disk.readv(0, list)).toThrow(RangeError);
  disk.close();
  expect(readFileSync(path).every((byte) => byte === 0)).toBe(true);
});
