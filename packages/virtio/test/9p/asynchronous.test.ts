import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { pattern } from "../support/ends.ts";
import { settle } from "../support/loopback.ts";
import { RawClient, type Reply } from "./raw.ts";
import { slowFileSystem } from "./slow-file-system.ts";

interface Held {
  readonly client: RawClient;
  readonly memory: MemoryFileSystem;
  readonly waiting: (() => void)[];
  /** Lets every call through until nothing waits. */
  readonly run: () => Promise<void>;
}

/** Fid 0 is the root, 1 an open file of 200,000 bytes, 2 the directory `sub`. */
async function held(): Promise<Held> {
  const memory = new MemoryFileSystem();
  fillTree(memory, { file: pattern(200_000), sub: { directory: { leaf: "leaf" } } });
  const { fs, waiting } = slowFileSystem("by hand", memory);
  const client = new RawClient(fs, {}, 1 << 21);
  const run = async (): Promise<void> => {
    await settle();
    while (waiting.length > 0) {
      for (const go of waiting.splice(0)) go();
      await settle();
    }
  };
  const start = [
    () => client.send(P.TVERSION, (w) => T.writeTversion(w, { msize: 1 << 20, version: "9P2000.L" })),
    () =>
      client.send(P.TATTACH, (w) =>
        T.writeTattach(w, { fid: 0, afid: P.NOFID, uname: "", aname: "", n_uname: 0 }),
      ),
    () => client.send(P.TWALK, (w) => T.writeTwalk(w, { fid: 0, newFid: 1, names: ["file"] })),
    () => client.send(P.TLOPEN, (w) => T.writeTlopen(w, { fid: 1, flags: 2 })),
    () => client.send(P.TWALK, (w) => T.writeTwalk(w, { fid: 0, newFid: 2, names: ["sub"] })),
  ];
  for (const send of start) {
    const reply = send();
    await run();
    expect((await reply).errno).toBe(0);
  }
  return { client, memory, waiting, run };
}

const read = (c: RawClient, tag: number, count = 200_000): Promise<Reply> =>
  Promise.resolve(
    c.send(P.TREAD, (w) => T.writeTread(w, { fid: 1, offset: 0, count }), { tag, room: count + 11 }),
  );
const flush = (c: RawClient, tag: number, oldtag: number): Promise<Reply> =>
  Promise.resolve(c.send(P.TFLUSH, (w) => T.writeTflush(w, { oldtag }), { tag }));

describe("a file system that takes its time", () => {
  test("data go through pieces of bounded size", async () => {
    const { client, run } = await held();
    const reply = read(client, 1);
    await run();
    expect((await reply).bytes.subarray(11)).toEqual(pattern(200_000));
    const data = pattern(150_000, 9);
    const fields = { fid: 1, offset: 100, count: data.length };
    const written = client.send(P.TWRITE, (w) => T.writeTwrite(w, fields), {
      data,
      cuts: [23, 5000, 70_001],
    });
    await run();
    expect((await written).reader.u32()).toBe(data.length);
    const again = read(client, 1, 150_100);
    await run();
    expect((await again).bytes.subarray(111)).toEqual(data);
  });

  test("Tflush is answered behind the request that it names, and at once when there is none", async () => {
    const { client, run } = await held();
    const order: string[] = [];
    const first = read(client, 5).then(() => order.push("read"));
    const flushed = flush(client, 6, 5).then(() => order.push("flush"));
    const other = flush(client, 7, 99).then(() => order.push("other"));
    await settle();
    expect(order).toEqual(["other"]);
    await run();
    await Promise.all([first, flushed, other]);
    expect(order).toEqual(["other", "read", "flush"]);
  });

  test("a fid that is clunked while it is used is given back afterwards", async () => {
    const { client, memory, run } = await held();
    const node = memory.root.directory?.entries.get("file")?.node;
    const reading = read(client, 1);
    const clunked = client.send(P.TCLUNK, (w) => void w.u32(1), { tag: 2 });
    await settle();
    expect((await clunked).errno).toBe(0);
    expect(node?.references).toBeGreaterThan(0);
    await run();
    expect((await reading).bytes.subarray(11)).toEqual(pattern(200_000));
    expect(node?.references).toBe(0);
  });

  test("a file that is clunked while it is being opened is closed again", async () => {
    const { client, memory, run } = await held();
    const walked = client.send(P.TWALK, (w) => T.writeTwalk(w, { fid: 2, newFid: 3, names: ["leaf"] }));
    await run();
    await walked;
    const opening = client.send(P.TLOPEN, (w) => T.writeTlopen(w, { fid: 3, flags: 0 }), { tag: 1 });
    const twice = client.send(P.TLOPEN, (w) => T.writeTlopen(w, { fid: 3, flags: 0 }), { tag: 2 });
    const clunked = client.send(P.TCLUNK, (w) => void w.u32(3), { tag: 3 });
    await run();
    expect((await twice).errno).toBe(ERRNO.EINVAL);
    expect((await clunked).errno).toBe(0);
    expect((await opening).errno).toBe(ERRNO.ECANCELED);
    const sub = memory.lookup(memory.root, "sub");
    expect(sub.directory?.entries.get("leaf")?.node.references).toBe(0);
  });

  test("two walks to one fid: one of them gets it", async () => {
    const { client, run } = await held();
    const walk = (tag: number): Promise<Reply> =>
      Promise.resolve(
        client.send(P.TWALK, (w) => T.writeTwalk(w, { fid: 0, newFid: 9, names: ["sub"] }), { tag }),
      );
    const both = [walk(1), walk(2)];
    await run();
    const errors = (await Promise.all(both)).map((reply) => reply.errno);
    expect(errors.sort((a, b) => a - b)).toEqual([0, ERRNO.EINVAL]);
  });

  test("a fid that is clunked while it is walked on is gone", async () => {
    const { client, memory, run } = await held();
    const walk = { fid: 2, newFid: 2, names: ["leaf"] };
    const walking = client.send(P.TWALK, (w) => T.writeTwalk(w, walk), { tag: 1 });
    const clunked = client.send(P.TCLUNK, (w) => void w.u32(2), { tag: 2 });
    await run();
    expect([(await walking).errno, (await clunked).errno]).toEqual([ERRNO.ECANCELED, 0]);
    const sub = memory.root.directory?.entries.get("sub")?.node;
    expect(sub?.references).toBe(0);
    expect(sub?.directory?.entries.get("leaf")?.node.references).toBe(0);
    expect((await client.send(P.TCLUNK, (w) => void w.u32(2))).errno).toBe(ERRNO.EBADF);
  });

  test("a reset is complete when nothing is under way any more", async () => {
    const { client, run } = await held();
    void read(client, 1).catch(() => undefined);
    let complete = false;
    const reset = Promise.resolve(client.device.reset?.()).then(() => (complete = true));
    await settle();
    expect(complete).toBe(false);
    await run();
    await reset;
    expect(complete).toBe(true);
  });

  test("Tversion drops everything, and what was under way gives back what it got", async () => {
    const { client, memory, run } = await held();
    const walking = client.send(P.TWALK, (w) =>
      T.writeTwalk(w, { fid: 0, newFid: 9, names: ["sub", "leaf"] }),
    );
    const version = client.send(P.TVERSION, (w) => T.writeTversion(w, { msize: 8192, version: "9P2000.L" }));
    await run();
    expect((await version).errno).toBe(0);
    expect((await walking).errno).toBe(ERRNO.ECANCELED);
    for (const { node } of memory.root.directory?.entries.values() ?? []) expect(node.references).toBe(0);
  });

  test("after a reset nothing is written to the driver's memory, nor taken from it", async () => {
    const { client, memory, waiting, run } = await held();
    const reading = read(client, 1).catch(() => undefined);
    const data = pattern(200_000, 3);
    const fields = { fid: 1, offset: 0, count: data.length };
    const written = Promise.resolve(client.send(P.TWRITE, (w) => T.writeTwrite(w, fields), { data, tag: 2 }));
    void written.catch(() => undefined);
    await settle();
    const reset = client.device.reset?.();
    // The driver uses its memory for something else.
    client.bytes.fill(0x5a);
    await run();
    await reset;
    await Promise.allSettled([reading, written]);
    expect(waiting).toEqual([]);
    expect(client.bytes.every((byte) => byte === 0x5a)).toBe(true);
    const file = memory.lookup(memory.root, "file");
    const now = new Uint8Array(200_000);
    file.file?.read(0, now);
    // One piece may have been on its way; the rest was given up.
    const expected = pattern(200_000);
    expected.set(data.subarray(0, 65_536));
    expect(Buffer.compare(now, expected)).toBe(0);
  });

  test("an error that is none of a file system is EIO, one of Node's its number", () => {
    const memory = new MemoryFileSystem();
    memory.getAttributes = () => {
      throw new TypeError("a bug");
    };
    memory.readLink = () => {
      throw Object.assign(new Error("as Node says it"), { code: "EACCES" });
    };
    const client = new RawClient(memory).ready();
    expect(client.now(P.TGETATTR, (w) => T.writeTgetattr(w, { fid: 0, mask: 0 })).errno).toBe(ERRNO.EIO);
    expect(client.now(P.TREADLINK, (w) => void w.u32(0)).errno).toBe(ERRNO.EACCES);
  });
});
