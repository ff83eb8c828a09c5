import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { errnoOf, Errno } from "virtio/backends/errno";
import * as fs from "virtio/backends/file-system";
import type { FileHandle, FileNode, FileSystem } from "virtio/backends/file-system";
import { locate } from "virtio/backends/locate";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import { MIN_DESCRIPTORS } from "../../src/directory/node-table.ts";
import { HostDirectory } from "../../src/directory/host-directory.ts";
import type { HostDirectoryOptions } from "../../src/directory/options.ts";

/** A directory of the host against the file system in memory: the same history must have the same outcomes. */

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-share-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
const name = fc.oneof(
  fc.constantFrom("a", "b", "c", "é", "\udcff", "with space", ".hidden"),
  fc.nat(20).map((number) => `n${number}`),
);
const slot = fc.nat(40);
const bytes = fc.uint8Array({ maxLength: 40 });
const mode = fc.constantFrom(0o600, 0o640, 0o755, 0o777);

type Step =
  | {
      op: "lookup" | "unlink" | "rmdir" | "mkdir" | "fifo" | "regular";
      at: number;
      name: string;
      mode: number;
    }
  | { op: "create"; at: number; name: string; mode: number; flags: number }
  | { op: "symlink"; at: number; name: string; target: string }
  | { op: "link" | "rename"; at: number; name: string; from: number; fromName: string }
  | { op: "attributes" | "parent" | "locate" | "readlink" | "release" | "list" | "xattrs"; at: number }
  | { op: "change"; at: number; mode: number; size: number | undefined }
  | { op: "open"; at: number; flags: number }
  | { op: "close"; at: number }
  | { op: "read"; at: number; offset: number; length: number }
  | { op: "write"; at: number; offset: number; bytes: Uint8Array }
  | { op: "set"; at: number; key: string; bytes: Uint8Array; flags: number }
  | { op: "get" | "remove"; at: number; key: string };

const key = fc.constantFrom("user.a", "user.b");
const openFlags = fc.constantFrom(
  fs.O_RDONLY,
  fs.O_WRONLY,
  fs.O_RDWR,
  fs.O_RDWR | fs.O_TRUNC,
  fs.O_RDWR | fs.O_APPEND,
  fs.O_DIRECTORY,
);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constantFrom(
        "lookup" as const,
        "lookup",
        "mkdir",
        "mkdir",
        "unlink",
        "rmdir",
        "fifo",
        "regular",
      ),
      at: slot,
      name,
      mode,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant("create" as const),
      at: slot,
      name,
      mode,
      flags: fc.constantFrom(fs.O_RDWR, fs.O_RDWR | fs.O_EXCL, fs.O_WRONLY | fs.O_TRUNC),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("symlink" as const),
      at: slot,
      name,
      target: fc.constantFrom("a", "/", ".."),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constantFrom("link" as const, "rename", "rename"),
      at: slot,
      name,
      from: slot,
      fromName: name,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constantFrom("attributes" as const, "parent", "locate", "readlink", "release", "list", "xattrs"),
      at: slot,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("change" as const),
      at: slot,
      mode,
      size: fc.option(fc.nat(100), { nil: undefined }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("open" as const), at: slot, flags: openFlags }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("close" as const), at: slot }) },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("read" as const),
      at: slot,
      offset: fc.nat(60),
      length: fc.nat(80),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant("write" as const), at: slot, offset: fc.nat(60), bytes }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("set" as const),
      at: slot,
      key,
      bytes,
      flags: fc.constantFrom(0, fs.XATTR_CREATE, fs.XATTR_REPLACE),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constantFrom("get" as const, "remove"), at: slot, key }) },
);

/** Runs steps and says what came out, without what two file systems need not agree on (ids, times, blocks). */
class Player<N extends FileNode, H extends FileHandle & { readonly node: N }> {
  readonly nodes: N[];
  readonly handles: H[] = [];
  readonly #fs: FileSystem<N, H>;

  constructor(system: FileSystem<N, H>) {
    this.#fs = system;
    this.nodes = [system.root];
  }

  play(step: Step): unknown {
    try {
      return this.#run(step);
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
      return Errno.of(errnoOf(error)).code;
    }
  }

  #run(step: Step): unknown {
    const system = this.#fs;
    const node = this.nodes[step.at % this.nodes.length] ?? system.root;
    const handle = this.handles[step.at % Math.max(1, this.handles.length)];
    // Linux has no attributes of users on anything else, and says so in several ways.
    const isPlain = node.kind === fs.S_IFREG || node.kind === fs.S_IFDIR;
    if (!isPlain && (step.op === "set" || step.op === "get" || step.op === "remove")) return undefined;
    // Nor a mode of symlinks.
    if (node.kind === fs.S_IFLNK && step.op === "change") return undefined;
    switch (step.op) {
      case "lookup":
        return this.#keep(system.lookup(node, step.name) as N);
      case "parent":
        // What is above a removed directory nobody says.
        if (node.kind !== fs.S_IFDIR || locate(system, node) === undefined) return undefined;
        return this.#keep(system.parent(node) as N);
      case "mkdir":
        return this.#keep(system.makeDirectory(node, step.name, step.mode | 0o700, owner) as N);
      case "symlink":
        return this.#keep(system.makeSymlink(node, step.name, step.target, owner) as N);
      case "fifo":
        return this.#keep(system.makeNode(node, step.name, fs.S_IFIFO | step.mode, 0, owner) as N);
      case "regular":
        return this.#keep(system.makeNode(node, step.name, step.mode, 0, owner) as N);
      case "create": {
        const made = system.create(node, step.name, step.flags, step.mode, owner) as { node: N; handle: H };
        this.handles.push(made.handle);
        return this.#keep(made.node);
      }
      case "link":
        return system.link(this.nodes[step.from % this.nodes.length] ?? node, node, step.name);
      case "rename":
        return system.rename(
          this.nodes[step.from % this.nodes.length] ?? node,
          step.fromName,
          node,
          step.name,
        );
      case "unlink":
        return system.unlink(node, step.name);
      case "rmdir":
        return system.removeDirectory(node, step.name);
      case "locate":
        return this.#locate(node);
      case "attributes":
        return this.#describe(node);
      case "readlink":
        return system.readLink(node);
      case "release":
        if (this.nodes.length > 1 && node !== system.root) {
          this.nodes.splice(step.at % this.nodes.length, 1);
          system.release(node);
        }
        return undefined;
      case "change":
        return system.setAttributes(
          node,
          step.size === undefined
            ? { mode: step.mode | 0o700 }
            : { mode: step.mode | 0o700, size: step.size },
        );
      case "open": {
        const opened = system.open(node, step.flags) as H;
        this.handles.push(opened);
        return "open";
      }
      case "list":
        return node.kind === fs.S_IFDIR ? this.#list(node) : undefined;
      case "xattrs":
        return [...(system.listXattrs(node) as string[])].sort();
      case "set":
        return system.setXattr(node, step.key, step.bytes, step.flags);
      case "get":
        return [...(system.getXattr(node, step.key) as Uint8Array)];
      case "remove":
        return system.removeXattr(node, step.key);
      case "close":
        if (handle === undefined) return undefined;
        this.handles.splice(step.at % this.handles.length, 1);
        return system.close(handle);
      case "read": {
        if (handle === undefined) return undefined;
        const target = new Uint8Array(step.length);
        const got = system.read(handle, step.offset, target) as number;
        return [...target.subarray(0, got)];
      }
      case "write":
        return handle === undefined ? undefined : system.write(handle, step.offset, step.bytes);
    }
  }

  #keep(node: N): unknown {
    this.nodes.push(node);
    return this.#describe(node);
  }

  #describe(node: N): unknown {
    const { mode: whole, nlink, size, uid, gid } = this.#fs.getAttributes(node) as fs.FileAttributes;
    const kind = whole & fs.S_IFMT;
    expect(kind).toBe(node.kind);
    const counted = kind === fs.S_IFDIR ? {} : { nlink, size };
    return { mode: kind === fs.S_IFLNK ? kind : whole, uid, gid, ...counted };
  }

  #list(node: N): unknown {
    // Linux cannot list what was removed.
    if (locate(this.#fs, node) === undefined) return "gone";
    const opened = this.#fs.open(node, fs.O_RDONLY) as H;
    const entries: string[] = [];
    void this.#fs.readDirectory(opened, 0, (entry, _id, kind) => entries.push(`${entry} ${kind}`) > 0);
    void this.#fs.close(opened);
    return entries.sort();
  }

  #locate(node: N): unknown {
    const names = locate(this.#fs, node);
    // A file that had several names may be found at any that is left, or not.
    const { nlink } = this.#fs.getAttributes(node) as fs.FileAttributes;
    if (names === undefined) return node.kind !== fs.S_IFDIR && nlink > 0 ? undefined : "nowhere";
    let at = this.#fs.root;
    for (const part of names) at = this.#fs.lookup(at, part) as N;
    expect(at.id).toBe(node.id);
    return node.kind === fs.S_IFDIR ? names : undefined;
  }

  /** Everything that is there, by names alone. */
  tree(directory: N = this.#fs.root): unknown {
    return (this.#list(directory) as string[]).map((entry) => {
      const [, entryName = "", kind] = /^(.*) (\d+)$/s.exec(entry) ?? [];
      const inner = Number(kind) === fs.S_IFDIR && entryName !== "." && entryName !== "..";
      return inner ? [entry, this.tree(this.#fs.lookup(directory, entryName) as N)] : entry;
    });
  }
}

/** Returns how many nodes without a descriptor there were, at most. */
function sameOutcomes(options: HostDirectoryOptions, maxLength: number, numRuns: number): number {
  let run = 0;
  let closed = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: maxLength / 2, maxLength, size: "max" }), (history) => {
      const place = mkdtempSync(join(folder, `run${run++}-`));
      const host = new HostDirectory(place, options);
      const memory = new MemoryFileSystem();
      memory.setAttributes(memory.root, { mode: 0o700, ...owner });
      const [expected, actual] = [new Player(memory), new Player(host)];
      for (const [i, next] of history.entries()) {
        const outcomes = [actual.play(next), expected.play(next)];
        // With two things wrong at once, either may be told.
        const free =
          (next.op === "rename" || next.op === "link") && outcomes.every((one) => one !== undefined);
        if (!free) expect([i, next, outcomes[0]]).toEqual([i, next, outcomes[1]]);
        expect(actual.nodes.length).toBe(expected.nodes.length);
        const { nodes, closable } = host.counts;
        expect(closable).toBeLessThanOrEqual(Math.max(MIN_DESCRIPTORS, options.maxDescriptors ?? 0));
        closed = Math.max(closed, nodes - closable);
      }
      expect(actual.tree()).toEqual(expected.tree());
      for (const handle of actual.handles) host.close(handle);
      for (const node of actual.nodes) host.release(node);
      host.shutdown();
      rmSync(place, { recursive: true });
    }),
    // Shrinking makes many directories; it need not be perfect.
    { numRuns, plugins: [fc.interruptAfterTimeLimit(20_000)] },
  );
  return closed;
}

test("any history of calls has the outcomes of the file system in memory", () => {
  sameOutcomes({ maxDescriptors: 1000 }, 150, 60);
});

test("also when descriptors are short and nodes must be found again", () => {
  expect(sameOutcomes({ maxDescriptors: 1 }, 500, 30)).toBeGreaterThan(10);
});
