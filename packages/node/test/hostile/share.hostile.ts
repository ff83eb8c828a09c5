import { execFileSync } from "node:child_process";
import * as host from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bound } from "@virtio/testkit/bound";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { FileSystem } from "virtio/backends/file-system";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import * as P from "virtio/protocols/9p/numbers";
import * as T from "virtio/protocols/9p/requests";
import { RawClient } from "../../../virtio/test/9p/raw.ts";
import { HostDirectory } from "../../src/directory/host-directory.ts";

/** A guest that asks a share for all that it can be made to hold, and for what costs most. */

/** Milliseconds of processor time that one request may take. */
const REQUEST = 50;
/** And one that gives back all that a hundred thousand requests took. */
const WHOLE = 500;
/** Linux's own limit of one path is 4,096 bytes; by steps a guest gets this far. */
const DEPTH = 3900;

let share = "";
beforeEach(() => {
  const memory = host.existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  share = host.mkdtempSync(join(memory, "virtio-hostile-"));
});
// Not by Node, whose paths end at 4,096 bytes.
afterEach(() => void execFileSync("rm", ["-rf", share]));

function processorMs(action: () => unknown): number {
  const before = process.cpuUsage();
  action();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** The median of several times, so that a collection of garbage or a first compilation is not taken for the request. */
function median(times: number, action: (round: number) => unknown): number {
  const all = Array.from({ length: times }, (_, round) => processorMs(() => action(round)));
  return all.sort((a, b) => a - b)[times >> 1] ?? Number.NaN;
}

function heldMiB(): number {
  (globalThis.gc as (() => void) | undefined)?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return (heapUsed + arrayBuffers) / 2 ** 20;
}

/** MiB that `action` leaves behind; garbage counts too where the collector cannot be called. */
function growth(action: () => void): number {
  const before = heldMiB();
  action();
  return heldMiB() - before;
}

function descriptors(): number {
  return host.readdirSync("/proc/self/fd").length;
}

/** Fid 1 is a directory at this depth; every directory above has the same name. */
function deep(fs: FileSystem, depth: number, name: string): RawClient {
  const client = new RawClient(fs).ready();
  client.walk(0, 1);
  for (let i = 0; i < depth; i++) {
    client.now(P.TMKDIR, (w) => T.writeTmkdir(w, { fid: 1, name, mode: 0o755, gid: 0 }));
    expect(client.walk(1, 1, name).errno).toBe(0);
  }
  return client;
}

function readAll(client: RawClient, fid: number): number {
  let entries = 0;
  for (let offset = 0; ;) {
    const fields = { fid, offset, count: 60_000 };
    const reply = client.now(P.TREADDIR, (w) => T.writeTreaddir(w, fields), { room: 60_011 });
    expect(reply.errno).toBe(0);
    if (reply.reader.u32() === 0) return entries;
    while (reply.reader.remaining > 0) {
      reply.reader.qid();
      offset = reply.reader.u64();
      reply.reader.u8();
      reply.reader.text();
      entries++;
    }
  }
}

for (const kind of ["host", "memory"] as const) {
  const open = (): FileSystem => (kind === "host" ? new HostDirectory(share) : new MemoryFileSystem());

  test(`a1: 20,000 fids at depth 3,900 (${kind})`, () => {
    const client = deep(open(), DEPTH, "n".repeat(255));
    const measured = growth(() => {
      for (let fid = 2; fid < 20_002; fid++) client.walk(1, fid);
    });
    bound({ what: `a1: 20,000 fids at depth 3,900, ${kind}: memory`, measured, limit: 64, unit: "MiB" });
    // The longest message must not cost more where it ends in an error.
    client.version();
  });

  test(`v6, a4: renames of deep fids (${kind})`, () => {
    const client = deep(open(), DEPTH, "a");
    client.walk(0, 2);
    const rename = (directoryFid: number, name: string): number =>
      client.now(P.TRENAME, (w) => T.writeTrename(w, { fid: 1, directoryFid, name })).errno;
    rename(2, "q");
    const measured = processorMs(() => {
      for (let round = 0; round < 64; round++) expect(rename(2, `q${round % 2}`)).toBe(0);
    });
    bound({ what: `v6: 64 Trename of a fid at depth 3,900, ${kind}`, measured, limit: REQUEST, unit: "ms" });
  });

  test(`a2, leak: Tattach of thousands of names (${kind})`, () => {
    const fs = open();
    const client = deep(fs, DEPTH, "a");
    client.clunk(1);
    const nodes = (): number => (fs instanceof HostDirectory ? fs.counts.nodes : 1);
    const before = descriptors();
    let worst = 0;
    for (const names of [3900, 2000, 1700, 3000, 3900]) {
      worst = Math.max(
        worst,
        processorMs(() => expect(client.attach(2, "a/".repeat(names)).errno).toBe(0)),
      );
      client.clunk(2);
      expect(client.attach(2, `${"a/".repeat(names)}${"b/".repeat(5)}`).errno).not.toBe(0);
    }
    bound({ what: `a2: Tattach of 3,900 names, ${kind}`, measured: worst, limit: 100, unit: "ms" });
    client.version();
    bound({ what: `leak: nodes left behind, ${kind}`, measured: nodes() - 1, limit: 0, unit: "nodes" });
    const left = descriptors() - before;
    bound({ what: `leak: descriptors left behind, ${kind}`, measured: left, limit: 0, unit: "descriptors" });
  });

  test(`.. of deep fids, and attributes of them (${kind})`, () => {
    const client = deep(open(), DEPTH, "a");
    client.attach(2, "a/".repeat(DEPTH - 1));
    client.now(P.TMKDIR, (w) => T.writeTmkdir(w, { fid: 2, name: "b", mode: 0o755, gid: 0 }));
    client.walk(2, 3, "b");
    client.now(P.TUNLINKAT, (w) => T.writeTunlinkat(w, { fid: 2, name: "b", flags: P.AT_REMOVEDIR }));
    const up = Array<string>(16).fill("..");
    for (const fid of [1, 3]) {
      const measured = median(15, () => {
        client.walk(fid, 9, ...up);
        client.clunk(9);
      });
      const what = `Twalk of 16 times .. at depth 3,900${fid === 3 ? ", removed" : ""}, ${kind}`;
      bound({ what, measured, limit: REQUEST, unit: "ms" });
    }
    // Nodes that must be found again because others took their descriptors.
    client.walk(0, 4);
    for (let fid = 10; fid < 1200; fid++) client.walk(2, fid, ...Array<string>(fid % 2).fill("a"));
    const measured = median(15, (round) =>
      client.now(P.TGETATTR, (w) => T.writeTgetattr(w, { fid: 10 + round, mask: 0 })),
    );
    bound({ what: `Tgetattr at depth 3,900, ${kind}`, measured, limit: REQUEST, unit: "ms" });
  });

  test(`a6: everything that is counted (${kind})`, () => {
    const fs = open();
    const client = new RawClient(fs).ready();
    client.walk(0, 1);
    client.now(P.TLCREATE, (w) => T.writeTlcreate(w, { fid: 1, name: "f", flags: 2, mode: 0o600, gid: 0 }));
    const measured = growth(() => {
      for (let fid = 2; client.walk(0, fid, "f").errno === 0; fid++);
      for (let fid = 2; client.open(fid).errno === 0; fid++);
      for (let fid = 10_000; ; fid++) {
        const fields = { fid, name: "user.a", size: 65_536, flags: 0 };
        if (client.now(P.TXATTRCREATE, (w) => T.writeTxattrcreate(w, fields)).errno !== 0) break;
      }
      for (let i = 0; ; i++) {
        const lock = { type: 1, flags: 0, start: 2 * i, length: 1, process: i, client: "c".repeat(255) };
        if (client.now(P.TLOCK, (w) => T.writeTlock(w, { ...lock, fid: 2 + (i % 4000) })).errno !== 0) break;
      }
    });
    const what = `a6: all fids, open files, attributes and locks, ${kind}: memory`;
    bound({ what, measured, limit: 160, unit: "MiB" });
    const lock = { fid: 2, type: 1, flags: 0, start: 5, length: 1, process: 5, client: "z" };
    const one = median(15, () => client.now(P.TLOCK, (w) => T.writeTlock(w, lock)));
    bound({ what: `a6: Tlock among 16,384 locks, ${kind}`, measured: one, limit: REQUEST, unit: "ms" });
    const saved = processorMs(() => client.device.save?.());
    bound({ what: `a6: save of all that, ${kind}`, measured: saved, limit: 2000, unit: "ms" });
    const all = processorMs(() => client.version());
    bound({ what: `a6: Tversion that gives all back, ${kind}`, measured: all, limit: WHOLE, unit: "ms" });
  });

  test(`a3: open directories of 20,000 entries (${kind})`, () => {
    const fs = open();
    const client = new RawClient(fs, {}, 1 << 20).ready();
    for (let i = 0; i < 20_000; i++) {
      client.now(P.TMKNOD, (w) =>
        T.writeTmknod(w, { fid: 0, name: `f${i}`, mode: 0o100600, major: 0, minor: 0, gid: 0 }),
      );
    }
    const measured = growth(() => {
      for (let fid = 1; fid <= 200; fid++) {
        client.walk(0, fid);
        client.open(fid);
        expect(readAll(client, fid)).toBe(20_002);
      }
    });
    bound({ what: `a3: 200 open directories of 20,000 entries, ${kind}`, measured, limit: 32, unit: "MiB" });
    client.walk(0, 300);
    client.open(300);
    const seek = (offset: number): number =>
      processorMs(() => client.now(P.TREADDIR, (w) => T.writeTreaddir(w, { fid: 300, offset, count: 100 })));
    const worst = Math.max(seek(19_999), seek(1), seek(65_536), seek(19_000));
    bound({ what: `Treaddir from any cursor, ${kind}`, measured: worst, limit: REQUEST, unit: "ms" });
  });
}
