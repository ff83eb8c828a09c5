import { execFileSync } from "node:child_process";
import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { constants as system, tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DirectFileIo } from "@virtio/node/block/direct-file-io";
import { FileBlockBackend } from "@virtio/node/block/file-block";
import { threadEngine, type FileEngine } from "@virtio/node/block/file-engine";
import { OpenFile } from "@virtio/node/block/open-file";
import { addressOf } from "@virtio/node/native/address";

const SECTOR = 512;
const BLOCK = 4096;

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-direct-"));
  path = join(folder, "disk");
});
afterEach(() => rmSync(folder, { recursive: true }));

/**
 * Node's threads on a descriptor that answers as a disk of 4096-byte sectors does past the page cache: what does not lie
 * as it wants is EINVAL. Everything takes a while, and never the same.
 */
function strictEngine(strict: number): FileEngine {
  const lies = (buffers: readonly Uint8Array[], offset: number): boolean =>
    offset % BLOCK === 0 &&
    buffers.every((buffer) => buffer.length % BLOCK === 0 && addressOf(buffer) % BLOCK === 0);
  const later = (task: () => void): void => {
    const turns = Math.floor(Math.random() * 4);
    const turn = (left: number): void => void (left === 0 ? task() : setImmediate(turn, left - 1));
    turn(turns);
  };
  const settled = (completion: { settled(result: number): void }): { settled(result: number): void } => ({
    settled: (result) => later(() => completion.settled(result)),
  });
  return {
    ...threadEngine,
    readv: (fd, targets, offset, completion) => {
      if (fd === strict && !lies(targets, offset))
        return later(() => completion.settled(-system.errno.EINVAL));
      later(() => threadEngine.readv(fd, targets, offset, settled(completion)));
    },
    writev: (fd, sources, offset, completion) => {
      if (fd === strict && !lies(sources, offset))
        return later(() => completion.settled(-system.errno.EINVAL));
      later(() => threadEngine.writev(fd, sources, offset, settled(completion)));
    },
  };
}

interface Disk {
  read(offset: number, targets: readonly Uint8Array[]): Promise<void>;
  write(offset: number, sources: readonly Uint8Array[]): Promise<void>;
  close(): void;
}

function openDisk(size: number): Disk {
  const fd = openSync(path, constants.O_RDWR);
  const file = new OpenFile(fd, closeSync);
  const openCached = (): OpenFile => new OpenFile(openSync(path, constants.O_RDWR), closeSync);
  const engine = strictEngine(fd);
  const io = new DirectFileIo({ file, size: () => size, openCached }, engine, {
    memory: BLOCK,
    offset: BLOCK,
  });
  const ended = (start: (done: (error?: unknown) => void) => boolean): Promise<void> =>
    new Promise((resolve, reject) => {
      if (start((error) => (error === undefined ? resolve() : reject(error)))) resolve();
    });
  return {
    read: (offset, targets) => ended((done) => io.readv(offset, targets, { done })),
    write: (offset, sources) => ended((done) => io.writev(offset, sources, { done })),
    close: () => {
      io.close();
      file.close();
    },
  };
}

/** Sectors of the disk, from 1 up to 80. */
const sizes = fc.integer({ min: 1, max: 80 });
const request = fc.record({
  write: fc.boolean(),
  sector: fc.nat(79),
  count: fc.integer({ min: 1, max: 40 }),
  cuts: fc.array(fc.nat(40 * SECTOR), { maxLength: 3 }),
  aligned: fc.boolean(),
});

function buffers(length: number, cuts: readonly number[], aligned: boolean): Uint8Array[] {
  const room = new Uint8Array(length + 2 * BLOCK);
  const skip = (-addressOf(room) & (BLOCK - 1)) + (aligned ? 0 : SECTOR);
  const bytes = room.subarray(skip, skip + length);
  const at = [0, ...(aligned ? [] : cuts.filter((n) => n < length).sort((a, b) => a - b)), length];
  return at.slice(1).map((end, i) => bytes.subarray(at[i], end));
}

test("512-byte requests on a disk of 4096-byte sectors, of any size: what an array holds, and never a longer file", async () => {
  await fc.assert(
    fc.asyncProperty(
      sizes,
      fc.nat(SECTOR - 1),
      fc.array(request, { maxLength: 12 }),
      async (n, odd, steps) => {
        const size = n * SECTOR;
        const model = new Uint8Array(size).map((_, i) => (i >> 9) + 1);
        // A file may end within a sector; the rest of it reads as zeroes.
        model.fill(0, size - odd);
        writeFileSync(path, model.subarray(0, size - odd));
        const disk = openDisk(size);
        for (const [i, { write, sector, count, cuts, aligned }] of steps.entries()) {
          const offset = (sector % n) * SECTOR;
          const length = Math.min(count, n - (sector % n)) * SECTOR;
          const list = buffers(length, cuts, aligned);
          if (write) {
            for (const buffer of list) buffer.fill(100 + i);
            await disk.write(offset, list);
            model.fill(100 + i, offset, offset + length);
          } else {
            await disk.read(offset, list);
            expect(Buffer.compare(Buffer.concat(list), model.subarray(offset, offset + length))).toBe(0);
          }
        }
        disk.close();
        const file = readFileSync(path);
        expect(file.length).toBeLessThanOrEqual(size);
        expect(Buffer.compare(file, model.subarray(0, file.length))).toBe(0);
      },
    ),
    { numRuns: 60 },
  );
});

test("sectors that are written at the same time are all there, though several share a sector of the host's", async () => {
  const n = 85;
  const part = fc.record({ count: fc.integer({ min: 1, max: 19 }), aligned: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(
      fc.array(part, { minLength: 10, maxLength: 40 }),
      fc.infiniteStream(fc.nat()),
      async (parts, order) => {
        writeFileSync(path, new Uint8Array(n * SECTOR));
        const disk = openDisk(n * SECTOR);
        // The disk is cut into parts, which are written in any order, all under way at once.
        const writes: { offset: number; list: Uint8Array[]; at: number }[] = [];
        const model = new Uint8Array(n * SECTOR);
        let sector = 0;
        for (const [i, { count, aligned }] of parts.entries()) {
          const length = Math.min(count, n - sector) * SECTOR;
          if (length === 0) break;
          const list = buffers(length, [SECTOR], aligned);
          for (const buffer of list) buffer.fill(i + 1);
          model.fill(i + 1, sector * SECTOR, sector * SECTOR + length);
          writes.push({ offset: sector * SECTOR, list, at: order.next().value as number });
          sector += length / SECTOR;
        }
        writes.sort((a, b) => a.at - b.at);
        await Promise.all(writes.map(({ offset, list }) => disk.write(offset, list)));
        disk.close();
        expect(Buffer.compare(readFileSync(path), model)).toBe(0);
      },
    ),
    { numRuns: 60 },
  );
});

test("a write that fails in the middle lets those behind it go on", async () => {
  writeFileSync(path, new Uint8Array(4 * BLOCK));
  const fd = openSync(path, constants.O_RDWR);
  const file = new OpenFile(fd, closeSync);
  let failing = true;
  const engine: FileEngine = {
    ...threadEngine,
    writev: (target, sources, offset, completion) => {
      if (failing) {
        failing = false;
        return void setImmediate(() => completion.settled(-system.errno.EIO));
      }
      threadEngine.writev(target, sources, offset, completion);
    },
  };
  const openCached = (): OpenFile => new OpenFile(openSync(path, constants.O_RDWR), closeSync);
  const io = new DirectFileIo({ file, size: () => 4 * BLOCK, openCached }, engine, {
    memory: 512,
    offset: BLOCK,
  });
  const errors: unknown[] = [];
  const write = (offset: number, length: number): Promise<void> =>
    new Promise((resolve) => {
      const done = (error?: unknown): void => {
        errors.push(error);
        resolve();
      };
      if (io.writev(offset, buffers(length, [], false), { done })) done();
    });
  await Promise.all([write(SECTOR, SECTOR), write(0, BLOCK), write(2 * SECTOR, SECTOR)]);
  expect(String(errors[0])).toContain("write: EIO");
  expect(errors.slice(1)).toEqual([undefined, undefined]);
  file.close();
});

const loop = loopDevice();
const onLoop =
  "a file system on a disk of 4096-byte sectors: O_DIRECT keeps 512, also at the end of an odd image";
test.skipIf(loop !== undefined)(
  loop === undefined ? onLoop : `${onLoop} (needs root and loop devices: ${loop})`,
  async () => {
    const mounted = mountSectors4096();
    try {
      const image = join(mounted.folder, "image");
      const sectors = 83;
      const model = new Uint8Array(sectors * SECTOR).map((_, i) => i >> 9);
      writeFileSync(image, model);
      for (const cache of ["none", "directsync"] as const) {
        const disk = new FileBlockBackend(image, { cache, format: "raw" });
        expect([disk.size, disk.physicalBlockSize]).toEqual([sectors * SECTOR, BLOCK]);
        const writes = [1, 2, 3, 40, 80, 81, 82].map(async (sector) => {
          const bytes = new Uint8Array(SECTOR).fill(sector + cache.length);
          model.set(bytes, sector * SECTOR);
          await disk.write(sector * SECTOR, bytes);
        });
        await Promise.all(writes);
        await disk.writeZeroes(5 * SECTOR, 20 * SECTOR, false);
        model.fill(0, 5 * SECTOR, 25 * SECTOR);
        await disk.flush();
        const target = new Uint8Array(model.length);
        await disk.read(0, target);
        expect(Buffer.compare(target, model)).toBe(0);
        disk.close();
        expect(Buffer.compare(readFileSync(image), model)).toBe(0);
      }
      // An image that is cut to a byte reads as zeroes behind its end.
      truncateSync(image, 100);
      const disk = new FileBlockBackend(image, { cache: "none", format: "raw" });
      const sector = new Uint8Array(SECTOR).fill(9);
      await disk.read(0, sector);
      expect(Buffer.compare(sector.subarray(0, 100), model.subarray(0, 100))).toBe(0);
      expect(sector.subarray(100).every((byte) => byte === 0)).toBe(true);
      disk.close();
    } finally {
      mounted.close();
    }
  },
);

/** Why there is none, or undefined. */
function loopDevice(): string | undefined {
  const probe = mkdtempSync(join(tmpdir(), "virtio-loop-"));
  const file = join(probe, "disk");
  try {
    writeFileSync(file, new Uint8Array(1 << 20));
    const device = run("losetup", "-f", "--show", "--sector-size", "4096", file);
    run("losetup", "-d", device);
    return undefined;
  } catch (error) {
    return String(error).split("\n")[0];
  } finally {
    rmSync(probe, { recursive: true });
  }
}

function mountSectors4096(): { folder: string; close(): void } {
  const file = join(folder, "host-disk");
  const mount = join(folder, "mount");
  mkdirSync(mount);
  writeFileSync(file, "");
  truncateSync(file, 64 << 20);
  const device = run("losetup", "-f", "--show", "--sector-size", "4096", file);
  try {
    run("mkfs.ext4", "-q", "-b", "4096", device);
    run("mount", device, mount);
  } catch (error) {
    run("losetup", "-d", device);
    throw error;
  }
  return {
    folder: mount,
    close: () => {
      run("umount", mount);
      run("losetup", "-d", device);
    },
  };
}

function run(program: string, ...argv: string[]): string {
  const PATH = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;
  return execFileSync(program, argv, {
    encoding: "utf8",
    env: { ...process.env, PATH },
    stdio: "pipe",
  }).trim();
}
