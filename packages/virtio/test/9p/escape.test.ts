import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import type { FileSystem } from "../../src/backends/file-system.ts";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import type { MessageWriter } from "../../src/protocols/9p/message.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { RawClient } from "./raw.ts";

/** A file system that fails the test when it is handed a name that a host could take for a path. */
function suspicious(memory: MemoryFileSystem): FileSystem {
  return new Proxy<FileSystem>(memory, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== "function") return value;
      return (...args: unknown[]): unknown => {
        for (const arg of key === "makeSymlink" ? args.slice(0, 2) : args) {
          if (typeof arg !== "string" || key === "setXattr" || key === "getXattr") continue;
          const bad = arg === "" || arg === "." || arg === ".." || /[/\0]/.test(arg);
          if (bad) throw new TypeError(`${String(key)} was given the name "${arg}"`);
        }
        return Reflect.apply(value, target, args);
      };
    },
  });
}

/** Every message with a name in it. */
const NAMED: readonly [string, number, (name: string) => (w: MessageWriter) => void][] = [
  ["Twalk", P.TWALK, (name) => (w) => T.writeTwalk(w, { fid: 0, newFid: 9, names: [name] })],
  ["Twalk, second", P.TWALK, (name) => (w) => T.writeTwalk(w, { fid: 0, newFid: 9, names: ["sub", name] })],
  ["Tlcreate", P.TLCREATE, (name) => (w) => T.writeTlcreate(w, { fid: 0, name, flags: 2, mode: 0, gid: 0 })],
  ["Tmkdir", P.TMKDIR, (name) => (w) => T.writeTmkdir(w, { fid: 0, name, mode: 0, gid: 0 })],
  ["Tsymlink", P.TSYMLINK, (name) => (w) => T.writeTsymlink(w, { fid: 0, name, target: "x", gid: 0 })],
  [
    "Tmknod",
    P.TMKNOD,
    (name) => (w) => T.writeTmknod(w, { fid: 0, name, mode: 0, major: 0, minor: 0, gid: 0 }),
  ],
  ["Tlink", P.TLINK, (name) => (w) => T.writeTlink(w, { directoryFid: 0, fid: 1, name })],
  ["Trename", P.TRENAME, (name) => (w) => T.writeTrename(w, { fid: 1, directoryFid: 0, name })],
  [
    "Trenameat, from",
    P.TRENAMEAT,
    (name) => (w) =>
      T.writeTrenameat(w, { oldDirectoryFid: 0, oldName: name, newDirectoryFid: 0, newName: "x" }),
  ],
  [
    "Trenameat, to",
    P.TRENAMEAT,
    (name) => (w) =>
      T.writeTrenameat(w, { oldDirectoryFid: 0, oldName: "file", newDirectoryFid: 0, newName: name }),
  ],
  ["Tunlinkat", P.TUNLINKAT, (name) => (w) => T.writeTunlinkat(w, { fid: 0, name, flags: 0 })],
  ["Tunlinkat, directory", P.TUNLINKAT, (name) => (w) => T.writeTunlinkat(w, { fid: 0, name, flags: 0x200 })],
];

const BAD = ["", ".", "..", "/", "a/b", "../x", "/etc/passwd", "a\0b", "\0", "..\0", "./file", "sub/../.."];

function setUp(): { client: RawClient; fs: MemoryFileSystem } {
  const fs = new MemoryFileSystem();
  fillTree(fs, { file: "file", sub: { directory: { inner: { directory: {} } } } });
  const client = new RawClient(suspicious(fs)).ready();
  client.walk(0, 1, "file");
  return { client, fs };
}

const names = (fs: MemoryFileSystem): string[] => [...(fs.root.directory?.entries.keys() ?? [])];

describe.each(NAMED)("%s", (_label, type, fields) => {
  test("a name that is no name is EINVAL, and never reaches the file system", () => {
    for (const name of BAD) {
      // Walking up is allowed, and stops at the root.
      if (name === ".." && type === P.TWALK) continue;
      const { client, fs } = setUp();
      const before = names(fs);
      const reply = client.now(type, fields(name));
      expect([reply.errno, name]).toEqual([ERRNO.EINVAL, name]);
      expect(names(fs)).toEqual(before);
    }
  });

  test("a name of more than 255 bytes is ENAMETOOLONG", () => {
    for (const name of ["x".repeat(256), "€".repeat(86), "x".repeat(4000)]) {
      expect(setUp().client.now(type, fields(name)).errno).toBe(ERRNO.ENAMETOOLONG);
    }
  });
});

test("`..` from the root stays there, and from a removed directory too", () => {
  const { client } = setUp();
  const root = client.walk(0, 2);
  expect(root.errno).toBe(0);
  const qid = (...path: string[]): number => {
    const reply = client.walk(0, 3, ...path);
    expect(reply.reader.u16()).toBe(path.length);
    const qids = path.map(() => reply.reader.qid().path);
    client.clunk(3);
    return qids.at(-1) ?? -1;
  };
  const top = qid("sub", "..");
  expect(qid("..", "..", "..")).toBe(top);
  expect(qid("sub", "..", "..", "sub", "inner", "..", "..")).toBe(top);
  client.walk(0, 4, "sub", "inner");
  client.walk(0, 5, "sub");
  client.now(P.TUNLINKAT, (w) => T.writeTunlinkat(w, { fid: 5, name: "inner", flags: 0x200 }));
  const up = client.walk(4, 6, "..");
  up.reader.u16();
  expect(up.reader.qid().path).toBe(top);
});

test("`..` after the directory was moved leads to where it is now", () => {
  const { client } = setUp();
  client.walk(0, 2, "sub", "inner");
  const move = { oldDirectoryFid: 5, oldName: "inner", newDirectoryFid: 0, newName: "outer" };
  client.walk(0, 5, "sub");
  client.now(P.TRENAMEAT, (w) => T.writeTrenameat(w, move));
  const reply = client.walk(2, 6, "..");
  reply.reader.u16();
  const top = client.walk(0, 7, "..");
  top.reader.u16();
  expect(reply.reader.qid()).toEqual(top.reader.qid());
});

test("any path of any names ends at something of the tree or an error", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constantFrom("..", "sub", "inner", "file", ".", "a/b"), fc.string()), {
        maxLength: 16,
      }),
      (path) => {
        const { client } = setUp();
        const reply = client.walk(0, 9, ...path);
        if (reply.errno === 0) expect(reply.reader.u16()).toBeLessThanOrEqual(path.length);
      },
    ),
    { numRuns: 200 },
  );
});
