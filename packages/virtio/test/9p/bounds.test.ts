import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import type { FileNode, FileSystem } from "../../src/backends/file-system.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { FID_BYTES, MAX_PATH_BYTES } from "../../src/devices/9p/limits.ts";
import { MessageReader } from "../../src/protocols/9p/message.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as R from "../../src/protocols/9p/replies.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { RawClient } from "./raw.ts";
import { tree } from "./share.ts";

/** What a driver can make the device hold or do is bounded, whatever it sizes. */

const owner = { uid: 0, gid: 0 };

/** Directories of one name below each other. */
function deep(fs: MemoryFileSystem, depth: number, name = "d"): void {
  let at = fs.root;
  for (let i = 0; i < depth; i++) {
    at = fs.makeDirectory(at, name, 0o755, owner);
    fs.release(at);
  }
}

/** Calls `seen` before each lookup. */
function watched(fs: MemoryFileSystem, seen: (name: string) => void): FileSystem {
  return new Proxy<FileSystem>(fs, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (key === "lookup") {
        return (directory: FileNode, name: string): unknown => {
          seen(name);
          return Reflect.apply(value as (...args: unknown[]) => unknown, target, [directory, name]);
        };
      }
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

function stackDepth(): number {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = Infinity;
  const depth = (new Error().stack ?? "").split("\n").length;
  Error.stackTraceLimit = limit;
  return depth;
}

describe("fids", () => {
  test("and their names are bounded in bytes", () => {
    const fs = tree();
    fs.makeDirectory(fs.root, "n".repeat(255), 0o755, owner);
    const fill = (name: string): number => {
      const client = new RawClient(fs, { fidBytes: 64 * 1024 }).ready();
      for (let fid = 1; ; fid++) {
        const { errno } = client.walk(0, fid, name);
        if (errno === 0) continue;
        expect(errno).toBe(ERRNO.ENFILE);
        // One that is given back makes room for another.
        client.clunk(1);
        expect(client.walk(0, fid, name).errno).toBe(0);
        // Nor is there a way around by a fid that goes on under a longer name.
        client.walk(0, 1);
        expect(client.now(P.TLCREATE, (w) => T.writeTlcreate(w, create(fid))).errno).toBe(ERRNO.ENFILE);
        return fid;
      }
    };
    const create = (fid: number): T.Tlcreate => {
      return { fid, name: "x".repeat(255), flags: 2, mode: 0o600, gid: 0 };
    };
    expect(fill("sub")).toBe(Math.floor((64 * 1024 - FID_BYTES) / (FID_BYTES + 6)) + 1);
    expect(fill("n".repeat(255))).toBe(Math.floor((64 * 1024 - FID_BYTES) / (FID_BYTES + 510)) + 1);
  });

  test("hold no path: a thousand at depth 1,000 hold one node and one directory each", () => {
    const fs = new MemoryFileSystem();
    deep(fs, 1000);
    const client = new RawClient(fs).ready();
    client.walk(0, 1);
    for (let i = 0; i < 1000; i++) client.walk(1, 1, "d");
    for (let fid = 2; fid < 1002; fid++) expect(client.walk(1, fid).errno).toBe(0);
    let held = 0;
    for (let at = fs.root; ;) {
      held += at.references;
      const next = at.directory?.entries.get("d")?.node;
      if (next === undefined) break;
      at = next;
    }
    // The fids but the root, and the root itself.
    expect(held).toBeLessThanOrEqual(2 * 1001 + 2);
    client.version();
    for (let at = fs.root; ;) {
      if (at !== fs.root) expect(at.references).toBe(0);
      const next = at.directory?.entries.get("d")?.node;
      if (next === undefined) break;
      at = next;
    }
  });
});

describe("depth", () => {
  test("a Tattach of 2,000 names needs no more stack than one of a single name", () => {
    const memory = new MemoryFileSystem();
    deep(memory, 2000);
    let deepest = 0;
    const fs = watched(memory, () => void (deepest = Math.max(deepest, stackDepth())));
    const client = new RawClient(fs).ready();
    expect(client.attach(1, "d").errno).toBe(0);
    const shallow = deepest;
    expect(client.attach(2, "d/".repeat(2000)).errno).toBe(0);
    expect(deepest).toBeLessThanOrEqual(shallow + 2);
    // One that ends nowhere holds nothing.
    expect(client.attach(3, "d/".repeat(2001)).errno).toBe(ERRNO.ENOENT);
    client.clunk(1);
    client.clunk(2);
    expect(memory.root.directory?.entries.get("d")?.node.references).toBe(0);
  });

  test("a fid of restored state is walked to without recursion as well", () => {
    const memory = new MemoryFileSystem();
    deep(memory, 2000);
    const before = new RawClient(memory).ready();
    before.attach(1, "d/".repeat(2000));
    let deepest = 0;
    const after = new RawClient(watched(memory, () => void (deepest = Math.max(deepest, stackDepth()))));
    after.device.restore?.(before.device.save?.());
    expect(after.walk(1, 2).errno).toBe(0);
    expect(deepest).toBeLessThan(100);
  });

  test("Trename and Tremove of a deep fid look at a few names, also when it is not where it was", () => {
    const memory = new MemoryFileSystem();
    deep(memory, 1000);
    let lookups = 0;
    const client = new RawClient(watched(memory, () => void lookups++)).ready();
    client.attach(1, "d/".repeat(1000));
    client.attach(2, "d/".repeat(998));
    client.walk(0, 3);
    lookups = 0;
    const rename = { fid: 1, directoryFid: 3, name: "moved" };
    expect(client.now(P.TRENAME, (w) => T.writeTrename(w, rename)).errno).toBe(0);
    expect(memory.root.directory?.entries.has("moved")).toBe(true);
    // Behind the client's back, and once more by the fid.
    memory.rename(memory.root, "moved", memory.root, "elsewhere");
    const again = { fid: 1, directoryFid: 2, name: "again" };
    expect(client.now(P.TRENAME, (w) => T.writeTrename(w, again)).errno).toBe(0);
    expect(memory.root.directory?.entries.has("elsewhere")).toBe(false);
    expect(client.now(P.TREMOVE, (w) => void w.u32(1)).errno).toBe(0);
    expect(client.walk(2, 4, "again").errno).toBe(ERRNO.ENOENT);
    expect(lookups).toBeLessThan(10);
    // The root has no name to change.
    expect(client.now(P.TRENAME, (w) => T.writeTrename(w, { ...rename, fid: 0 })).errno).toBe(ERRNO.EBUSY);
  });

  test("a saved state asks for each directory once, and its paths are bounded together", () => {
    const memory = new MemoryFileSystem();
    const name = "n".repeat(255);
    deep(memory, 1000, name);
    let asked = 0;
    const fs = new Proxy<FileSystem>(memory, {
      get(target, key) {
        if (key === "place") asked++;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
    const client = new RawClient(fs).ready();
    client.walk(0, 1);
    for (let i = 0; i < 1000; i++) client.walk(1, 1, name);
    const fit = Math.floor(MAX_PATH_BYTES / (1000 * 256));
    for (let fid = 2; fid < fit + 10; fid++) client.walk(1, fid);
    const state = client.device.save?.();
    expect(asked).toBe(1000);
    const paths = state?.fids.map(({ path }) => path?.length);
    expect(paths?.slice(0, fit + 1)).toEqual([0, ...Array<number>(fit).fill(1000)]);
    expect(paths?.slice(fit + 1)).toEqual(Array(9).fill(undefined));
    const after = new RawClient(memory);
    after.device.restore?.(state);
    expect(after.walk(1, 1000).errno).toBe(0);
    expect(after.walk(fit + 9, 1000).errno).toBe(ERRNO.ESTALE);
  });
});

describe("a directory in memory", () => {
  const list = (client: RawClient, fid: number, offset: number, count = 200): R.DirectoryEntry[] => {
    const reply = client.now(P.TREADDIR, (w) => T.writeTreaddir(w, { fid, offset, count }));
    const reader = new MessageReader().start(reply.bytes, reply.written);
    reader.u32();
    const entries: R.DirectoryEntry[] = [];
    while (reader.remaining > 0) entries.push(R.readDirectoryEntry(reader));
    return entries;
  };

  test("is read on from a cursor of another fid, whatever was removed before it", () => {
    const fs = new MemoryFileSystem();
    for (let i = 0; i < 300; i++) fs.makeDirectory(fs.root, `d${i}`, 0o755, owner);
    const client = new RawClient(fs).ready();
    for (const fid of [1, 2]) {
      client.walk(0, fid);
      client.open(fid);
    }
    const seen: string[] = [];
    for (let cursor = 0, turn = 0; ; turn++) {
      const entries = list(client, 1 + (turn % 2), cursor);
      if (entries.length === 0) break;
      cursor = entries.at(-1)?.offset ?? 0;
      for (const { name } of entries) {
        seen.push(name);
        if (name.startsWith("d")) fs.removeDirectory(fs.root, name);
      }
    }
    expect(seen.length).toBe(302);
    expect(fs.root.directory?.entries.size).toBe(0);
    // What is gone takes no room for long.
    expect(fs.root.directory?.order.length).toBeLessThan(20);
  });

  test("keeps nothing for one who stopped reading, however often names come and go", () => {
    const fs = new MemoryFileSystem();
    for (let i = 0; i < 20; i++) fs.makeDirectory(fs.root, `d${i}`, 0o755, owner);
    const client = new RawClient(fs).ready();
    client.walk(0, 1);
    client.open(1);
    const cursor = list(client, 1, 0, 100).at(-1)?.offset ?? 0;
    for (let i = 0; i < 5000; i++) {
      fs.release(fs.makeDirectory(fs.root, `x${i}`, 0o755, owner));
      fs.removeDirectory(fs.root, `x${i}`);
    }
    expect(fs.root.directory?.order.length).toBeLessThan(80);
    const rest = list(client, 1, cursor, 8000).map(({ name }) => name);
    expect(rest.at(-1)).toBe("d19");
  });
});
