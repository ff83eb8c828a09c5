import { createHash } from "node:crypto";
import {
  closeSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { Errno } from "../../src/backends/errno.ts";
import * as F from "../../src/backends/file-system.ts";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { CHUNK_SIZE } from "../../src/backends/memory-file.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import type { MemoryNode } from "../../src/backends/memory-node.ts";
import { pattern } from "../support/ends.ts";

const OWNER = { uid: 0, gid: 0 };
const work = mkdtempSync(join(tmpdir(), "memory-file-system-"));
afterAll(() => rmSync(work, { recursive: true }));
let runs = 0;

/** Error codes and results, for comparing with the host's. */
function outcome(action: () => unknown): unknown {
  try {
    return action() ?? "done";
  } catch (error) {
    if (error instanceof Errno) return error.code;
    if (error instanceof Error && "code" in error) return error.code;
    throw error;
  }
}

type Path = readonly string[];

const digest = (bytes: Uint8Array): string =>
  `${bytes.length} bytes, ${createHash("sha1").update(bytes).digest("hex")}`;

/** What the steps do, once in memory and once on the host. */
class InMemory {
  readonly fs = new MemoryFileSystem();

  at<T>(path: Path, use: (node: MemoryNode) => T): T {
    let node = this.fs.root;
    this.fs.retain(node);
    try {
      for (const name of path) {
        const next = this.fs.lookup(node, name);
        this.fs.release(node);
        node = next;
      }
      return use(node);
    } finally {
      this.fs.release(node);
    }
  }

  parent<T>(path: Path, use: (directory: MemoryNode, name: string) => T): T {
    return this.at(path.slice(0, -1), (directory) => {
      if (directory.kind !== F.S_IFDIR) throw Errno.of("ENOTDIR");
      return use(directory, path.at(-1) ?? "");
    });
  }

  mkdir = (path: Path): void =>
    this.parent(path, (d, name) => this.fs.release(this.fs.makeDirectory(d, name, 0o755, OWNER)));
  rmdir = (path: Path): void => this.parent(path, (d, name) => this.fs.removeDirectory(d, name));
  unlink = (path: Path): void => this.parent(path, (d, name) => this.fs.unlink(d, name));
  symlink = (path: Path): void =>
    this.parent(path, (d, name) => this.fs.release(this.fs.makeSymlink(d, name, "/dev/null", OWNER)));
  link = (path: Path, to: Path): void =>
    this.at(path, (node) => this.parent(to, (d, name) => this.fs.link(node, d, name)));
  rename = (path: Path, to: Path): void =>
    this.parent(path, (from, name) => this.parent(to, (d, toName) => this.fs.rename(from, name, d, toName)));

  write(path: Path, offset: number, length: number): void {
    this.parent(path, (d, name) => {
      const { node, handle } = this.fs.create(d, name, F.O_RDWR | F.O_CREAT, 0o644, OWNER);
      try {
        this.fs.write(handle, offset, pattern(length, offset + 1));
      } finally {
        this.fs.close(handle);
        this.fs.release(node);
      }
    });
  }

  truncate(path: Path, size: number): void {
    this.at(path, (node) => {
      const handle = this.fs.open(node, F.O_WRONLY);
      this.fs.setAttributes(node, { size });
      this.fs.close(handle);
    });
  }

  stat(path: Path): unknown {
    return this.at(path, (node) => {
      const { mode, nlink, size } = this.fs.getAttributes(node);
      const directory = (mode & F.S_IFMT) === F.S_IFDIR;
      const symlink = (mode & F.S_IFMT) === F.S_IFLNK;
      return {
        kind: mode & F.S_IFMT,
        nlink,
        ...(directory ? {} : { size }),
        ...(symlink ? { to: this.fs.readLink(node) } : {}),
      };
    });
  }

  read(path: Path): string {
    return this.at(path, (node) => {
      const handle = this.fs.open(node, F.O_RDONLY);
      const bytes = new Uint8Array(this.fs.getAttributes(node).size);
      this.fs.read(handle, 0, bytes);
      this.fs.close(handle);
      return digest(bytes);
    });
  }

  list(path: Path): string[] {
    return this.at(path, (node) => {
      const handle = this.fs.open(node, F.O_DIRECTORY);
      const names: string[] = [];
      this.fs.readDirectory(handle, 0, (name) => names.push(name) > 0);
      this.fs.close(handle);
      return names.filter((name) => name !== "." && name !== "..").sort();
    });
  }
}

class OnHost {
  readonly root: string;

  constructor() {
    this.root = join(work, String(runs++));
    mkdirSync(this.root);
  }

  path = (path: Path): string => join(this.root, ...path);
  mkdir = (path: Path): void => mkdirSync(this.path(path));
  rmdir = (path: Path): void => rmdirSync(this.path(path));
  unlink = (path: Path): void => unlinkSync(this.path(path));
  symlink = (path: Path): void => symlinkSync("/dev/null", this.path(path));
  link = (path: Path, to: Path): void => linkSync(this.path(path), this.path(to));
  rename = (path: Path, to: Path): void => renameSync(this.path(path), this.path(to));

  write(path: Path, offset: number, length: number): void {
    const fd = openSync(this.path(path), F.O_RDWR | F.O_CREAT | F.O_NOFOLLOW, 0o644);
    writeSync(fd, pattern(length, offset + 1), 0, length, offset);
    closeSync(fd);
  }

  truncate(path: Path, size: number): void {
    const fd = openSync(this.path(path), F.O_WRONLY | F.O_NOFOLLOW);
    ftruncateSync(fd, size);
    closeSync(fd);
  }

  stat(path: Path): unknown {
    const { mode, nlink, size } = lstatSync(this.path(path));
    const directory = (mode & F.S_IFMT) === F.S_IFDIR;
    const symlink = (mode & F.S_IFMT) === F.S_IFLNK;
    const to = symlink ? { to: readlinkSync(this.path(path)) } : {};
    return { kind: mode & F.S_IFMT, nlink, ...(directory ? {} : { size }), ...to };
  }

  read(path: Path): string {
    const fd = openSync(this.path(path), F.O_RDONLY | F.O_NOFOLLOW);
    try {
      if (lstatSync(this.path(path)).isDirectory()) readSync(fd, new Uint8Array(1));
      return digest(readFileSync(fd));
    } finally {
      closeSync(fd);
    }
  }

  list = (path: Path): string[] => readdirSync(this.path(path)).sort();
}

const path = fc.array(fc.constantFrom("a", "b", "c"), { minLength: 1, maxLength: 3 });
const kind = fc.constantFrom(
  "mkdir",
  "mkdir",
  "rmdir",
  "unlink",
  "symlink",
  "link",
  "rename",
  "rename",
  "write",
  "write",
  "truncate",
  "stat",
  "read",
  "list",
);
const step = fc.record({
  kind,
  path,
  to: path,
  offset: fc.oneof(fc.nat(100), fc.constantFrom(CHUNK_SIZE - 5, CHUNK_SIZE, 3 * CHUNK_SIZE + 1)),
  length: fc.oneof(fc.nat(100), fc.constantFrom(CHUNK_SIZE + 3)),
});

function take(
  on: InMemory | OnHost,
  { kind: what, path: at, to, offset, length }: typeof step extends fc.Arbitrary<infer S> ? S : never,
): unknown {
  return outcome(() => {
    switch (what) {
      case "write":
        return on.write(at, offset, length);
      case "truncate":
        return on.truncate(at, offset);
      case "link":
      case "rename":
        return on[what](at, to);
      case "stat":
        return on.stat(at);
      case "read":
        return on.read(at);
      case "list":
        return on.list(at);
      default:
        return on[what](at);
    }
  });
}

describe("MemoryFileSystem", () => {
  test("does what the host's file system does, errors too", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const memory = new InMemory();
        const host = new OnHost();
        for (const each of steps) expect([each, take(memory, each)]).toEqual([each, take(host, each)]);
        const every = (on: InMemory | OnHost, at: Path): unknown[] =>
          on.list(at).map((name) => {
            const below = [...at, name];
            const stat = on.stat(below);
            const inside = outcome(() => every(on, below));
            return [name, stat, Array.isArray(inside) ? inside : outcome(() => on.read(below))];
          });
        expect(every(memory, [])).toEqual(every(host, []));
      }),
      {
        numRuns: 150,
        // A name that is taken counts before a directory that cannot be linked.
        examples: [
          [
            [
              { kind: "mkdir", path: ["b"], to: ["a"], offset: 0, length: 0 },
              { kind: "link", path: ["b"], to: ["b"], offset: 0, length: 0 },
            ],
          ],
        ],
      },
    );
  });

  test("what it takes is bounded, and given back", () => {
    const fs = new MemoryFileSystem({ maxBytes: 300_000, maxInodes: 10 });
    const empty = fs.bytesUsed;
    const { node, handle } = fs.create(fs.root, "big", F.O_RDWR, 0o600, OWNER);
    expect(fs.write(handle, 0, new Uint8Array(262_144))).toBe(262_144);
    expect(() => fs.write(handle, 262_144, new Uint8Array(262_144))).toThrow("ENOSPC");
    // A sparse file takes nothing.
    fs.setAttributes(node, { size: 2 ** 40 });
    expect(fs.read(handle, 2 ** 39, new Uint8Array(100).fill(1))).toBe(100);
    expect(() => fs.setAttributes(node, { size: 2 ** 48 })).toThrow("EFBIG");
    fs.setAttributes(node, { size: 0 });
    for (let i = 0; i < 8; i++) fs.release(fs.makeDirectory(fs.root, `d${i}`, 0o755, OWNER));
    expect(() => fs.makeDirectory(fs.root, "d8", 0o755, OWNER)).toThrow("ENOSPC");
    for (let i = 0; i < 5000; i++) if (outcome(() => fs.link(node, fs.root, `l${i}`)) === "ENOSPC") break;
    expect(fs.bytesUsed).toBeLessThanOrEqual(300_000);
    expect(() => fs.setXattr(node, "user.x", new Uint8Array(2000), 0)).toThrow("ENOSPC");
    const names = Array.from(fs.root.directory?.entries.keys() ?? []);
    for (const name of names) {
      if (name.startsWith("d")) fs.removeDirectory(fs.root, name);
      else fs.unlink(fs.root, name);
    }
    expect(fs.inodesUsed).toBe(2);
    fs.close(handle);
    fs.release(node);
    expect([fs.inodesUsed, fs.bytesUsed]).toEqual([1, empty]);
  });

  test("a write that finds room for a part of it says so", () => {
    const fs = new MemoryFileSystem({ maxBytes: 300_000 });
    const { handle } = fs.create(fs.root, "f", F.O_RDWR, 0o600, OWNER);
    expect(fs.write(handle, 0, new Uint8Array(400_000))).toBe(CHUNK_SIZE);
  });

  test("a listing shows what is there all the time once, whatever happens meanwhile", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 7 }),
        fc.array(fc.tuple(fc.constantFrom("make", "remove", "rename"), fc.nat(40)), { maxLength: 40 }),
        fc.boolean(),
        (batch, changes, reopen) => {
          const fs = new MemoryFileSystem();
          const stays = Array.from({ length: 20 }, (_, i) => `stays${i}`);
          fillTree(
            fs,
            Object.fromEntries(
              stays.flatMap((name, i) => [
                [name, ""],
                [`x${i}`, ""],
              ]),
            ),
          );
          let handle = fs.open(fs.root, F.O_DIRECTORY);
          const seen: string[] = [];
          let cursor = 0;
          for (let i = 0; ; i++) {
            let room = batch;
            let any = false;
            fs.readDirectory(handle, cursor, (name, _id, _kind, next) => {
              if (room-- === 0) return false;
              seen.push(name);
              cursor = next;
              any = true;
              return true;
            });
            if (!any) break;
            if (reopen) handle = fs.open(fs.root, F.O_DIRECTORY);
            const [what, n] = changes[i] ?? ["none", 0];
            if (what === "make") outcome(() => fs.makeDirectory(fs.root, `new${n}`, 0o700, OWNER));
            if (what === "remove") outcome(() => fs.unlink(fs.root, `x${n}`));
            if (what === "rename") outcome(() => fs.rename(fs.root, `x${n}`, fs.root, `y${n}`));
          }
          expect(seen.filter((name) => name.startsWith("stays")).sort()).toEqual([...stays].sort());
          expect(seen.filter((name) => name === ".")).toEqual(["."]);
        },
      ),
      { numRuns: 300 },
    );
  });

  test("times follow the clock that it is given", () => {
    let now = -1500;
    const fs = new MemoryFileSystem({ clock: () => now });
    const node = fs.makeDirectory(fs.root, "d", 0o755, OWNER);
    expect(fs.getAttributes(node)).toMatchObject({ mtime: -2, mtimeNanoseconds: 500_000_000 });
    now = 2000;
    const { version } = node;
    fs.makeDirectory(node, "e", 0o755, OWNER);
    expect(fs.getAttributes(node)).toMatchObject({ mtime: 2, ctime: 2, atime: -2, nlink: 3 });
    expect(node.version).not.toBe(version);
    fs.setAttributes(node, { mtime: { seconds: 7, nanoseconds: 8 }, atime: "now" });
    expect(fs.getAttributes(node)).toMatchObject({ mtime: 7, mtimeNanoseconds: 8, atime: 2 });
  });

  test("attributes: create, replace, remove", () => {
    const fs = new MemoryFileSystem();
    const value = Uint8Array.of(1, 2);
    expect(() => fs.setXattr(fs.root, "user.a", value, F.XATTR_REPLACE)).toThrow("ENODATA");
    fs.setXattr(fs.root, "user.a", value, F.XATTR_CREATE);
    value.fill(9);
    expect(fs.getXattr(fs.root, "user.a")).toEqual(Uint8Array.of(1, 2));
    expect(() => fs.setXattr(fs.root, "user.a", value, F.XATTR_CREATE)).toThrow("EEXIST");
    expect(() => fs.setXattr(fs.root, "user.b", new Uint8Array(65_537), 0)).toThrow("E2BIG");
    expect(fs.listXattrs(fs.root)).toEqual(["user.a"]);
    fs.removeXattr(fs.root, "user.a");
    expect(() => fs.removeXattr(fs.root, "user.a")).toThrow("ENODATA");
  });
});
