import { closeSync, constants, ftruncateSync, lstatSync, mkdtempSync, openSync, readdirSync } from "node:fs";
import { mkdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { execFileSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { FileBlockBackend } from "../../src/block/file-block.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-file-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function image(name: string, size: number): string {
  const path = join(folder, name);
  const fd = openSync(path, "w");
  ftruncateSync(fd, size);
  closeSync(fd);
  return path;
}

const SIZE = 64 * 1024;
const range = fc
  .tuple(fc.integer({ min: 0, max: SIZE }), fc.integer({ min: 0, max: SIZE }))
  .map(([a, b]) => ({ offset: Math.min(a, b), length: Math.abs(a - b) }));
const operation = fc.oneof(
  fc.record({ kind: fc.constant("write" as const), at: range, value: fc.integer({ min: 1, max: 255 }) }),
  fc.record({ kind: fc.constant("zero" as const), at: range, unmap: fc.boolean() }),
  fc.record({ kind: fc.constant("read" as const), at: range }),
  fc.record({ kind: fc.constant("reopen" as const) }),
);

test("any history of writes, zeroes and reads equals an array, also after opening the file again", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 30 }), async (history) => {
      const path = image("model.img", SIZE);
      const model = new Uint8Array(SIZE);
      let disk = new FileBlockBackend(path);
      for (const op of history) {
        if (op.kind === "write") {
          const bytes = new Uint8Array(op.at.length).fill(op.value);
          void disk.write(op.at.offset, bytes);
          model.set(bytes, op.at.offset);
        } else if (op.kind === "zero") {
          void disk.writeZeroes(op.at.offset, op.at.length, op.unmap);
          model.fill(0, op.at.offset, op.at.offset + op.at.length);
        } else if (op.kind === "read") {
          const target = new Uint8Array(op.at.length).fill(0xee);
          void disk.read(op.at.offset, target);
          expect(Buffer.compare(target, model.subarray(op.at.offset, op.at.offset + op.at.length))).toBe(0);
        } else {
          await disk.flush();
          disk.close();
          disk = new FileBlockBackend(path);
        }
      }
      disk.close();
      expect(Buffer.compare(readFileSync(path), model)).toBe(0);
    }),
    { numRuns: 60 },
  );
});

test("a discard gives storage back and leaves the rest alone", () => {
  const path = join(folder, "discard.img");
  writeFileSync(path, new Uint8Array(1 << 20).fill(7));
  const disk = new FileBlockBackend(path);
  const before = statSync(path).blocks;
  expect(disk.discard).toBeDefined();
  void disk.discard?.(65536, 1 << 19);
  expect(statSync(path).blocks).toBeLessThanOrEqual(before - 1000);
  expect(disk.size).toBe(1 << 20);
  const target = new Uint8Array(512);
  for (const offset of [65536 - 512, 65536 + (1 << 19)]) {
    void disk.read(offset, target);
    expect(target).toEqual(new Uint8Array(512).fill(7));
  }
  disk.close();
  const without = new FileBlockBackend(path, { discard: false });
  expect(without.discard).toBeUndefined();
  without.close();
});

test("a size that is no multiple of a sector is rounded up and the last sector is whole", () => {
  const path = join(folder, "odd.img");
  writeFileSync(path, new Uint8Array(700).fill(9));
  const disk = new FileBlockBackend(path);
  expect(disk.size).toBe(1024);
  const sector = new Uint8Array(512).fill(1);
  void disk.read(512, sector);
  expect(sector.subarray(0, 188)).toEqual(new Uint8Array(188).fill(9));
  expect(sector.subarray(188)).toEqual(new Uint8Array(324));
  void disk.write(512, new Uint8Array(512).fill(3));
  disk.close();
  expect(statSync(path).size).toBe(1024);
});

test("nothing outside of the disk is read or written", () => {
  const disk = new FileBlockBackend(image("bounds.img", 4096));
  const bytes = new Uint8Array(512);
  for (const offset of [-1, 3585, 4096, 2 ** 53, Number.NaN, Infinity]) {
    expect(() => disk.read(offset, bytes)).toThrow(RangeError);
    expect(() => disk.write(offset, bytes)).toThrow(RangeError);
    expect(() => disk.writeZeroes(offset, 512, true)).toThrow(RangeError);
    expect(() => disk.discard?.(offset, 512)).toThrow(RangeError);
  }
  disk.close();
});

test("a read-only disk refuses every change and works on a file without the right to write", () => {
  const disk = new FileBlockBackend(image("ro.img", 4096), { readOnly: true });
  expect(() => disk.write(0, new Uint8Array(512))).toThrow("read-only");
  expect(() => disk.writeZeroes(0, 512, false)).toThrow("read-only");
  expect(disk.discard).toBeUndefined();
  expect(disk.flush()).toBeUndefined();
  disk.close();
});

test("a disk that grew or shrank says so once", () => {
  const path = image("grow.img", 4096);
  const disk = new FileBlockBackend(path);
  let calls = 0;
  disk.onResize = () => calls++;
  disk.refresh();
  expect(calls).toBe(0);
  image("grow.img", 8192);
  disk.refresh();
  expect([calls, disk.size]).toEqual([1, 8192]);
  disk.close();
});

test("errors name the file and what is wrong with it", () => {
  const fifo = join(folder, "fifo");
  execFileSync("mkfifo", [fifo]);
  mkdirSync(join(folder, "folder.img"));
  const cases: [string, RegExp][] = [
    [join(folder, "missing.img"), /disk '.*missing\.img': no such file/],
    [join(folder, "folder.img"), /folder\.img': a directory/],
    [fifo, /fifo': not a regular file or block device/],
    ["/dev/null", /not a regular file or block device/],
  ];
  for (const [path, text] of cases) expect(() => new FileBlockBackend(path)).toThrow(text);
});

test("images in other formats are refused unless the format is said to be raw", () => {
  const starts: [string, Uint8Array][] = [
    ["qcow2", Uint8Array.of(0x51, 0x46, 0x49, 0xfb)],
    ["vmdk", Buffer.from("KDMV")],
    ["vdi", Buffer.concat([Buffer.alloc(64, 60), Uint8Array.of(0x7f, 0x10, 0xda, 0xbe)])],
  ];
  for (const [format, start] of starts) {
    const path = join(folder, `foreign.${format}`);
    writeFileSync(path, start);
    expect(() => new FileBlockBackend(path)).toThrow(`a ${format} image; only raw images work`);
    const disk = new FileBlockBackend(path, { format: "raw" });
    disk.close();
  }
});

test("a disk has one writer or many readers", () => {
  const path = image("lock.img", 4096);
  const writer = new FileBlockBackend(path);
  expect(() => new FileBlockBackend(path)).toThrow("in use");
  expect(() => new FileBlockBackend(path, { readOnly: true })).toThrow("in use");
  new FileBlockBackend(path, { locking: false }).close();
  writer.close();
  const readers = [1, 2].map(() => new FileBlockBackend(path, { readOnly: true }));
  expect(() => new FileBlockBackend(path)).toThrow("in use");
  for (const reader of readers) reader.close();
  new FileBlockBackend(path).close();
});

test("a disk that is closed while it flushes closes its file behind the flush", async () => {
  const disk = new FileBlockBackend(image("late.img", 4096));
  const flushes = [disk.flush(), disk.flush()];
  disk.close();
  for (const flush of flushes) await flush;
  expect(() => disk.read(0, new Uint8Array(512))).toThrow();
});

/** The flags of this process's open file at `path`. */
function openFlags(path: string): number {
  const fd = readdirSync("/proc/self/fd").find(
    (entry) =>
      lstatSync(`/proc/self/fd/${entry}`, { throwIfNoEntry: false }) !== undefined && target(entry) === path,
  );
  return parseInt(/flags:\s*([0-7]+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1] ?? "", 8);
}

function target(fd: string): string {
  return readlinkSync(`/proc/self/fd/${fd}`);
}

test.runIf(process.platform === "linux")("cache=writethrough makes every write durable by itself", () => {
  const path = image("through.img", 4096);
  const durable = new FileBlockBackend(path, { cache: "writethrough" });
  expect(openFlags(path) & constants.O_DSYNC).toBe(constants.O_DSYNC);
  durable.close();
  const plain = new FileBlockBackend(path);
  expect(openFlags(path) & constants.O_DSYNC).toBe(0);
  plain.close();
});

test("cache=unsafe makes a flush do nothing", () => {
  const unsafe = new FileBlockBackend(image("unsafe.img", 4096), { cache: "unsafe" });
  expect(unsafe.flush()).toBeUndefined();
  unsafe.close();
});
