import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import { VirtioFault } from "../../src/fault.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { RawClient } from "./raw.ts";

import { ready, tree } from "./share.ts";
describe("what is no message", () => {
  test("an unknown type is EOPNOTSUPP", () => {
    const client = ready();
    for (const type of [0, 6, 10, 98, 106, 112, 114, 124, 126, 200, 254]) {
      expect(client.now(type, () => {}).errno).toBe(ERRNO.EOPNOTSUPP);
    }
  });

  test("a size that lies is EINVAL, one over msize EMSGSIZE", () => {
    const client = ready();
    for (const size of [0, 6, 12, 1000, 0xffff_ffff]) {
      expect(client.now(P.TCLUNK, (w) => void w.u32(0), { size }).errno).toBe(ERRNO.EINVAL);
    }
    expect(client.now(P.TCLUNK, (w) => void w.u32(0), { data: new Uint8Array(65_536) }).errno).toBe(
      ERRNO.EMSGSIZE,
    );
    expect(client.clunk(0).errno).toBe(0);
  });

  test("fields behind the end are EINVAL", () => {
    const client = ready();
    for (const type of [8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76]) {
      expect(client.now(type, (w) => void w.u16(0)).errno).toBe(ERRNO.EINVAL);
    }
    const text = client.now(P.TMKDIR, (w) => void w.u32(0).u16(100).u8(65));
    expect(text.errno).toBe(ERRNO.EINVAL);
  });

  test("shorter than a header: an error without a tag", () => {
    const client = ready();
    for (let length = 0; length < 7; length++) {
      const reply = client.sendBytes(new Uint8Array(length).fill(length));
      if (reply instanceof Promise) throw new Error("later");
      expect([reply.errno, reply.tag]).toEqual([ERRNO.EINVAL, P.NOTAG]);
    }
  });

  test("a reply that does not fit is EMSGSIZE and nothing is done; no room at all is a fault", () => {
    const client = ready();
    const mkdir = { fid: 0, name: "d", mode: 0o700, gid: 0 };
    expect(client.now(P.TMKDIR, (w) => T.writeTmkdir(w, mkdir), { room: 19 }).errno).toBe(ERRNO.EMSGSIZE);
    expect(client.walk(0, 1, "d").errno).toBe(ERRNO.ENOENT);
    const walk = { fid: 0, newFid: 1, names: ["sub", "deep"] };
    expect(client.now(P.TWALK, (w) => T.writeTwalk(w, walk), { room: 34 }).errno).toBe(ERRNO.EMSGSIZE);
    expect(client.open(1).errno).toBe(ERRNO.EBADF);
    client.walk(0, 2, "link");
    expect(client.now(P.TREADLINK, (w) => void w.u32(2), { room: 11 }).errno).toBe(ERRNO.EMSGSIZE);
    expect(() => client.now(P.TCLUNK, (w) => void w.u32(0), { room: 10 })).toThrow(VirtioFault);
  });

  test("fids and open files are bounded", () => {
    const client = new RawClient(tree(), { fids: 5, openFiles: 2 }).ready();
    for (const fid of [1, 2, 3, 4]) expect(client.walk(0, fid, "file.txt").errno).toBe(0);
    expect(client.walk(0, 5).errno).toBe(ERRNO.ENFILE);
    expect([client.open(1).errno, client.open(2).errno, client.open(3).errno]).toEqual([0, 0, ERRNO.ENFILE]);
    client.clunk(1);
    expect(client.open(3).errno).toBe(0);
  });

  test("a read-only file system says so", () => {
    const fs = tree();
    fs.readOnly = true;
    const client = new RawClient(fs).ready();
    client.walk(0, 1, "file.txt");
    expect(client.open(1, 1).errno).toBe(ERRNO.EROFS);
    expect(client.open(1, 0o1000).errno).toBe(ERRNO.EROFS);
    const mkdir = { fid: 0, name: "d", mode: 0o700, gid: 0 };
    expect(client.now(P.TMKDIR, (w) => T.writeTmkdir(w, mkdir)).errno).toBe(ERRNO.EROFS);
    const xattr = { fid: 1, name: "user.a", size: 1, flags: 0 };
    expect(client.now(P.TXATTRCREATE, (w) => T.writeTxattrcreate(w, xattr)).errno).toBe(ERRNO.EROFS);
    expect(client.open(1).errno).toBe(0);
  });
});
