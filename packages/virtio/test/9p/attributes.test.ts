import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import { encodeUtf8 } from "../../src/memory/utf8.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as R from "../../src/protocols/9p/replies.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { RawClient, type Reply } from "./raw.ts";

import { content, read, ready, tree, write } from "./share.ts";
describe("Tgetattr, Tsetattr, Tstatfs", () => {
  test("what stat tells", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    const reply = client.now(P.TGETATTR, (w) => T.writeTgetattr(w, { fid: 1, mask: P.GETATTR_BASIC }));
    expect(reply.written).toBe(P.RGETATTR_SIZE);
    expect(R.readRgetattr(reply.reader)).toMatchObject({
      valid: P.GETATTR_BASIC,
      mode: 0o100644,
      size: 12,
      nlink: 1,
      mtime: 1_700_000_000,
      mtimeNanoseconds: 123_000_000,
    });
  });

  test("what cannot be set is refused", () => {
    const client = ready();
    const set = (changes: Partial<T.Tsetattr>): number =>
      client.now(P.TSETATTR, (w) =>
        T.writeTsetattr(w, {
          fid: 0,
          valid: 0,
          mode: 0,
          uid: 0,
          gid: 0,
          size: 0,
          atime: 0,
          atimeNanoseconds: 0,
          mtime: 0,
          mtimeNanoseconds: 0,
          ...changes,
        }),
      ).errno;
    expect(set({ valid: P.SETATTR_CTIME })).toBe(0);
    expect(set({ valid: P.SETATTR_SIZE, size: 1 })).toBe(ERRNO.EISDIR);
    expect(set({ valid: P.SETATTR_SIZE, size: 2 ** 53 })).toBe(ERRNO.EFBIG);
    expect(set({ valid: P.SETATTR_UID, uid: 0xffff_ffff })).toBe(ERRNO.EINVAL);
    const nanoseconds = { valid: P.SETATTR_MTIME | P.SETATTR_MTIME_SET, mtimeNanoseconds: 1e9 };
    expect(set(nanoseconds)).toBe(ERRNO.EINVAL);
    expect(set({ fid: 5 })).toBe(ERRNO.EBADF);
  });

  test("Tstatfs", () => {
    const reply = ready().now(P.TSTATFS, (w) => void w.u32(0));
    expect(R.readRstatfs(reply.reader)).toMatchObject({ blockSize: 4096, files: 65_536, nameMax: 255 });
  });
});

describe("Txattrwalk and Txattrcreate", () => {
  const create = (c: RawClient, fid: number, name: string, size: number, flags = 0): number =>
    c.now(P.TXATTRCREATE, (w) => T.writeTxattrcreate(w, { fid, name, size, flags })).errno;
  const walk = (c: RawClient, fid: number, newFid: number, name: string): Reply =>
    c.now(P.TXATTRWALK, (w) => T.writeTxattrwalk(w, { fid, newFid, name }));

  test("a value comes in pieces and is set with the clunk", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    expect(create(client, 1, "user.a", 6)).toBe(0);
    expect(write(client, 1, 0, encodeUtf8("abc")).reader.u32()).toBe(3);
    expect(write(client, 1, 0, encodeUtf8("abc")).errno).toBe(ERRNO.EINVAL);
    expect(write(client, 1, 3, encodeUtf8("defg")).errno).toBe(ERRNO.ENOSPC);
    expect(write(client, 1, 3, encodeUtf8("def")).reader.u32()).toBe(3);
    // The fid is an attribute now.
    expect(client.open(1).errno).toBe(ERRNO.EINVAL);
    expect(client.clunk(1).errno).toBe(0);
    client.walk(0, 1, "file.txt");
    expect(walk(client, 1, 2, "user.a").reader.u64()).toBe(6);
    expect(content(read(client, 2, 2, 100))).toEqual(encodeUtf8("cdef"));
    expect(content(read(client, 2, 2 ** 60, 100)).length).toBe(0);
    expect(walk(client, 1, 3, "").reader.u64()).toBe(7);
    expect(content(read(client, 3, 0, 100))).toEqual(encodeUtf8("user.a\0"));
    expect(walk(client, 1, 4, "user.b").errno).toBe(ERRNO.ENODATA);
    expect(walk(client, 1, 3, "user.a").errno).toBe(ERRNO.EINVAL);
    // Zero bytes that must replace: how clients say "remove".
    client.walk(0, 5, "file.txt");
    create(client, 5, "user.a", 0, 2);
    expect(client.clunk(5).errno).toBe(0);
    expect(walk(client, 1, 6, "user.a").errno).toBe(ERRNO.ENODATA);
  });

  test("a value that is not whole is not set", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    create(client, 1, "user.a", 6);
    write(client, 1, 0, encodeUtf8("abc"));
    expect(client.clunk(1).errno).toBe(ERRNO.EINVAL);
    expect(client.clunk(1).errno).toBe(ERRNO.EBADF);
  });

  test("bounds: 64 KiB each, and what a session holds", () => {
    const client = new RawClient(tree(), { xattrBytes: 100_000 }).ready();
    client.walk(0, 1, "file.txt");
    client.walk(0, 2, "file.txt");
    expect(create(client, 1, "user.a", 65_537)).toBe(ERRNO.E2BIG);
    expect(create(client, 1, "user.a", 2 ** 60)).toBe(ERRNO.E2BIG);
    expect(create(client, 1, "user.a", 1, 3)).toBe(ERRNO.EINVAL);
    expect(create(client, 1, "", 1)).toBe(ERRNO.EINVAL);
    expect(create(client, 1, "x".repeat(256), 1)).toBe(ERRNO.ERANGE);
    expect(create(client, 1, "user.a", 65_536)).toBe(0);
    expect(create(client, 2, "user.a", 65_536)).toBe(ERRNO.ENOSPC);
    client.clunk(1);
    expect(create(client, 2, "user.a", 65_536)).toBe(0);
  });
});

describe("Tlock and Tgetlock", () => {
  const message = { flags: 1, start: 0, length: 0, process: 1, client: "host" };
  const lock = (c: RawClient, fid: number, changes: Partial<T.Tlock>): Reply =>
    c.now(P.TLOCK, (w) => T.writeTlock(w, { fid, type: 1, ...message, ...changes }));

  test("a lock in the way is answered at once", () => {
    const client = ready();
    for (const fid of [1, 2]) {
      client.walk(0, fid, "file.txt");
      client.open(fid, 2);
    }
    expect(lock(client, 1, {}).reader.u8()).toBe(P.LOCK_SUCCESS);
    expect(lock(client, 2, { process: 2 }).reader.u8()).toBe(P.LOCK_BLOCKED);
    expect(lock(client, 2, { process: 1 }).reader.u8()).toBe(P.LOCK_SUCCESS);
    const test = (process: number): R.Rgetlock =>
      R.readRgetlock(
        client.now(P.TGETLOCK, (w) =>
          T.writeTgetlock(w, { fid: 2, type: 1, start: 5, length: 1, process, client: "host" }),
        ).reader,
      );
    expect(test(2)).toEqual({ type: 1, start: 0, length: 0, process: 1, client: "host" });
    expect(test(1)).toEqual({ type: 2, start: 5, length: 1, process: 1, client: "host" });
    expect(lock(client, 2, { type: 2 }).reader.u8()).toBe(P.LOCK_SUCCESS);
    expect(lock(client, 2, { process: 2 }).reader.u8()).toBe(P.LOCK_SUCCESS);
  });

  test("end with the file they were taken through, and are not kept anywhere", () => {
    const client = ready();
    for (let i = 0; i < 16_400; i++) {
      client.walk(0, 1, "file.txt");
      client.open(1, 2);
      if (lock(client, 1, { type: 0, process: i }).reader.u8() !== P.LOCK_SUCCESS)
        throw new Error(`lock ${i}`);
      client.clunk(1);
    }
  });

  test("what is no lock is refused", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    expect(lock(client, 1, {}).errno).toBe(ERRNO.EBADF);
    client.open(1);
    expect(lock(client, 1, { type: 3 }).errno).toBe(ERRNO.EINVAL);
    expect(lock(client, 1, { flags: 4 }).errno).toBe(ERRNO.EINVAL);
    expect(lock(client, 1, { client: "x".repeat(256) }).errno).toBe(ERRNO.EINVAL);
    expect(lock(client, 1, { start: 2 ** 53 }).errno).toBe(ERRNO.EOVERFLOW);
    expect(lock(client, 1, { start: 2 ** 52, length: 2 ** 52 }).reader.u8()).toBe(P.LOCK_SUCCESS);
  });
});
