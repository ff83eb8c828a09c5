import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { FileBlockBackend, type FileBlockOptions } from "@virtio/node/block/file-block";
import {
  threadEngine,
  UringEngine,
  type FileCompletion,
  type FileEngine,
} from "@virtio/node/block/file-engine";
import { IoUring } from "@virtio/node/native/io-uring";
import { libc } from "@virtio/node/native/libc";
import type { Poller } from "@virtio/node/native/poller";

const { EBADF, EINTR, ENOSPC } = constants.errno;
const SECTOR = 512;
const SECTORS = 300;
const SIZE = SECTORS * SECTOR;

/** What Node's own loop does for a poller: asks now and then. */
const slowPoller: Poller = {
  watch: (_fd, ready) => {
    const timer = setInterval(ready, 1);
    return { stop: () => clearInterval(timer) };
  },
  poll: (task) => slowPoller.watch(-1, task),
};

function result(start: (completion: FileCompletion) => void): Promise<number> {
  return new Promise((resolve) => start({ settled: resolve }));
}

function hasUring(): boolean {
  try {
    new IoUring(4).close();
    return true;
  } catch {
    return false;
  }
}

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-engines-"));
  path = join(folder, "disk");
});
afterEach(() => rmSync(folder, { recursive: true }));

const contents = (): Uint8Array => Uint8Array.from({ length: SIZE }, (_, i) => (i >>> 9) % 251);

const uring = hasUring();
const NEEDS_URING = "(needs io_uring, which this kernel or container does not allow)";
const engines: { name: string; possible: boolean; make: () => FileEngine }[] = [
  { name: "threads", possible: true, make: () => threadEngine },
  {
    name: uring ? "io_uring" : `io_uring ${NEEDS_URING}`,
    possible: uring,
    make: () => new UringEngine(slowPoller),
  },
];

const ways: { name: string; options: Omit<FileBlockOptions, "engine"> }[] = [
  { name: "page cache", options: { mayWait: true } },
  { name: "page cache, never waiting", options: { mayWait: false } },
  { name: "mapped", options: { mapped: true } },
  { name: "O_DIRECT", options: { cache: "none" } },
  { name: "O_DIRECT and durable", options: { cache: "directsync" } },
];

const step = fc.record({
  kind: fc.constantFrom("read", "write", "readv", "writev", "zero", "unmap", "discard", "flush"),
  sector: fc.nat(SECTORS - 1),
  count: fc.integer({ min: 1, max: 64 }),
  /** Where buffers are cut, in bytes: any framing. */
  cuts: fc.array(fc.nat(64 * SECTOR), { maxLength: 4 }),
  /** How far the buffer lies from where it should. */
  skew: fc.constantFrom(0, 1, 512),
});

function cut(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const at = [0, ...cuts.filter((n) => n < bytes.length).sort((a, b) => a - b), bytes.length];
  return at.slice(1).map((end, i) => bytes.subarray(at[i], end));
}

describe.each(engines)("$name", ({ possible, make }) => {
  const check = possible ? test : test.skip;

  check.each(ways)("$name: holds what a plain array holds, however buffers are cut", async ({ options }) => {
    const engine = make();
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        writeFileSync(path, contents());
        const model = contents();
        const disk = new FileBlockBackend(path, { ...options, engine, format: "raw", locking: false });
        for (const [i, { kind, sector, count, cuts, skew }] of steps.entries()) {
          const offset = sector * SECTOR;
          const length = Math.min(count, SECTORS - sector) * SECTOR;
          const buffer = new Uint8Array(length + skew).subarray(skew);
          if (kind === "read" || kind === "readv") {
            if (kind === "read") await disk.read(offset, buffer);
            else await disk.readv(offset, cut(buffer, cuts));
            expect(Buffer.compare(buffer, model.subarray(offset, offset + length))).toBe(0);
          } else if (kind === "write" || kind === "writev") {
            buffer.fill(i + 1);
            if (kind === "write") await disk.write(offset, buffer);
            else await disk.writev(offset, cut(buffer, cuts));
            model.set(buffer, offset);
          } else if (kind === "flush") await disk.flush();
          else if (kind === "discard") {
            // Unspecified afterwards; what a hole holds is known here.
            await disk.discard?.(offset, length);
            if (disk.discard !== undefined) await disk.writeZeroes(offset, length, false);
            if (disk.discard !== undefined) model.fill(0, offset, offset + length);
          } else {
            await disk.writeZeroes(offset, length, kind === "unmap");
            model.fill(0, offset, offset + length);
          }
        }
        disk.close();
        expect(Buffer.compare(readFileSync(path), model)).toBe(0);
      }),
      { numRuns: 20 },
    );
    engine.close();
  });

  check(
    "many at once, more than the engine has room for; closed in the middle, the file stays open for them",
    async () => {
      writeFileSync(path, contents());
      const engine = make();
      const disk = new FileBlockBackend(path, { cache: "none", engine, format: "raw" });
      const reads = Array.from({ length: 1500 }, async (_, i) => {
        const target = new Uint8Array(SECTOR);
        await disk.read((i % SECTORS) * SECTOR, target);
        return target[0] === (i % SECTORS) % 251;
      });
      disk.close();
      expect(() => disk.read(0, new Uint8Array(SECTOR))).toThrow(/is closed/);
      expect((await Promise.all(reads)).every(Boolean)).toBe(true);
      engine.close();
    },
  );

  check("what the system refuses comes with its errno, or is a rejection that names the call", async () => {
    const engine = make();
    for (const buffers of [[new Uint8Array(SECTOR)], [new Uint8Array(SECTOR), new Uint8Array(SECTOR)]]) {
      expect(await result((completion) => engine.readv(9999, buffers, 0, completion))).toBe(-EBADF);
      expect(await result((completion) => engine.writev(9999, buffers, 0, completion))).toBe(-EBADF);
    }
    await expect(engine.sync(9999)).rejects.toThrow(/EBADF/);
    expect(await engine.allocate(9999, 0, 0, 512)).toBe(false);
    engine.close();
  });
});

const again = "a request that the system would not take is handed over again, though nothing else happens";
test.skipIf(!uring)(uring ? again : `${again} ${NEEDS_URING}`, async () => {
  writeFileSync(path, contents());
  const submit = vi.spyOn(IoUring.prototype, "submit").mockReturnValueOnce(false).mockReturnValueOnce(false);
  // It tells of nothing; what is in the page cache is done as soon as it is submitted.
  const engine = new UringEngine({ ...slowPoller, watch: () => ({ stop: () => undefined }) });
  const fd = openSync(path, "r");
  const target = new Uint8Array(SECTOR);
  expect(await result((completion) => engine.readv(fd, [target], 7 * SECTOR, completion))).toBe(SECTOR);
  expect(target[0]).toBe(7);
  expect(submit.mock.calls.length).toBeGreaterThan(2);
  submit.mockRestore();
  engine.close();
  closeSync(fd);
});

const once = "a request that could not be handed over when it began has begun all the same, and ends once";
test.skipIf(!uring)(uring ? once : `${once} ${NEEDS_URING}`, async () => {
  writeFileSync(path, contents());
  const submit = vi.spyOn(IoUring.prototype, "submit").mockImplementationOnce(() => {
    throw new Error("of io_uring_enter");
  });
  const engine = new UringEngine(slowPoller);
  const disk = new FileBlockBackend(path, { cache: "none", engine, format: "raw" });
  const target = new Uint8Array(SECTOR);
  const ends: unknown[] = [];
  const ended = new Promise<void>((resolve) => {
    const done = (error?: unknown): void => {
      ends.push(error);
      resolve();
    };
    expect(disk.startRead(7 * SECTOR, [target], { done })).toBe(false);
  });
  await ended;
  expect([ends, target[0]]).toEqual([[undefined], 7]);
  submit.mockRestore();
  disk.close();
  engine.close();
});

test("an engine that moves a little at a time, nothing, or fails in the middle", async () => {
  writeFileSync(path, contents());
  let step = 1024;
  const little: FileEngine = {
    ...threadEngine,
    readv: (fd, targets, offset, completion) =>
      threadEngine.readv(fd, first(targets, step), offset, completion),
    writev: (fd, sources, offset, completion) => {
      if (step === 0) return void setImmediate(() => completion.settled(0));
      if (step < 0) return void setImmediate(() => completion.settled(step));
      threadEngine.writev(fd, first(sources, step), offset, completion);
    },
  };
  const disk = new FileBlockBackend(path, { cache: "none", engine: little, format: "raw" });
  const buffer = new Uint8Array(8 * SECTOR);
  await disk.readv(3 * SECTOR, cut(buffer, [100, 100, 1000, 2000]));
  expect(Buffer.compare(buffer, contents().subarray(3 * SECTOR, 11 * SECTOR))).toBe(0);
  disk.close();
  const cached = new FileBlockBackend(path, { engine: little, format: "raw", mayWait: false });
  step = 700;
  await cached.writev(SECTOR, cut(buffer, [100, 100, 1000, 2000]));
  expect(Buffer.compare(readFileSync(path).subarray(SECTOR, 9 * SECTOR), buffer)).toBe(0);
  step = 0;
  await expect(cached.write(0, buffer)).rejects.toThrow("write: EIO");
  step = -ENOSPC;
  await expect(cached.write(0, buffer)).rejects.toThrow("write: ENOSPC");
  cached.close();
});

test("a write into the page cache that the system cuts short goes on, and one that it refuses says why", async () => {
  writeFileSync(path, contents());
  const native = libc("a test");
  const disk = new FileBlockBackend(path, { engine: threadEngine, format: "raw" });
  const buffer = Uint8Array.from({ length: 4 * SECTOR }, (_, i) => i % 250);
  const pwritev2 = native.pwritev2.bind(native);
  const write = vi.spyOn(native, "pwritev2");
  write.mockImplementationOnce((fd, vectors, _count, offset, flags) =>
    pwritev2(fd, vectors, 2, offset, flags),
  );
  await disk.writev(SECTOR, cut(buffer, [100, 700, 1500]));
  expect(write).toHaveBeenCalledOnce();
  expect(Buffer.compare(readFileSync(path).subarray(SECTOR, 5 * SECTOR), buffer)).toBe(0);
  // A signal, on file systems where it can interrupt: nothing was written yet.
  write.mockReturnValueOnce(-1);
  const errno = vi.spyOn(native, "errno").mockReturnValueOnce(EINTR);
  await disk.writev(SECTOR, cut(buffer.fill(9), [100, 700]));
  expect(
    readFileSync(path)
      .subarray(SECTOR, 5 * SECTOR)
      .every((byte) => byte === 9),
  ).toBe(true);
  errno.mockRestore();
  // No such descriptor.
  write.mockImplementationOnce((_fd, vectors, count, offset, flags) =>
    pwritev2(9999, vectors, count, offset, flags),
  );
  expect(() => disk.write(0, buffer)).toThrow("write: EBADF");
  write.mockRestore();
  disk.close();
});

/** The start of a list of buffers. */
function first(buffers: readonly Uint8Array[], length: number): Uint8Array[] {
  const taken: Uint8Array[] = [];
  let left = length;
  for (const buffer of buffers) {
    if (left <= 0) break;
    taken.push(buffer.subarray(0, left));
    left -= buffer.length;
  }
  return taken;
}

test("a mapped disk that grows, and is cut shorter, is read as it is", async () => {
  writeFileSync(path, contents());
  const disk = new FileBlockBackend(path, { engine: threadEngine, mapped: true, format: "raw" });
  const target = new Uint8Array(SIZE);
  await disk.read(0, target);
  truncateSync(path, 2 * SIZE);
  disk.refresh();
  const behind = new Uint8Array(SECTOR).fill(9);
  await disk.read(SIZE + SECTOR, behind);
  expect(behind).toEqual(new Uint8Array(SECTOR));
  truncateSync(path, SECTOR);
  // What it thinks of the file is at most so old.
  await new Promise((resolve) => setTimeout(resolve, 150));
  await disk.read(0, target.subarray(0, 2 * SECTOR));
  expect(target.subarray(0, 2 * SECTOR)).toEqual(Uint8Array.from({ length: 2 * SECTOR }, () => 0));
  expect(statSync(path).size).toBe(SECTOR);
  disk.close();
});

test("O_DIRECT where there is none is an error that says so", () => {
  const options = { cache: "none", format: "raw", readOnly: true } as const;
  expect(() => new FileBlockBackend("/proc/version", options)).toThrow(
    "disk '/proc/version': cache=none and directsync are not possible: its file system cannot",
  );
});
