import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { NbdBlockBackend, type NbdBlockOptions } from "../../src/nbd/nbd-block.ts";
import {
  nbdkit,
  needsNbdkit,
  needsQemuNbd,
  qemuNbd,
  RealServer,
  startNbdkit,
  startQemuNbd,
} from "./servers.ts";

const SIZE = 4 << 20;
const SECTORS = SIZE / 512;

let folder: string;
let file: string;
let socket: string;
let server: RealServer | undefined;
let disk: NbdBlockBackend | undefined;
let errors: string[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-nbd-"));
  file = join(folder, "disk.img");
  socket = join(folder, "socket");
  errors = [];
  const content = new Uint8Array(SIZE);
  content.forEach((_, i) => (content[i] = (i >> 9) + i));
  writeFileSync(file, content);
});
afterEach(async () => {
  await disk?.close();
  await server?.kill();
  [disk, server] = [undefined, undefined];
  rmSync(folder, { recursive: true });
});

async function open(options: NbdBlockOptions = {}, exportName = ""): Promise<NbdBlockBackend> {
  disk = await NbdBlockBackend.open(
    { address: { path: socket }, exportName },
    { openTimeout: 300, onError: ({ message }) => errors.push(message), ...options },
  );
  return disk;
}

const step = fc.record({
  kind: fc.constantFrom("read", "write", "zero", "unmap", "discard", "flush"),
  sector: fc.nat(SECTORS - 1),
  count: fc.oneof(fc.nat(16), fc.nat(3000)),
});

/** Steps are begun together as long as they touch nothing of each other, as a driver's requests are. */
async function checkModel(some: NbdBlockBackend): Promise<void> {
  const model = new Uint8Array(SIZE);
  await some.read(0, model);
  expect(Buffer.compare(model, readFileSync(file))).toBe(0);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      let jobs: Promise<void>[] = [];
      let taken = new Uint8Array(SECTORS);
      for (const [i, { kind, sector, count }] of steps.entries()) {
        const end = Math.min(SECTORS, sector + count);
        if (taken.subarray(sector, end).includes(1)) {
          await Promise.all(jobs);
          [jobs, taken] = [[], new Uint8Array(SECTORS)];
        }
        taken.fill(1, sector, end);
        const [offset, length] = [sector * 512, (end - sector) * 512];
        const part = model.subarray(offset, offset + length);
        if (kind === "read") jobs.push(same(some, offset, part));
        else if (kind === "flush") jobs.push(some.flush());
        else if (kind === "discard") jobs.push(discarded(some, offset, part));
        else {
          part.fill(kind === "write" ? i + 1 : 0);
          if (kind === "write") jobs.push(some.writev(offset, cutUp(part.slice(), i)));
          else jobs.push(some.writeZeroes?.(offset, length, kind === "unmap") ?? some.write(offset, part));
        }
      }
      await Promise.all(jobs);
    }),
    { numRuns: 25 },
  );
  await some.flush();
  expect(Buffer.compare(model, readFileSync(file))).toBe(0);
}

/** Buffers that are these bytes together, as a guest's pages are: of all sizes, and one or none now and then. */
function cutUp(bytes: Uint8Array, seed: number): Uint8Array[] {
  const sizes = [4096, 1, 0, 511, 70_000, 512, 8192, 200_000];
  if (seed % 3 === 0) return [bytes];
  const pieces: Uint8Array[] = [];
  for (let at = 0, i = seed; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] ?? 0;
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return pieces;
}

async function same(some: NbdBlockBackend, offset: number, part: Uint8Array): Promise<void> {
  const target = new Uint8Array(part.length).fill(0xee);
  await some.readv(offset, cutUp(target, offset / 512));
  expect(Buffer.compare(target, part)).toBe(0);
}

/** Anything may be there afterwards, though always the same. */
async function discarded(some: NbdBlockBackend, offset: number, part: Uint8Array): Promise<void> {
  await some.discard?.(offset, part.length);
  await some.read(offset, part);
}

describe.skipIf(qemuNbd === undefined)("qemu-nbd", () => {
  test.each([1, 4])(needsQemuNbd("what is done is in the file, %i connections"), async (connections) => {
    server = startQemuNbd(socket, file, "-e", "8");
    const some = await open({ connections });
    expect(some).toMatchObject({ size: SIZE, physicalBlockSize: 512, readOnly: false, rotational: false });
    await checkModel(some);
    expect(errors).toEqual([]);
  });

  test(needsQemuNbd("more connections than the server takes are no error"), async () => {
    server = startQemuNbd(socket, file, "-e", "2");
    const some = await open({ connections: 8 });
    await checkModel(some);
    expect(errors).toEqual([]);
  });

  test(needsQemuNbd("a name with every kind of character; one that is not there is refused"), async () => {
    const name = "/dïsk one%:?#&=,";
    server = startQemuNbd(socket, file, "-x", name, "-e", "2");
    await open({}, name);
    await disk?.close();
    const uri = `nbd+unix:///%2Fd%C3%AFsk%20one%25:%3F%23&=,?socket=${socket}`;
    disk = await NbdBlockBackend.open(uri);
    expect(disk.size).toBe(SIZE);
    await expect(NbdBlockBackend.open(`nbd+unix:///other?socket=${socket}`)).rejects.toThrow(
      /it has no such export \(".*other/,
    );
  });

  test(needsQemuNbd("a read-only export is a read-only disk"), async () => {
    server = startQemuNbd(socket, file, "-r");
    const some = await open();
    expect(some.readOnly).toBe(true);
    expect(some.discard).toBeUndefined();
    expect(some.writeZeroes).toBeUndefined();
    await expect(some.write(0, new Uint8Array(512))).rejects.toThrow("read-only");
    await some.flush();
  });

  test(needsQemuNbd("a sparse file, whose holes come as holes"), async () => {
    truncateSync(file, 0);
    truncateSync(file, SIZE);
    server = startQemuNbd(socket, file);
    const some = await open();
    await some.write(1 << 20, new Uint8Array(4096).fill(5));
    const target = new Uint8Array(SIZE).fill(0xee);
    await some.read(0, target);
    expect(Buffer.compare(target, readFileSync(file))).toBe(0);
  });
});

describe.skipIf(nbdkit === undefined)("nbdkit", () => {
  test.each([
    ["", 1],
    ["", 4],
    ["--no-sr", 1],
    ["--mask-handshake=0", 1],
  ])(needsNbdkit("what is done is in the file, %s %i connections"), async (option, connections) => {
    const more = option === "" ? [] : [option];
    server = startNbdkit(socket, ...more, "file", file);
    await checkModel(await open({ connections }));
    expect(errors).toEqual([]);
  });

  // Of this handshake nbdkit 1.32 forgets the flags it sent, and takes nothing but reads and writes.
  test(needsNbdkit("the oldest handshake"), async () => {
    server = startNbdkit(socket, "--oldstyle", "file", file);
    const some = await open();
    const bytes = new Uint8Array(100 * 512).map((_, i) => i % 247);
    await some.write(1024, bytes);
    await same(some, 1024, bytes);
    expect(Buffer.compare(readFileSync(file).subarray(1024, 1024 + bytes.length), bytes)).toBe(0);
    await expect(NbdBlockBackend.open(`nbd+unix:///name?socket=${socket}`)).rejects.toThrow(
      "too old for names",
    );
  });

  test(needsNbdkit("over TCP"), async () => {
    const port = await freePort();
    const argv = ["-f", "-p", `${port}`, "-i", "127.0.0.1", "file", file];
    server = new RealServer(nbdkit ?? "nbdkit", argv);
    disk = await NbdBlockBackend.open(`nbd://localhost:${port}`, { openTimeout: 300 });
    await checkModel(disk);
  });

  test(needsNbdkit("large reads into shared memory, as guest memory is"), async () => {
    server = startNbdkit(socket, "file", file);
    const some = await open();
    const content = readFileSync(file);
    const memory = new Uint8Array(new SharedArrayBuffer(SIZE));
    for (const piece of [SIZE, 1 << 20, 1 << 17, 1 << 16, 4096]) {
      memory.fill(0xee);
      const reads = [];
      for (let at = 0; at < SIZE; at += piece) reads.push(some.read(at, memory.subarray(at, at + piece)));
      await Promise.all(reads);
      expect(Buffer.compare(memory, content)).toBe(0);
    }
    memory.reverse();
    await some.write(0, memory);
    await some.flush();
    expect(Buffer.compare(memory, readFileSync(file))).toBe(0);
  });

  test(needsNbdkit("one of several exports"), async () => {
    const exports = join(folder, "exports");
    mkdirSync(exports);
    writeFileSync(join(exports, "one"), Buffer.alloc(512, 1));
    writeFileSync(join(exports, "two"), Buffer.alloc(1024, 2));
    server = startNbdkit(socket, "file", `dir=${exports}`);
    const two = await open({}, "two");
    expect(two.size).toBe(1024);
    const target = new Uint8Array(1024);
    await two.read(0, target);
    expect(target.every((byte) => byte === 2)).toBe(true);
  });

  test(needsNbdkit("blocks of 4096, no payload above 64 KiB"), async () => {
    const policy = ["blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=65536"];
    server = startNbdkit(
      socket,
      "--filter=blocksize-policy",
      "file",
      file,
      ...policy,
      "blocksize-error-policy=error",
    );
    const some = await open();
    expect(some.physicalBlockSize).toBe(4096);
    const bytes = new Uint8Array(1 << 20).map((_, i) => i % 251);
    await some.write(4096, bytes);
    await some.writeZeroes?.(8192, 1 << 19, true);
    bytes.fill(0, 4096, 4096 + (1 << 19));
    await same(some, 4096, bytes);
    expect(Buffer.compare(readFileSync(file).subarray(4096, 4096 + bytes.length), bytes)).toBe(0);
    // Sectors of 512 bytes in them, many at once: reads, writes and zeroes are widened.
    await Promise.all(
      [9, 10, 11, 15, 16, 40].map((sector) => some.write(sector * 512, new Uint8Array(512).fill(sector))),
    );
    for (const sector of [9, 10, 11, 15, 16, 40])
      bytes.fill(sector, sector * 512 - 4096, sector * 512 - 4096 + 512);
    await some.writeZeroes?.(10 * 512, 4096 + 512, true);
    bytes.fill(0, 10 * 512 - 4096, 19 * 512 - 4096);
    await some.discard?.(512, 512);
    await same(some, 4096, bytes);
    await same(some, 9 * 512, bytes.subarray(512, 2048));
  });

  test(needsNbdkit("errors are those of the requests, and end with their cause"), async () => {
    const trigger = join(folder, "trigger");
    const rules = ["pread=EIO", "pwrite=ENOSPC", "zero=EPERM", "trim=ENOMEM"].flatMap((rule) => {
      const [name = ""] = rule.split("=");
      return [`error-${rule}`, `error-${name}-rate=100%`, `error-${name}-file=${trigger}`];
    });
    server = startNbdkit(socket, "--filter=error", "file", file, ...rules);
    const some = await open();
    writeFileSync(trigger, "");
    const bytes = new Uint8Array(4096).fill(9);
    const results = await Promise.allSettled([
      some.read(0, bytes.slice()),
      some.write(0, bytes),
      some.writeZeroes?.(0, 4096, true),
      some.discard?.(0, 4096),
    ]);
    expect(results.map((result) => result.status === "rejected" && String(result.reason))).toEqual([
      expect.stringContaining("EIO"),
      expect.stringContaining("ENOSPC"),
      expect.stringContaining("EPERM"),
      expect.stringContaining("ENOMEM"),
    ]);
    rmSync(trigger);
    await some.write(0, bytes);
    await same(some, 0, bytes);
    expect(errors).toEqual([]);
  });

  test(needsNbdkit("slow answers do not wait for each other"), async () => {
    server = startNbdkit(socket, "--filter=delay", "-t", "64", "file", file, "rdelay=200ms");
    const some = await open();
    const start = performance.now();
    await Promise.all(Array.from({ length: 64 }, (_, i) => some.read(i * 512, new Uint8Array(512))));
    expect(performance.now() - start).toBeLessThan(64 * 200);
  });

  test(
    needsNbdkit("each write is durable by itself with cache=writethrough; zeroes keep their room"),
    async () => {
      const log = join(folder, "log");
      server = startNbdkit(socket, "--filter=log", "file", file, `logfile=${log}`);
      const some = await open({ cache: "writethrough" });
      await some.write(0, new Uint8Array(512));
      await some.writeZeroes?.(512, 512, false);
      await some.writeZeroes?.(1024, 512, true);
      await some.discard?.(2048, 512);
      await some.close();
      const said = readFileSync(log, "utf8");
      expect(said).toMatch(/Write .*offset=0x0 count=0x200 fua=1/);
      expect(said).toMatch(/Zero .*offset=0x200 count=0x200 trim=0 fua=1/);
      expect(said).toMatch(/Zero .*offset=0x400 count=0x200 trim=1 fua=1/);
      expect(said).toMatch(/Trim .*offset=0x800 count=0x200 fua=1/);
      expect(said).not.toMatch(/Flush/);
    },
  );

  test(needsNbdkit("where the server cannot make one write durable, a flush follows"), async () => {
    const log = join(folder, "log");
    server = startNbdkit(
      socket,
      "--filter=log",
      "--filter=fua",
      "file",
      file,

      `logfile=${log}`,
    );
    const some = await open({ cache: "writethrough" });
    await some.write(0, new Uint8Array(512));
    await some.writeZeroes?.(512, 512, true);
    await some.discard?.(1024, 512);
    await some.close();
    const calls = readFileSync(log, "utf8").matchAll(/connection=\d+ (Write|Zero|Trim|Flush) /g);
    expect([...calls].map(([, name]) => name)).toEqual(["Write", "Flush", "Zero", "Flush", "Trim", "Flush"]);
  });
});

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject).listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
