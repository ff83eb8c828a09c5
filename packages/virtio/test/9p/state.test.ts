import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import { encodeUtf8 } from "../../src/memory/utf8.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as R from "../../src/protocols/9p/replies.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { MessageReader } from "../../src/protocols/9p/message.ts";
import { settle } from "../support/loopback.ts";
import { RawClient, type Reply } from "./raw.ts";
import { content, read, tree, write } from "./share.ts";
import { slowFileSystem } from "./slow-file-system.ts";

/** A client with fids of every kind. */
function busy(fs = tree()): RawClient {
  const client = new RawClient(fs).ready();
  client.walk(0, 1, "file.txt");
  client.open(1, 0o1002);
  write(client, 1, 0, encodeUtf8("contents"));
  client.now(P.TLOCK, (w) =>
    T.writeTlock(w, { fid: 1, type: 1, flags: 0, start: 4, length: 3, process: 9, client: "guest" }),
  );
  client.walk(0, 2, "sub");
  client.open(2);
  client.walk(0, 3, "sub", "deep", "leaf");
  client.walk(0, 4, "sub", "other");
  client.open(4);
  client.now(P.TUNLINKAT, (w) => T.writeTunlinkat(w, { fid: 2, name: "other", flags: 0 }));
  client.walk(0, 5, "file.txt");
  client.now(P.TXATTRCREATE, (w) => T.writeTxattrcreate(w, { fid: 5, name: "user.x", size: 6, flags: 0 }));
  write(client, 5, 0, encodeUtf8("abc"));
  return client;
}

describe("a saved state", () => {
  test("goes on where it was: open files, locks, half an attribute", () => {
    const fs = tree();
    const before = busy(fs);
    const state = structuredClone(before.device.save?.());
    void before.device.reset?.();
    const after = new RawClient(fs);
    after.device.restore?.(state);
    expect(content(read(after, 1, 0, 100))).toEqual(encodeUtf8("contents"));
    expect(after.walk(3, 6).errno).toBe(0);
    // Its file has no name any more.
    expect(read(after, 4, 0, 1).errno).toBe(ERRNO.ESTALE);
    expect(after.clunk(4).errno).toBe(0);
    const rest = after.now(P.TWRITE, (w) => T.writeTwrite(w, { fid: 5, offset: 3, count: 3 }), {
      data: encodeUtf8("def"),
    });
    expect(rest.reader.u32()).toBe(3);
    expect(after.clunk(5).errno).toBe(0);
    expect(fs.getXattr(fs.lookup(fs.root, "file.txt"), "user.x")).toEqual(encodeUtf8("abcdef"));
    after.walk(0, 7, "file.txt");
    after.open(7, 2);
    const lock = { fid: 7, type: 1, flags: 0, start: 0, length: 0, process: 8, client: "guest" };
    expect(after.now(P.TLOCK, (w) => T.writeTlock(w, lock)).reader.u8()).toBe(P.LOCK_BLOCKED);
    after.clunk(1);
    expect(after.now(P.TLOCK, (w) => T.writeTlock(w, lock)).reader.u8()).toBe(P.LOCK_SUCCESS);
  });

  test("what it cannot hold is said when it is saved", () => {
    const client = busy();
    const lost: string[] = [];
    const state = client.device.save?.((what) => void lost.push(what));
    expect(lost).toEqual([
      "1 fids, 1 of them open, without a name to find their files by: ESTALE after a restore",
    ]);
    expect(state?.fids.filter(({ path }) => path === null).map(({ fid }) => fid)).toEqual([4]);
    client.clunk(4);
    client.device.save?.((what) => void lost.push(what));
    expect(lost.length).toBe(1);
  });

  test("a listing goes on behind the entry where it stopped", () => {
    const fs = tree();
    const before = busy(fs);
    const list = (client: RawClient, offset: number): R.DirectoryEntry[] => {
      const fields = { fid: 2, offset, count: 60 };
      const reply = client.now(P.TREADDIR, (w) => T.writeTreaddir(w, fields));
      const reader = new MessageReader().start(reply.bytes, reply.written);
      reader.u32();
      const entries: R.DirectoryEntry[] = [];
      while (reader.remaining > 0) entries.push(R.readDirectoryEntry(reader));
      return entries;
    };
    const first = list(before, 0);
    const after = new RawClient(fs);
    after.device.restore?.(before.device.save?.());
    const second = list(after, first.at(-1)?.offset ?? 0);
    expect([...first, ...second].map(({ name }) => name).sort()).toEqual([".", "..", "deep"]);
  });

  test("saved again before it was used it is the same", () => {
    const state = busy().device.save?.();
    const second = new RawClient(tree());
    second.device.restore?.(state);
    expect(second.device.save?.()).toEqual(state);
  });

  test("with an asynchronous file system too, many requests at once", async () => {
    const fs = tree();
    const before = busy(fs);
    const state = before.device.save?.();
    void before.device.reset?.();
    const client = new RawClient(slowFileSystem(() => 3, fs).fs);
    client.device.restore?.(state);
    const ask = (tag: number): Promise<Reply> =>
      Promise.resolve(
        client.send(P.TREAD, (w) => T.writeTread(w, { fid: 1, offset: 0, count: 100 }), { tag, room: 111 }),
      );
    const replies = await Promise.all([ask(1), ask(2), ask(3)]);
    for (const reply of replies) expect(content(reply)).toEqual(encodeUtf8("contents"));
    const clunked = await client.send(P.TCLUNK, (w) => void w.u32(1));
    expect(clunked.errno).toBe(0);
    await client.device.reset?.();
    expect(fs.root.directory?.entries.get("file.txt")?.node.references).toBe(0);
  });

  test("a reset while a fid is walked to again gives back what it got", async () => {
    const fs = tree();
    const before = busy(fs);
    const state = before.device.save?.();
    void before.device.reset?.();
    const { fs: slow, waiting } = slowFileSystem("by hand", fs);
    const client = new RawClient(slow);
    client.device.restore?.(state);
    const asked = Promise.resolve(
      client.send(P.TREAD, (w) => T.writeTread(w, { fid: 1, offset: 0, count: 9 }), { room: 99 }),
    );
    void asked.catch(() => undefined);
    await settle();
    const reset = client.device.reset?.();
    await settle();
    while (waiting.length > 0) {
      for (const go of waiting.splice(0)) go();
      await settle();
    }
    await reset;
    expect(fs.root.directory?.entries.get("file.txt")?.node.references).toBe(0);
  });

  test("whose values cannot be is refused", () => {
    const good = busy().device.save?.();
    const wrong: readonly [readonly string[], unknown][] = [
      [["version"], 2],
      [["msize"], 4095],
      [["msize"], 2 ** 21],
      [["fids", "1", "fid"], 0],
      [["fids", "1", "fid"], P.NOFID],
      [["fids", "1", "flags"], -1],
      [["fids", "1", "path"], [".."]],
      [["fids", "1", "path"], ["a/b"]],
      [["fids", "1", "path"], [""]],
      [["fids", "1", "locks", "0", "start"], -1],
      [["fids", "1", "locks", "0", "length"], Infinity],
      [["fids", "1", "locks", "0", "client"], "x".repeat(256)],
      [["fids", "5", "pending", "flags"], 3],
      [["fids", "5", "pending", "arrived"], 7],
      [
        ["fids", "5", "pending", "value"],
        [1, 2],
      ],
      [["fids", "5", "pending", "value"], new Uint8Array(65_537)],
    ];
    for (const [path, value] of wrong) {
      const state: unknown = structuredClone(good);
      const at = path.slice(0, -1).reduce<unknown>((from, key) => Reflect.get(from as object, key), state);
      Reflect.set(at as object, path.at(-1) ?? "", value);
      expect(() => new RawClient(tree()).device.restore?.(state), path.join(".")).toThrow();
    }
  });

  test("that is damaged is refused, or adopted whole", () => {
    const good = busy().device.save?.();
    const value = fc.oneof(
      fc.constantFrom<unknown>(
        null,
        -1,
        1.5,
        NaN,
        2 ** 53,
        2 ** 32,
        "",
        "..",
        "a/b",
        [],
        {},
        true,
        "x".repeat(300),
      ),
      fc.anything(),
    );
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.array(fc.nat(12), { maxLength: 5 }), value), { minLength: 1 }),
        (edits) => {
          const state: unknown = structuredClone(good);
          for (const [path, replacement] of edits) damage(state, path, replacement);
          const client = busy();
          const before = client.device.save?.();
          try {
            client.device.restore?.(state);
          } catch (error) {
            expect(error).toBeInstanceOf(Error);
            expect(error).not.toBeInstanceOf(TypeError);
            expect(client.device.save?.()).toEqual(before);
            return;
          }
          // Whatever it says: every fid answers.
          for (const fid of [0, 1, 2, 3, 4, 5]) {
            client.now(P.TGETATTR, (w) => T.writeTgetattr(w, { fid, mask: 0 }));
            client.clunk(fid);
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});

/** Puts `value` at the place that the path of key numbers leads to. */
function damage(state: unknown, path: readonly number[], value: unknown): void {
  let at: unknown = state;
  for (const [i, number] of path.entries()) {
    if (typeof at !== "object" || at === null || ArrayBuffer.isView(at)) return;
    const keys = Object.keys(at);
    const key = keys[number % Math.max(1, keys.length)];
    if (key === undefined) return;
    if (i === path.length - 1) Reflect.set(at, key, value);
    else at = Reflect.get(at, key);
  }
}
