import * as host from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Errno } from "virtio/backends/errno";
import * as fs from "virtio/backends/file-system";
import { REMEMBERED } from "../../src/directory/cookie-ring.ts";
import { HostDirectory, type HostHandle, MAX_HANDLES } from "../../src/directory/host-directory.ts";
import { type HostNode, MAX_DEPTH } from "../../src/directory/node-table.ts";

const isRoot = process.getuid?.() === 0;
const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
let share = "";
beforeEach(() => {
  share = host.mkdtempSync(join(tmpdir(), "virtio-dir-"));
});
afterEach(() => host.rmSync(share, { recursive: true }));

function code(action: () => unknown): string {
  try {
    action();
    return "none";
  } catch (error) {
    if (error instanceof Errno) return error.code;
    throw error;
  }
}

/** Descriptors of this process that lead into the share. */
function descriptors(): number {
  return host.readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return host.readlinkSync(`/proc/self/fd/${fd}`).startsWith(share);
    } catch {
      return false;
    }
  }).length;
}

function fill(count: number): void {
  for (let i = 0; i < count; i++) host.writeFileSync(join(share, `file${i}`), `content ${i}`);
}

function readText(directory: HostDirectory, node: HostNode): string {
  const handle = directory.open(node, fs.O_RDONLY);
  const target = new Uint8Array(100);
  const text = Buffer.from(target.subarray(0, directory.read(handle, 0, target))).toString();
  directory.close(handle);
  return text;
}

test("every descriptor is given back", () => {
  const directory = new HostDirectory(share);
  const before = descriptors();
  const { node, handle } = directory.create(directory.root, "a", fs.O_RDWR, 0o600, owner);
  const nodes = [
    node,
    directory.makeDirectory(directory.root, "d", 0o700, owner),
    directory.makeSymlink(directory.root, "s", "x", owner),
    directory.makeNode(directory.root, "p", fs.S_IFIFO | 0o600, 0, owner),
    directory.makeNode(directory.root, "r", fs.S_IFREG | 0o600, 0, owner),
    directory.lookup(directory.root, "a"),
    directory.parent(directory.root),
  ];
  const opened = directory.open(directory.root, fs.O_RDONLY);
  for (const name of ["a", "d", "s", "p", "r"])
    expect(code(() => directory.makeSymlink(directory.root, name, "x", owner))).toBe("EEXIST");
  expect(code(() => directory.lookup(node, "x"))).toBe("ENOTDIR");
  expect(code(() => directory.lookup(directory.root, "missing"))).toBe("ENOENT");
  expect(descriptors()).toBe(before + 5 + 2);
  directory.close(opened);
  directory.close(handle);
  directory.close(handle);
  for (const each of nodes) directory.release(each);
  expect(descriptors()).toBe(before);
  expect(directory.counts).toEqual({ nodes: 1, closable: 0, handles: 0 });
  directory.shutdown();
  expect(descriptors()).toBe(0);
});

test("thousands of nodes share a few descriptors, and each is still the file it was", () => {
  fill(1000);
  host.mkdirSync(join(share, "deep"));
  const directory = new HostDirectory(share, { maxDescriptors: 20 });
  const nodes = Array.from({ length: 1000 }, (_, i) => directory.lookup(directory.root, `file${i}`));
  let deep = directory.lookup(directory.root, "deep");
  const chain = [deep];
  for (let i = 0; i < 200; i++) chain.push((deep = directory.makeDirectory(deep, "d", 0o700, owner)));
  expect(descriptors()).toBeLessThanOrEqual(22);
  for (const i of [0, 1, 500, 999, 0]) {
    const node = nodes[i];
    if (node !== undefined) expect(readText(directory, node)).toBe(`content ${i}`);
  }
  expect(directory.getAttributes(deep).mode & fs.S_IFMT).toBe(fs.S_IFDIR);
  expect(directory.locate(deep)?.length).toBe(201);
  const above = directory.parent(deep);
  expect(above).toBe(chain.at(-2));
  directory.release(above);
  expect(descriptors()).toBeLessThanOrEqual(22);
  // Names that the guest itself changes are followed, at both ends of a rename.
  for (let i = 0; i < 1000; i++)
    directory.rename(directory.root, `file${i}`, chain[i % 50] ?? deep, `moved${i}`);
  for (let i = 0; i < 1000; i += 37) {
    const node = nodes[i];
    if (node !== undefined) expect(readText(directory, node)).toBe(`content ${i}`);
  }
  for (const [i, node] of nodes.entries()) {
    directory.unlink(chain[i % 50] ?? deep, `moved${i}`);
    if (i % 100 === 0) expect(readText(directory, node)).toBe(`content ${i}`);
    directory.release(node);
  }
  for (const node of chain) directory.release(node);
  expect(directory.counts.nodes).toBe(1);
  directory.shutdown();
});

test("a node without a descriptor whose name is another file by now is stale, not that file", () => {
  fill(40);
  const directory = new HostDirectory(share, { maxDescriptors: 16 });
  const nodes = Array.from({ length: 40 }, (_, i) => directory.lookup(directory.root, `file${i}`));
  host.renameSync(join(share, "file39"), join(share, "file0"));
  host.unlinkSync(join(share, "file1"));
  host.writeFileSync(join(share, "file1"), "made later, perhaps with the same inode number");
  const [first, second] = nodes;
  if (first === undefined || second === undefined) throw new Error("nodes");
  expect(code(() => readText(directory, first))).toBe("ESTALE");
  expect(code(() => readText(directory, second))).toBe("ESTALE");
  expect(directory.locate(second)).toBeUndefined();
  const again = directory.lookup(directory.root, "file1");
  expect(again).not.toBe(second);
  expect(readText(directory, again)).toContain("made later");
  directory.release(second);
  expect(directory.lookup(directory.root, "file1")).toBe(again);
  directory.shutdown();
});

test("a guest walks down a bounded number of directories", () => {
  // In memory where there is such a place: disks take milliseconds to make and free so many directories.
  const place = host.mkdtempSync(join(host.existsSync("/dev/shm") ? "/dev/shm" : share, "virtio-deep-"));
  const directory = new HostDirectory(place);
  const chain = [directory.root];
  const refusal = code(() => {
    for (;;) chain.push(directory.makeDirectory(chain.at(-1) ?? directory.root, "d", 0o700, owner));
  });
  expect(refusal).toBe("ENAMETOOLONG");
  expect(chain.length).toBe(MAX_DEPTH + 1);
  // What was refused is not left behind.
  const last = chain.at(-1) ?? directory.root;
  const handle = directory.open(last, fs.O_RDONLY);
  expect(
    list(directory, handle, 0, 10)
      .map(([name]) => name)
      .sort(),
  ).toEqual([".", ".."]);
  directory.close(handle);
  for (let i = chain.length - 1; i > 0; i--) {
    directory.removeDirectory(chain[i - 1] ?? last, "d");
    directory.release(chain[i] ?? last);
  }
  expect(directory.counts.nodes).toBe(1);
  directory.shutdown();
  host.rmSync(place, { recursive: true });
});

test("hard links are one node", () => {
  fill(1);
  host.linkSync(join(share, "file0"), join(share, "other"));
  const directory = new HostDirectory(share);
  expect(directory.lookup(directory.root, "file0")).toBe(directory.lookup(directory.root, "other"));
  directory.shutdown();
});

test("open files are bounded", () => {
  fill(1);
  const directory = new HostDirectory(share);
  const node = directory.lookup(directory.root, "file0");
  const handles: HostHandle[] = [];
  const refusal = code(() => {
    for (;;) handles.push(directory.open(node, fs.O_RDONLY));
  });
  // Our bound, or the process's own where that is lower.
  expect(["ENFILE", "EMFILE"]).toContain(refusal);
  expect(handles.length).toBeLessThanOrEqual(MAX_HANDLES);
  expect(["ENFILE", "EMFILE"]).toContain(
    code(() => directory.create(directory.root, "x", fs.O_RDWR, 0o600, owner)),
  );
  expect(host.existsSync(join(share, "x"))).toBe(false);
  directory.shutdown();
  expect(descriptors()).toBe(0);
});

function list(directory: HostDirectory, handle: HostHandle, from: number, limit: number): [string, number][] {
  const entries: [string, number][] = [];
  directory.readDirectory(handle, from, (name, _id, _kind, next) => {
    if (entries.length >= limit) return false;
    entries.push([name, next]);
    return true;
  });
  return entries;
}

test("a directory is read once through in any steps, whatever is created and removed meanwhile", () => {
  fill(1500);
  const directory = new HostDirectory(share);
  const { root } = directory;
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 20 }),
      fc.nat(),
      (steps, salt) => {
        const handle = directory.open(root, fs.O_RDONLY);
        const seen: string[] = [];
        let made = 0;
        for (let cursor = 0, i = 0; ; i++) {
          const entries = list(directory, handle, cursor, steps[i % steps.length] ?? 1);
          if (entries.length === 0) break;
          seen.push(...entries.map(([name]) => name));
          cursor = entries.at(-1)?.[1] ?? 0;
          if (made < 30) host.writeFileSync(join(share, `new${salt % 7}.${made++}`), "");
          else if (made < 60) host.rmSync(join(share, `new${salt % 7}.${made++ - 30}`), { force: true });
        }
        directory.close(handle);
        const lasting = seen.filter((name) => !name.startsWith("new"));
        expect(lasting.length).toBe(1502);
        expect(new Set(lasting).size).toBe(1502);
        for (let i = 0; i < 30; i++) host.rmSync(join(share, `new${salt % 7}.${i}`), { force: true });
      },
    ),
    { numRuns: 10 },
  );
  directory.shutdown();
});

test("reading goes on from any cursor that was given, and from no other", () => {
  fill(1000);
  const directory = new HostDirectory(share);
  const handle = directory.open(directory.root, fs.O_RDONLY);
  const all = list(directory, handle, 0, Infinity);
  expect(all.length).toBe(1002);
  fc.assert(
    fc.property(fc.nat(all.length - 1), fc.integer({ min: 1, max: 50 }), (at, count) => {
      const behind = list(directory, handle, all[at]?.[1] ?? 0, count);
      expect(behind).toEqual(all.slice(at + 1, at + 1 + count));
    }),
    { numRuns: 40 },
  );
  expect(list(directory, handle, 0, Infinity)).toEqual(all);
  for (const cursor of [-1, 1003, 2 ** 53, 1.5, Number.NaN]) {
    expect(code(() => list(directory, handle, cursor, 1))).toBe("EINVAL");
  }
  const file = directory.open(directory.lookup(directory.root, "file1"), fs.O_RDONLY);
  expect(code(() => list(directory, file, 0, 1))).toBe("ENOTDIR");
  expect(REMEMBERED).toBeGreaterThan(1002);
  directory.shutdown();
});

test("kinds and ids of entries are those of the nodes", () => {
  host.writeFileSync(join(share, "file"), "");
  host.mkdirSync(join(share, "dir"));
  host.symlinkSync("x", join(share, "link"));
  const directory = new HostDirectory(share);
  const handle = directory.open(directory.root, fs.O_RDONLY);
  let entries = 0;
  const seen: [string, number, number][] = [];
  directory.readDirectory(handle, 0, (name, id, kind) => seen.push([name, id, kind]) > 0);
  for (const [name, id, kind] of seen) {
    if (name.startsWith(".")) continue;
    const node = directory.lookup(directory.root, name);
    expect([node.id, node.kind]).toEqual([id, kind]);
    entries++;
  }
  expect(entries).toBe(3);
  directory.shutdown();
});

test("modes are the guest's, whatever the umask of this process is", () => {
  const umask = process.umask(0o077);
  try {
    const directory = new HostDirectory(share);
    const made = directory.create(directory.root, "f", fs.O_RDWR, 0o666, owner);
    expect(directory.getAttributes(made.node).mode).toBe(fs.S_IFREG | 0o666);
    const folder = directory.makeDirectory(directory.root, "d", 0o777, owner);
    expect(directory.getAttributes(folder).mode).toBe(fs.S_IFDIR | 0o777);
    const pipe = directory.makeNode(directory.root, "p", fs.S_IFIFO | 0o622, 0, owner);
    expect(directory.getAttributes(pipe).mode).toBe(fs.S_IFIFO | 0o622);
    directory.setAttributes(folder, { mode: 0o2770 });
    const inner = directory.makeDirectory(folder, "inner", 0o700, owner);
    expect(directory.getAttributes(inner).mode).toBe(fs.S_IFDIR | 0o2700);
    directory.shutdown();
  } finally {
    process.umask(umask);
  }
});

test("times are kept to the nanosecond, and sizes beyond 4 GiB", () => {
  const directory = new HostDirectory(share);
  const { node, handle } = directory.create(directory.root, "f", fs.O_RDWR, 0o600, owner);
  const atime = { seconds: -3, nanoseconds: 999_999_999 };
  const mtime = { seconds: 4_102_444_800, nanoseconds: 1 };
  directory.setAttributes(node, { atime, mtime });
  expect(directory.getAttributes(node)).toMatchObject({
    atime: -3,
    atimeNanoseconds: 999_999_999,
    mtime: 4_102_444_800,
    mtimeNanoseconds: 1,
  });
  directory.setAttributes(node, { mtime: "now" });
  expect(Math.abs(directory.getAttributes(node).mtime - Date.now() / 1000)).toBeLessThan(10);
  expect(directory.getAttributes(node).atime).toBe(-3);
  for (const seconds of [1.5, Infinity, 2 ** 60]) {
    expect(code(() => directory.setAttributes(node, { atime: { seconds, nanoseconds: 0 } }))).toBe("EINVAL");
  }
  const far = 5 * 2 ** 32 + 7;
  expect(directory.write(handle, far, Uint8Array.of(1, 2, 3))).toBe(3);
  expect(directory.getAttributes(node).size).toBe(far + 3);
  const target = new Uint8Array(5);
  expect(directory.read(handle, far + 1, target)).toBe(2);
  expect([...target]).toEqual([2, 3, 0, 0, 0]);
  directory.setAttributes(node, { size: 10 }, handle);
  expect(directory.getAttributes(node).size).toBe(10);
  directory.sync(handle, true);
  directory.sync(handle, false);
  directory.shutdown();
});

test("lists of buffers are read and written as one piece, also more of them than one call takes", () => {
  const directory = new HostDirectory(share);
  const { handle } = directory.create(directory.root, "f", fs.O_RDWR, 0o600, owner);
  const content = Uint8Array.from({ length: 5000 }, (_, i) => i * 7);
  const cut = (bytes: Uint8Array, lengths: readonly number[]): Uint8Array[] => {
    let at = 0;
    return lengths.map((length) => bytes.subarray(at, (at += length)));
  };
  const lengths = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 1500, size: "max" });
  fc.assert(
    fc.property(lengths, fc.nat(2000), (sizes, offset) => {
      directory.setAttributes(handle.node, { size: 0 }, handle);
      directory.write(handle, 0, content);
      const target = new Uint8Array(16_000);
      const wanted = sizes.reduce((sum, size) => sum + size, 0);
      const got = directory.readVector(handle, offset, cut(target, sizes));
      expect(got).toBe(Math.min(wanted, content.length - offset));
      expect(Buffer.compare(target.subarray(0, got), content.subarray(offset, offset + got))).toBe(0);
      const other = target.map((byte) => byte ^ 0xff);
      const put = directory.writeVector(handle, offset, cut(other, sizes));
      expect(put).toBe(sizes.slice(0, 1024).reduce((sum, size) => sum + size, 0));
      directory.read(handle, offset, target.subarray(0, put));
      expect(Buffer.compare(target.subarray(0, put), other.subarray(0, put))).toBe(0);
    }),
    { numRuns: 30 },
  );
  const reader = directory.open(handle.node, fs.O_RDONLY);
  expect(code(() => directory.writeVector(reader, 0, [content]))).toBe("EBADF");
  const folder = directory.open(directory.root, fs.O_RDONLY);
  expect(code(() => directory.readVector(folder, 0, [content]))).toBe("EISDIR");
  directory.shutdown();
});

test("the version of a node changes with its contents", () => {
  const directory = new HostDirectory(share);
  const { node, handle } = directory.create(directory.root, "f", fs.O_RDWR, 0o600, owner);
  directory.getAttributes(node);
  const before = node.version;
  directory.write(handle, 0, Uint8Array.of(1));
  directory.release(directory.lookup(directory.root, "f"));
  expect(node.version).not.toBe(before);
  directory.shutdown();
});

test("a file without the right to write is opened as it is created", () => {
  const directory = new HostDirectory(share);
  const { node, handle } = directory.create(directory.root, "f", fs.O_RDWR, 0o400, owner);
  expect(directory.write(handle, 0, Uint8Array.of(1, 2))).toBe(2);
  directory.setAttributes(node, { size: 1 }, handle);
  expect(directory.getAttributes(node).size).toBe(1);
  directory.shutdown();
});

test("locks of two owners keep each other out, and end with the handle", () => {
  fill(1);
  const directory = new HostDirectory(share);
  const node = directory.lookup(directory.root, "file0");
  const [a, b] = [directory.open(node, fs.O_RDWR), directory.open(node, fs.O_RDWR)];
  const lock = (key: string): fs.FileLock => ({
    exclusive: true,
    start: 0,
    length: 0,
    owner: { key, process: 1, client: key },
  });
  expect(directory.lock(a, lock("a"))).toBe(true);
  expect(directory.lock(b, lock("b"))).toBe(false);
  expect(directory.testLock(b, lock("b"))?.owner.key).toBe("a");
  directory.close(a);
  expect(directory.lock(b, lock("b"))).toBe(true);
  directory.unlock(b, lock("b").owner, 0, 0);
  expect(directory.testLock(b, lock("a"))).toBeUndefined();
  directory.shutdown();
});

test("statistics are those of the host", () => {
  const directory = new HostDirectory(share);
  const mine = directory.statistics();
  const theirs = host.statfsSync(share);
  expect([mine.type, mine.blockSize, mine.blocks, mine.files]).toEqual([
    theirs.type,
    theirs.bsize,
    theirs.blocks,
    theirs.files,
  ]);
  expect(mine.nameMax).toBe(255);
  directory.shutdown();
});

test("what cannot be shared is an error that names it", () => {
  host.writeFileSync(join(share, "file"), "");
  expect(() => new HostDirectory(join(share, "missing"))).toThrow(
    `cannot share '${join(share, "missing")}': no such`,
  );
  expect(() => new HostDirectory(join(share, "file"))).toThrow("not a directory");
});

test("security_model=mapped-xattr keeps owners and special files apart from the host's", () => {
  const directory = new HostDirectory(share, { securityModel: "mapped-xattr" });
  const { root } = directory;
  const root0 = { uid: 0, gid: 0 };
  const { node, handle } = directory.create(root, "f", fs.O_RDWR, 0o4755, { uid: 1234, gid: 99 });
  expect(directory.getAttributes(node)).toMatchObject({ mode: fs.S_IFREG | 0o4755, uid: 1234, gid: 99 });
  expect(host.statSync(join(share, "f"))).toMatchObject({ mode: fs.S_IFREG | 0o600, ...owner });
  directory.setAttributes(node, { uid: 0, mode: 0o111 });
  expect(directory.getAttributes(node)).toMatchObject({ mode: fs.S_IFREG | 0o111, uid: 0, gid: 99 });
  directory.write(handle, 0, Buffer.from("x"));

  const folder = directory.makeDirectory(root, "d", 0o1777, root0);
  expect(directory.getAttributes(folder).mode).toBe(fs.S_IFDIR | 0o1777);
  const made: [string, number][] = [
    ["link", fs.S_IFLNK],
    ["null", fs.S_IFCHR],
    ["disk", fs.S_IFBLK],
    ["pipe", fs.S_IFIFO],
    ["sock", fs.S_IFSOCK],
  ];
  for (const [name, kind] of made) {
    const special =
      kind === fs.S_IFLNK
        ? directory.makeSymlink(root, name, "../tärget", root0)
        : directory.makeNode(root, name, kind | 0o640, 0x12345, root0);
    const again = directory.lookup(root, name);
    expect(again).toBe(special);
    expect(special.kind).toBe(kind);
    const { mode, rdev } = directory.getAttributes(special);
    expect(mode & fs.S_IFMT).toBe(kind);
    expect(rdev).toBe(kind === fs.S_IFCHR || kind === fs.S_IFBLK ? 0x12345 : 0);
    expect(host.lstatSync(join(share, name)).isFile()).toBe(true);
    expect(code(() => directory.open(special, fs.O_RDWR))).toBe(kind === fs.S_IFLNK ? "ELOOP" : "ENXIO");
    if (kind === fs.S_IFLNK) expect(directory.readLink(special)).toBe("../tärget");
    directory.release(again);
    directory.release(special);
    expect(directory.lookup(root, name).kind).toBe(kind);
  }
  const kinds = new Map<string, number>();
  const listing = directory.open(root, fs.O_RDONLY);
  directory.readDirectory(listing, 0, (name, _id, kind) => kinds.set(name, kind).size > 0);
  for (const [name, kind] of [...made, ["f", fs.S_IFREG] as const, ["d", fs.S_IFDIR] as const]) {
    expect([name, kinds.get(name)]).toEqual([name, kind]);
  }
  // The guest sees nothing of how this is kept, and cannot change it by the back door.
  directory.setXattr(node, "user.mine", Uint8Array.of(1), 0);
  expect(directory.listXattrs(node)).toEqual(["user.mine"]);
  expect(code(() => directory.setXattr(node, "user.virtfs.mode", new Uint8Array(4), 0))).toBe("EOPNOTSUPP");
  directory.shutdown();

  // QEMU's format: little-endian 32 bits, 64 for a device.
  const plain = new HostDirectory(share);
  const file = plain.lookup(plain.root, "f");
  expect([...plain.getXattr(file, "user.virtfs.gid")]).toEqual([99, 0, 0, 0]);
  expect([...plain.getXattr(file, "user.virtfs.mode")]).toEqual([0o111, 0x80, 0, 0]);
  expect([...plain.getXattr(plain.lookup(plain.root, "null"), "user.virtfs.rdev")]).toEqual([
    0x45, 0x23, 1, 0, 0, 0, 0, 0,
  ]);
  plain.shutdown();
});

test.runIf(isRoot)("security_model=passthrough gives files to the guest's users, and makes devices", () => {
  const directory = new HostDirectory(share, { securityModel: "passthrough" });
  const them = { uid: 1234, gid: 4321 };
  const { node } = directory.create(directory.root, "f", fs.O_RDWR, 0o4755, them);
  const link = directory.makeSymlink(directory.root, "s", "x", them);
  const device = directory.makeNode(directory.root, "null", fs.S_IFCHR | 0o600, 0x103, them);
  for (const each of [node, link, device]) expect(directory.getAttributes(each)).toMatchObject(them);
  expect(directory.getAttributes(node).mode).toBe(fs.S_IFREG | 0o4755);
  expect(host.statSync(join(share, "null"))).toMatchObject({ rdev: 0x103, uid: 1234 });
  expect(directory.getAttributes(device).rdev).toBe(0x103);
  expect(code(() => directory.open(device, fs.O_RDWR))).toBe("ENXIO");
  directory.setAttributes(node, { gid: 7 });
  expect(host.statSync(join(share, "f"))).toMatchObject({ uid: 1234, gid: 7 });
  directory.shutdown();
});
