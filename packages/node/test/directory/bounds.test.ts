import { execFileSync, spawn } from "node:child_process";
import * as host from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InProcessMachine } from "@virtio/testkit/machine";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Errno } from "virtio/backends/errno";
import * as fs from "virtio/backends/file-system";
import { ninePDevice } from "virtio/devices/9p/device";
import { NinePDriver } from "virtio/drivers/9p/driver";
import { MAX_COOKIE_BYTES, MAX_ENTRY_BUFFERS } from "../../src/directory/directory-memory.ts";
import { HostDirectory, type HostHandle } from "../../src/directory/host-directory.ts";
import type { HostNode } from "../../src/directory/node-table.ts";

/** What a guest can make a shared directory hold or wait for, and what it holds on to. */

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
let share = "";
beforeEach(() => {
  share = host.mkdtempSync(join(tmpdir(), "virtio-bounds-"));
});
// Not by Node, whose paths end at 4,096 bytes.
afterEach(() => void execFileSync("rm", ["-rf", share]));

function code(action: () => unknown): string {
  try {
    action();
    return "none";
  } catch (error) {
    if (error instanceof Errno) return error.code;
    throw error;
  }
}

function fill(count: number): void {
  for (let i = 0; i < count; i++) host.writeFileSync(join(share, `file${i}`), "");
}

function list(directory: HostDirectory, handle: HostHandle, from: number, limit: number): [string, number][] {
  const entries: [string, number][] = [];
  directory.readDirectory(handle, from, (name, _id, _kind, next) => {
    if (entries.length >= limit) return false;
    entries.push([name, next]);
    return true;
  });
  return entries;
}

test("nodes and their names are bounded in bytes", () => {
  fill(300);
  const directory = new HostDirectory(share, { maxNodeBytes: 100_000 });
  const { root } = directory;
  const held: HostNode[] = [];
  let refusal = "none";
  for (let i = 0; refusal === "none"; i++) {
    refusal = code(() => held.push(directory.lookup(root, `file${i}`)));
  }
  expect(refusal).toBe("ENFILE");
  expect(held.length).toBeGreaterThan(100);
  expect(held.length).toBeLessThan(200);
  // What would need more is refused before it is done.
  const long = "x".repeat(255);
  expect(code(() => directory.makeDirectory(root, long, 0o700, owner))).toBe("ENFILE");
  expect(code(() => directory.create(root, long, fs.O_RDWR, 0o600, owner))).toBe("ENFILE");
  expect(code(() => directory.rename(root, "file0", root, long))).toBe("ENFILE");
  expect(host.readdirSync(share).length).toBe(300);
  for (const node of held) directory.release(node);
  for (let round = 0; round < 500; round++) directory.release(directory.lookup(root, "file1"));
  expect(directory.counts.nodes).toBe(1);
  directory.shutdown();
});

test("open directories share a few buffers and a bounded memory of places", () => {
  fill(2500);
  const directory = new HostDirectory(share);
  const handles = Array.from({ length: 3 * MAX_ENTRY_BUFFERS }, () =>
    directory.open(directory.root, fs.O_RDONLY),
  );
  const wanted = list(directory, handles[0] as HostHandle, 0, Infinity);
  const cursors = handles.map(() => 0);
  const seen = handles.map((): string[] => []);
  // All are read at once, a little at a time, so each loses its buffer again and again.
  for (let more = true; more;) {
    more = false;
    for (const [i, handle] of handles.entries()) {
      const entries = list(directory, handle, cursors[i] ?? 0, 700);
      cursors[i] = entries.at(-1)?.[1] ?? cursors[i] ?? 0;
      seen[i]?.push(...entries.map(([name]) => name));
      more ||= entries.length > 0;
      expect(directory.directoryBytes).toBeLessThanOrEqual(MAX_ENTRY_BUFFERS * 32_768 + MAX_COOKIE_BYTES);
    }
  }
  for (const names of seen) expect(names).toEqual(wanted.map(([name]) => name));
  for (const handle of handles) directory.close(handle);
  expect(directory.directoryBytes).toBeLessThanOrEqual(MAX_ENTRY_BUFFERS * 32_768);
  directory.shutdown();
});

test("a cursor of another handle goes on there, also when that handle is closed", () => {
  fill(1000);
  const directory = new HostDirectory(share);
  const open = (): HostHandle => directory.open(directory.root, fs.O_RDONLY);
  const first = open();
  const all = list(directory, first, 0, Infinity);
  for (const at of [0, 1, 500, 1000]) {
    const behind = list(directory, open(), all[at]?.[1] ?? 0, 50);
    expect(behind).toEqual(all.slice(at + 1, at + 51));
  }
  directory.close(first);
  expect(list(directory, open(), all[600]?.[1] ?? 0, 50)).toEqual(all.slice(601, 651));
  // There may be less by now than there was: that is the end.
  expect(list(directory, open(), 5000, 50)).toEqual([]);
  directory.shutdown();
});

test("a directory that is read while the machine is saved goes on, though what was read is removed", async () => {
  fill(500);
  const directory = new HostDirectory(share);
  const machine = new InProcessMachine();
  const plugged = machine.plugPci(ninePDevice({ tag: "t", fileSystem: directory }));
  const driver = await NinePDriver.open(plugged.open(), { msize: 4096 });
  const root = await driver.attach();
  const opened = await (await root.walk()).open();
  const names: string[] = [];
  for await (const entry of opened.entries()) {
    names.push(entry.name);
    if (entry.name.startsWith("file")) await root.unlink(entry.name);
    if (names.length !== 100 && names.length !== 300) continue;
    const { instance, fn } = plugged;
    await instance.pause();
    const [device, transport] = structuredClone([instance.save(), fn.save()]);
    instance.restore(device);
    // Saved again before it is used it is the same.
    expect(instance.save()).toEqual(device);
    fn.restore(transport);
    instance.resume();
  }
  expect(new Set(names).size).toBe(502);
  expect(host.readdirSync(share)).toEqual([]);
});

test("a position of another directory, or none at all, is ignored", () => {
  fill(50);
  const directory = new HostDirectory(share);
  const all = list(directory, directory.open(directory.root, fs.O_RDONLY), 0, Infinity);
  for (const position of [
    [],
    [5],
    [5, 2 ** 40, 0, directory.root.id],
    [5, 1, 1, directory.root.id + 1],
    [0],
  ]) {
    const handle = directory.open(directory.root, fs.O_RDONLY);
    directory.restoreDirectoryPosition(handle, position);
    expect(list(directory, handle, all[9]?.[1] ?? 0, 100)).toEqual(all.slice(10));
  }
  directory.shutdown();
});

test("what was held without a descriptor is stale when its directory was renamed, and found again by name", () => {
  host.mkdirSync(join(share, "d"));
  for (let i = 0; i < 300; i++) host.writeFileSync(join(share, "d", `file${i}`), `${i}`);
  const directory = new HostDirectory(share, { maxDescriptors: 64 });
  const d = directory.lookup(directory.root, "d");
  const nodes = Array.from({ length: 300 }, (_, i) => directory.lookup(d, `file${i}`));
  host.renameSync(join(share, "d"), join(share, "e"));
  host.mkdirSync(join(share, "d"));
  const outcomes = new Set(nodes.map((node) => code(() => directory.getAttributes(node))));
  expect(outcomes).toEqual(new Set(["none", "ESTALE"]));
  const e = directory.lookup(directory.root, "e");
  for (const [i, node] of nodes.entries()) {
    const again = directory.lookup(e, `file${i}`);
    expect(again).toBe(node);
    expect(code(() => directory.getAttributes(node))).toBe("none");
  }
  directory.shutdown();
});

test("nodes far down are found again in a few calls, and .. of them too", () => {
  const directory = new HostDirectory(share, { maxDescriptors: 16 });
  const chain = [directory.root];
  const name = "n".repeat(100);
  for (let i = 0; i < 400; i++) {
    chain.push(directory.makeDirectory(chain.at(-1) ?? directory.root, name, 0o700, owner));
  }
  for (const at of [400, 17, 399, 200]) {
    const node = chain[at] ?? directory.root;
    expect(directory.getAttributes(node).mode & fs.S_IFMT).toBe(fs.S_IFDIR);
    const above = directory.parent(node);
    expect(above).toBe(chain[at - 1]);
    directory.release(above);
    expect(directory.locate(node)?.length).toBe(at);
  }
  // The host moves a part of it up: how deep it lies is found out anew, and nothing else is taken for it.
  const half = join(share, ...Array<string>(20).fill(name));
  const low = chain[30] ?? directory.root;
  directory.getAttributes(low);
  host.renameSync(half, join(share, "up"));
  expect(directory.locate(low)?.length).toBe(11);
  const above = directory.parent(low);
  expect(above).toBe(chain[29]);
  directory.release(above);
  directory.shutdown();
});

test("a file that lost the name it was found by has another", () => {
  host.mkdirSync(join(share, "a"));
  host.writeFileSync(join(share, "a", "x"), "");
  host.linkSync(join(share, "a", "x"), join(share, "y"));
  const directory = new HostDirectory(share);
  const y = directory.lookup(directory.root, "y");
  const a = directory.lookup(directory.root, "a");
  expect(directory.lookup(a, "x")).toBe(y);
  host.renameSync(join(share, "a", "x"), join(share, "a", "z"));
  expect(directory.locate(y)).toEqual(["y"]);
  host.unlinkSync(join(share, "a", "z"));
  host.unlinkSync(join(share, "y"));
  expect(directory.locate(y)).toBeUndefined();
  directory.shutdown();
});

test("nothing waits for a lease that somebody on the host has: EAGAIN", async () => {
  const file = join(share, "file");
  host.writeFileSync(file, "content");
  const holder = spawn(process.execPath, [join(import.meta.dirname, "lease.cjs"), file], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise<void>((resolve) => holder.once("close", () => resolve()));
  const said = await new Promise<string>((resolve) =>
    holder.stdout.setEncoding("utf8").once("data", (text: string) => resolve(text)),
  );
  expect(said).toBe("lease\n");
  const directory = new HostDirectory(share);
  const node = directory.lookup(directory.root, "file");
  const wait = Number(host.readFileSync("/proc/sys/fs/lease-break-time", "utf8")) * 1000;
  const before = Date.now();
  expect(code(() => directory.setAttributes(node, { size: 3 }))).toBe("EAGAIN");
  expect(code(() => directory.open(node, fs.O_RDWR))).toBe("EAGAIN");
  expect(code(() => directory.create(directory.root, "file", fs.O_RDWR, 0o600, owner))).toBe("EAGAIN");
  // What needs no lease to be broken goes on.
  directory.setAttributes(node, { mode: 0o640, mtime: "now" });
  directory.rename(directory.root, "file", directory.root, "other");
  expect(Date.now() - before).toBeLessThan(wait / 2);
  expect(host.readFileSync(join(share, "other"), "utf8")).toBe("content");
  holder.stdin.end();
  await ended;
  directory.setAttributes(node, { size: 3 });
  expect(host.readFileSync(join(share, "other"), "utf8")).toBe("con");
  directory.shutdown();
});
