import { describe, expect, test } from "vitest";
import type { FileSystem } from "../../src/backends/file-system.ts";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { ninePDevice } from "../../src/devices/9p/device.ts";
import { NinePError } from "../../src/drivers/9p/connection.ts";
import { NinePDriver, type NinePDriverOptions } from "../../src/drivers/9p/driver.ts";
import { READ_WRITE, WRITE_ONLY, type NinePFile } from "../../src/drivers/9p/file.ts";
import { encodeUtf8 } from "../../src/memory/utf8.ts";
import { pattern } from "../support/ends.ts";
import { Loopback, RINGS } from "../support/loopback.ts";
import { slowFileSystem } from "./slow-file-system.ts";

const kinds: { kind: string; make: () => { fs: FileSystem; memory: MemoryFileSystem } }[] = [
  {
    kind: "synchronous",
    make: () => {
      const memory = new MemoryFileSystem();
      return { fs: memory, memory };
    },
  },
  { kind: "asynchronous", make: () => slowFileSystem(() => 2) },
];
const cases = RINGS.flatMap((ring) => kinds.map((kind) => ({ ...ring, ...kind })));

async function opened(
  make: () => { fs: FileSystem; memory: MemoryFileSystem },
  ring: bigint,
  options: NinePDriverOptions = {},
): Promise<{ driver: NinePDriver; root: NinePFile; memory: MemoryFileSystem; transport: Loopback }> {
  const { fs, memory } = make();
  const transport = new Loopback(ninePDevice({ tag: "share", fileSystem: fs }), { features: ring });
  const driver = await NinePDriver.open(transport, options);
  return { driver, root: await driver.attach({ uid: 1000 }), memory, transport };
}

async function errnoOf(promise: Promise<unknown>): Promise<number> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof NinePError) return error.errno;
    throw error;
  }
  throw new Error("no error");
}

describe.each(cases)("our driver on our device: $name, $kind", ({ ring, make }) => {
  test("the tag, the version and the size of messages are agreed on", async () => {
    const { driver } = await opened(make, ring, { msize: 2 ** 21 });
    expect(driver.tag).toBe("share");
    expect(driver.msize).toBe(1_048_576);
  });

  test("what is written is read again, in messages of any size", async () => {
    for (const msize of [4096, 65_536, 1_048_576]) {
      const { root, driver } = await opened(make, ring, { msize });
      const bytes = pattern(300_001);
      const file = await root.create("file", READ_WRITE, 0o640, 7);
      await file.write(0, bytes);
      expect(Buffer.compare(await file.readAll(), bytes)).toBe(0);
      expect(await file.stat()).toMatchObject({ size: bytes.length, mode: 0o100640, uid: 1000, gid: 7 });
      await file.sync();
      await file.close();
      await driver.close();
    }
  });

  test("a tree is filled on one side and listed on the other", async () => {
    const { root, memory } = await opened(make, ring);
    const names = Array.from({ length: 3000 }, (_, i) => `${"name".repeat(1 + (i % 20))}-${i}`);
    fillTree(memory, { many: { directory: Object.fromEntries(names.map((name) => [name, name])) } });
    const directory = await (await root.walk("many")).open();
    const seen: string[] = [];
    for await (const entry of directory.entries()) seen.push(entry.name);
    expect(seen.sort()).toEqual([".", "..", ...names].sort());
  });

  test("names, links, attributes and locks", async () => {
    const { root, driver, transport } = await opened(make, ring);
    await root.makeDirectory("a");
    const a = await root.walk("a");
    const file = await a.create("ä\u{1f600}", WRITE_ONLY);
    await file.write(5, encodeUtf8("hello"));
    await root.link(file, "hard");
    await a.makeSymlink("soft", "../hard");
    expect(await (await a.walk("soft")).readLink()).toBe("../hard");
    expect(await errnoOf(a.walk("soft", "x"))).toBe(2);
    expect((await file.stat()).nlink).toBe(2);
    await a.renameEntry("ä\u{1f600}", root, "plain");
    await (await root.walk("plain")).rename(a, "back");
    const again = await (await root.walk("a", "..", "a", "back")).open(READ_WRITE);
    expect(await again.readAll()).toEqual(encodeUtf8("\0\0\0\0\0hello"));
    await again.setAttributes({ size: 3, mode: 0o600, mtime: { seconds: -5, nanoseconds: 9 }, atime: "now" });
    expect(await again.stat()).toMatchObject({ size: 3, mode: 0o100600, mtime: -5, mtimeNanoseconds: 9 });
    await again.setXattr("user.one", "1");
    await again.setXattr("user.empty", "");
    await again.setXattr("user.two", pattern(60_000));
    expect((await again.listXattrs()).sort()).toEqual(["user.empty", "user.one", "user.two"]);
    expect(await again.getXattr("user.two")).toEqual(pattern(60_000));
    expect(await again.getXattr("user.empty")).toEqual(new Uint8Array(0));
    await again.removeXattr("user.one");
    expect(await errnoOf(again.getXattr("user.one"))).toBe(61);
    expect(await again.lock({ start: 0, length: 10, process: 1 }, true)).toBe(true);
    const other = await (await a.walk("back")).open(READ_WRITE);
    expect(await other.lock({ start: 9, length: 1, process: 2 }, false)).toBe(false);
    expect(await other.testLock({ start: 0, length: 0, process: 2 }, false)).toMatchObject({
      type: 1,
      start: 0,
      length: 10,
      process: 1,
    });
    await again.close();
    expect(await other.lock({ start: 9, length: 1, process: 2 }, false)).toBe(true);
    await other.unlock({ start: 0, length: 0, process: 2 });
    await (await root.walk("hard")).remove();
    expect(await errnoOf(root.unlink("a", true))).toBe(39);
    await a.unlink("back");
    await a.unlink("soft");
    await root.unlink("a", true);
    expect(await errnoOf(root.walk("a"))).toBe(2);
    expect((await root.statistics()).nameMax).toBe(255);
    expect(transport.faults).toEqual([]);
    await driver.close();
  });

  test("many requests at a time are all answered", async () => {
    const { root } = await opened(make, ring, { maxRequests: 20 });
    const files = await Promise.all(
      Array.from({ length: 60 }, async (_, i) => {
        const file = await root.create(`f${i}`);
        await file.write(0, new Uint8Array(i * 37).fill(i));
        return file;
      }),
    );
    const read = await Promise.all(files.map((file) => file.readAll()));
    read.forEach((bytes, i) => expect(bytes).toEqual(new Uint8Array(i * 37).fill(i)));
  });
});
