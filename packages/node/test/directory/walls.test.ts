import { HANG_MS } from "@virtio/testkit/until";
import { execFileSync, spawn } from "node:child_process";
import * as host from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Errno } from "virtio/backends/errno";
import * as fs from "virtio/backends/file-system";
import type { FileSystem } from "virtio/backends/file-system";
import { HostDirectory } from "../../src/directory/host-directory.ts";

/** Nothing outside of the share is reached, and nothing on the host is acted on but regular files. */

const isRoot = process.getuid?.() === 0;
const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
let folder = "";
let share = "";
let outside = "";

beforeEach(() => {
  folder = host.mkdtempSync(join(tmpdir(), "virtio-walls-"));
  share = join(folder, "share");
  outside = join(folder, "outside");
  host.mkdirSync(share);
  host.mkdirSync(outside);
  host.writeFileSync(join(outside, "file"), "OUTSIDE");
});
afterEach(() => host.rmSync(folder, { recursive: true }));

function code(action: () => unknown): string {
  try {
    action();
    return "none";
  } catch (error) {
    if (error instanceof Errno) return error.code;
    throw error;
  }
}

test("names that are no single component are refused by every call that takes a name", () => {
  const directory = new HostDirectory(share);
  const { root } = directory;
  const { node } = directory.create(root, "file", fs.O_RDWR, 0o600, owner);
  const calls: ((name: string) => unknown)[] = [
    (name) => directory.lookup(root, name),
    (name) => directory.create(root, name, fs.O_RDWR, 0o600, owner),
    (name) => directory.makeDirectory(root, name, 0o700, owner),
    (name) => directory.makeSymlink(root, name, "x", owner),
    (name) => directory.makeNode(root, name, fs.S_IFIFO | 0o600, 0, owner),
    (name) => directory.link(node, root, name),
    (name) => directory.unlink(root, name),
    (name) => directory.removeDirectory(root, name),
    (name) => directory.rename(root, name, root, "x"),
    (name) => directory.rename(root, "file", root, name),
  ];
  const bad = fc.oneof(
    fc.constantFrom(
      "",
      ".",
      "..",
      "/",
      "a/b",
      "../outside",
      "/etc",
      "a\0",
      "\0",
      "../../..",
      "file/../../outside",
    ),
    fc.tuple(fc.string(), fc.constantFrom("/", "\0"), fc.string()).map((parts) => parts.join("")),
  );
  fc.assert(
    fc.property(bad, fc.constantFrom(...calls), (name, call) => {
      expect(["EINVAL", "ENAMETOOLONG"]).toContain(code(() => call(name)));
    }),
  );
  expect(code(() => directory.lookup(root, "é".repeat(128)))).toBe("ENAMETOOLONG");
  expect(host.readdirSync(share)).toEqual(["file"]);
  expect(host.readdirSync(folder).sort()).toEqual(["outside", "share"]);
  directory.shutdown();
});

test("a symlink is a node and no way", () => {
  host.symlinkSync("../outside", join(share, "relative"));
  host.symlinkSync(outside, join(share, "absolute"));
  host.symlinkSync(join(outside, "file"), join(share, "file"));
  const directory = new HostDirectory(share);
  for (const name of ["relative", "absolute", "file"]) {
    const node = directory.lookup(directory.root, name);
    expect(node.kind).toBe(fs.S_IFLNK);
    expect(code(() => directory.lookup(node, "file"))).toBe("ENOTDIR");
    expect(code(() => directory.create(node, "new", fs.O_RDWR, 0o600, owner))).toBe("ENOTDIR");
    expect(code(() => directory.open(node, fs.O_RDWR))).toBe("ELOOP");
    expect(code(() => directory.create(directory.root, name, fs.O_RDWR | fs.O_TRUNC, 0o600, owner))).toBe(
      "ELOOP",
    );
    expect(code(() => directory.setAttributes(node, { size: 0 }))).toBe("EINVAL");
    // Of the link itself.
    directory.setAttributes(node, { mtime: { seconds: 1, nanoseconds: 2 } });
    expect(directory.getAttributes(node).mtimeNanoseconds).toBe(2);
    const link = join(share, `link of ${name}`);
    directory.link(node, directory.root, `link of ${name}`);
    expect(host.lstatSync(link).isSymbolicLink()).toBe(true);
  }
  expect(host.readFileSync(join(outside, "file"), "utf8")).toBe("OUTSIDE");
  expect(host.statSync(join(outside, "file")).mtimeMs).toBeGreaterThan(1e12);
  expect(host.readdirSync(outside)).toEqual(["file"]);
  directory.shutdown();
});

test("no way leads above the root, nor out of a directory that was moved out of the share", () => {
  host.mkdirSync(join(share, "a/b/c"), { recursive: true });
  const directory = new HostDirectory(share);
  const { root } = directory;
  expect(directory.parent(root)).toBe(root);
  const a = directory.lookup(root, "a");
  const b = directory.lookup(a, "b");
  const c = directory.lookup(b, "c");
  expect([directory.parent(a), directory.parent(b), directory.parent(c)]).toEqual([root, a, b]);
  host.renameSync(join(share, "a/b"), join(outside, "b"));
  expect(directory.parent(b)).toBe(root);
  // What was above it in the share and is now outside is not handed out either.
  expect(directory.parent(c)).toBe(root);
  expect(directory.locate(c)).toBeUndefined();
  host.renameSync(join(outside, "b"), join(share, "b"));
  expect(directory.parent(b)).toBe(root);
  expect(directory.parent(c)).toBe(b);
  expect(directory.locate(c)).toEqual(["b", "c"]);
  directory.shutdown();
});

test("the entry .. of the root is the root", () => {
  const directory = new HostDirectory(share);
  const handle = directory.open(directory.root, fs.O_RDONLY);
  const ids = new Map<string, number>();
  directory.readDirectory(handle, 0, (name, id) => ids.set(name, id).size > 0);
  expect(ids.get("..")).toBe(directory.root.id);
  directory.shutdown();
});

test("FIFOs, sockets and devices of the host are seen, and never opened", async () => {
  execFileSync("mkfifo", [join(share, "fifo")]);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(share, "socket"), resolve));
  const names = ["fifo", "socket"];
  if (isRoot) {
    execFileSync("mknod", [join(share, "device"), "c", "1", "3"]);
    names.push("device");
  }
  const directory = new HostDirectory(share);
  for (const name of names) {
    const node = directory.lookup(directory.root, name);
    for (const flags of [fs.O_RDONLY, fs.O_WRONLY, fs.O_RDWR, fs.O_RDWR | fs.O_TRUNC]) {
      expect(code(() => directory.open(node, flags))).toBe("ENXIO");
      expect(code(() => directory.create(directory.root, name, flags, 0o600, owner))).toBe("ENXIO");
    }
    expect(code(() => directory.setAttributes(node, { size: 0 }))).toBe("EINVAL");
    expect(directory.getAttributes(node).nlink).toBe(1);
  }
  directory.shutdown();
  server.close();
});

test("a guest makes no devices on the host", () => {
  const directory = new HostDirectory(share);
  expect(code(() => directory.makeNode(directory.root, "null", fs.S_IFCHR | 0o666, 0x103, owner))).toBe(
    "EPERM",
  );
  expect(code(() => directory.makeNode(directory.root, "disk", fs.S_IFBLK | 0o666, 0x800, owner))).toBe(
    "EPERM",
  );
  expect(code(() => directory.makeNode(directory.root, "dir", fs.S_IFDIR | 0o777, 0, owner))).toBe("EINVAL");
  expect(host.readdirSync(share)).toEqual([]);
  directory.shutdown();
});

test("attributes that mean something to the host are not for the guest", () => {
  const directory = new HostDirectory(share);
  const { node } = directory.create(directory.root, "file", fs.O_RDWR, 0o600, owner);
  for (const name of [
    "security.capability",
    "trusted.overlay.opaque",
    "system.nfs4_acl",
    "security.selinux",
    "",
  ]) {
    expect(code(() => directory.setXattr(node, name, Uint8Array.of(1), 0))).toBe("EOPNOTSUPP");
    expect(code(() => directory.getXattr(node, name))).toBe("EOPNOTSUPP");
    expect(code(() => directory.removeXattr(node, name))).toBe("EOPNOTSUPP");
  }
  expect(code(() => directory.setXattr(node, "user.\0x", Uint8Array.of(1), 0))).toBe("EINVAL");
  directory.shutdown();
});

test("a read-only share changes nothing", () => {
  host.writeFileSync(join(share, "file"), "stays");
  const before = host.statSync(join(share, "file"));
  const directory: FileSystem<
    ReturnType<HostDirectory["lookup"]>,
    ReturnType<HostDirectory["open"]>
  > = new HostDirectory(share, { readOnly: true });
  const { root } = directory;
  const node = directory.lookup(root, "file") as ReturnType<HostDirectory["lookup"]>;
  const changes: (() => unknown)[] = [
    () => directory.create(root, "new", fs.O_RDWR, 0o600, owner),
    () => directory.create(root, "file", fs.O_RDWR, 0o600, owner),
    () => directory.makeDirectory(root, "d", 0o700, owner),
    () => directory.makeSymlink(root, "s", "x", owner),
    () => directory.makeNode(root, "n", fs.S_IFIFO | 0o600, 0, owner),
    () => directory.link(node, root, "l"),
    () => directory.unlink(root, "file"),
    () => directory.removeDirectory(root, "file"),
    () => directory.rename(root, "file", root, "x"),
    () => directory.setAttributes(node, { mode: 0o777 }),
    () => directory.setAttributes(node, { size: 0 }),
    () => directory.setXattr(node, "user.a", Uint8Array.of(1), 0),
    () => directory.removeXattr(node, "user.a"),
    () => directory.open(node, fs.O_WRONLY),
    () => directory.open(node, fs.O_RDWR),
    () => directory.open(node, fs.O_RDONLY | fs.O_TRUNC),
  ];
  for (const change of changes) expect(code(change)).toBe("EROFS");
  const handle = directory.open(node, fs.O_RDONLY) as ReturnType<HostDirectory["open"]>;
  expect(code(() => directory.write(handle, 0, Uint8Array.of(1)))).toBe("EBADF");
  expect(host.statSync(join(share, "file"))).toMatchObject({ ctimeMs: before.ctimeMs, size: 5 });
  void directory.shutdown?.();
});

test("while directories and symlinks are swapped under the guest's feet, nothing outside is read or written", async () => {
  const inside = join(share, "swap");
  const other = join(share, "link");
  host.mkdirSync(inside);
  host.writeFileSync(join(inside, "file"), "inside");
  host.symlinkSync(outside, other);
  const stop = join(folder, "stop");
  const swapper = spawn(
    process.execPath,
    [join(import.meta.dirname, "swap.cjs"), inside, join(share, "aside"), other, stop],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let said = "";
  swapper.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
  const ended = new Promise<void>((resolve) => swapper.once("close", () => resolve()));
  while (said === "") await new Promise((resolve) => setTimeout(resolve, 5));

  const directory = new HostDirectory(share, { maxDescriptors: 16 });
  const { root } = directory;
  const seen = new Map<string, number>();
  const count = (what: string): void => void seen.set(what, (seen.get(what) ?? 0) + 1);
  const buffer = new Uint8Array(32);
  const enough = (): boolean =>
    (seen.get("inside") ?? 0) > 100 && (seen.get("ENOTDIR") ?? 0) + (seen.get("ENOENT") ?? 0) > 10;
  // As long as it takes on a busy machine to meet both states often.
  const least = Date.now() + 1500;
  const most = Date.now() + HANG_MS;
  for (let round = 0; Date.now() < least || (!enough() && Date.now() < most); round++) {
    let node: ReturnType<HostDirectory["lookup"]> | undefined;
    try {
      node = directory.lookup(root, "swap");
      const file = directory.lookup(node, "file");
      const handle = directory.open(file, fs.O_RDWR);
      const got = directory.read(handle, 0, buffer);
      count(Buffer.from(buffer.subarray(0, got)).toString());
      directory.write(handle, 0, Buffer.from("inside"));
      directory.close(handle);
      directory.release(file);
      const name = `new${round % 5}`;
      const made = directory.create(node, name, fs.O_RDWR, 0o600, owner);
      directory.close(made.handle);
      directory.release(made.node);
      directory.unlink(node, name);
      expect(directory.parent(node)).toBe(root);
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
      count(error.code);
    }
    if (node !== undefined) directory.release(node);
  }
  host.writeFileSync(stop, "");
  await ended;
  expect(seen.get("inside") ?? 0).toBeGreaterThan(100);
  // The other state was met as well, or the race was none.
  expect((seen.get("ENOTDIR") ?? 0) + (seen.get("ENOENT") ?? 0)).toBeGreaterThan(10);
  expect(seen.has("OUTSIDE")).toBe(false);
  expect(host.readFileSync(join(outside, "file"), "utf8")).toBe("OUTSIDE");
  expect(host.readdirSync(outside)).toEqual(["file"]);
  expect(directory.counts.handles).toBe(0);
  directory.shutdown();
});
