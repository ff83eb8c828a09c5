import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { encodeUtf8 } from "../../src/memory/utf8.ts";
import { MessageReader } from "../../src/protocols/9p/message.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as R from "../../src/protocols/9p/replies.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { pattern } from "../support/ends.ts";
import { RawClient } from "./raw.ts";

import { content, read, ready, tree, write } from "./share.ts";
describe("Tversion", () => {
  test("the smaller msize is agreed on", () => {
    const reply = new RawClient(tree()).version(5000);
    expect(R.readRversion(reply.reader)).toEqual({ msize: 5000, version: "9P2000.L" });
    expect(R.readRversion(new RawClient(tree(), { msize: 8192 }).version(1 << 30).reader).msize).toBe(8192);
  });

  test("less than 4096 is EMSGSIZE", () => {
    expect(new RawClient(tree()).version(4095).errno).toBe(ERRNO.EMSGSIZE);
  });

  test("another version is unknown, and nothing else is answered then", () => {
    const client = new RawClient(tree());
    const reply = client.now(P.TVERSION, (w) => T.writeTversion(w, { msize: 8192, version: "9P2000.u" }));
    expect(R.readRversion(reply.reader).version).toBe("unknown");
    expect(client.attach(0).errno).toBe(ERRNO.EPROTO);
  });

  test("begins anew: fids of before are gone", () => {
    const fs = tree();
    const client = ready(fs);
    client.walk(0, 1, "file.txt");
    client.open(1);
    const before = fs.root.directory?.entries.get("file.txt")?.node.references;
    expect(before).toBeGreaterThan(0);
    client.version();
    expect(fs.root.directory?.entries.get("file.txt")?.node.references).toBe(0);
    expect(client.walk(0, 1).errno).toBe(ERRNO.EBADF);
  });
});

describe("Tattach and Tauth", () => {
  test("authentication is not there", () => {
    const client = ready();
    const message = { afid: 9, uname: "", aname: "", n_uname: 0 };
    expect(client.now(P.TAUTH, (w) => T.writeTauth(w, message)).errno).toBe(ERRNO.EOPNOTSUPP);
    const withAfid = { fid: 4, ...message };
    expect(client.now(P.TATTACH, (w) => T.writeTattach(w, withAfid)).errno).toBe(ERRNO.EBADF);
  });

  test("aname takes a directory below the root for the root, and nothing else", () => {
    const client = ready();
    expect(client.attach(1, "/sub/deep/").errno).toBe(0);
    expect(client.walk(1, 2, "leaf").errno).toBe(0);
    expect(client.attach(3, "nowhere").errno).toBe(ERRNO.ENOENT);
    expect(client.attach(3, "sub/../..").errno).toBe(ERRNO.EINVAL);
  });

  test("a fid that is in use: EINVAL; no fid: EBADF", () => {
    const client = ready();
    expect(client.attach(0).errno).toBe(ERRNO.EINVAL);
    expect(client.attach(P.NOFID).errno).toBe(ERRNO.EBADF);
  });
});

describe("Twalk", () => {
  test("gives a qid for each name", () => {
    const reply = ready().walk(0, 1, "sub", "deep", "leaf");
    expect(reply.reader.u16()).toBe(3);
    expect([0, 1, 2].map(() => reply.reader.qid().type)).toEqual([P.QTDIR, P.QTDIR, P.QTFILE]);
    expect(reply.reader.remaining).toBe(0);
  });

  test("a first name that is not there is an error, a later one ends the walk and makes no fid", () => {
    const client = ready();
    expect(client.walk(0, 1, "none").errno).toBe(ERRNO.ENOENT);
    const partial = client.walk(0, 1, "sub", "none", "leaf");
    expect(partial.errno).toBe(0);
    expect(partial.reader.u16()).toBe(1);
    expect(client.open(1).errno).toBe(ERRNO.EBADF);
    expect(client.walk(0, 1, "file.txt", "x").reader.u16()).toBe(1);
  });

  test("on the fid itself; not when it is open; not to a fid in use", () => {
    const client = ready();
    client.walk(0, 1);
    expect(client.walk(1, 1, "sub").errno).toBe(0);
    expect(client.walk(1, 1, "none").errno).toBe(ERRNO.ENOENT);
    expect(client.walk(1, 2, "other").errno).toBe(0);
    expect(client.walk(1, 2, "other").errno).toBe(ERRNO.EINVAL);
    client.open(2);
    expect(client.walk(2, 2).errno).toBe(ERRNO.EINVAL);
    expect(client.walk(2, 3).errno).toBe(0);
    expect(client.walk(77, 4).errno).toBe(ERRNO.EBADF);
    expect(client.walk(0, P.NOFID).errno).toBe(ERRNO.EBADF);
  });

  test("more than 16 names are EINVAL", () => {
    const client = ready();
    expect(client.walk(0, 1, ...Array.from({ length: 16 }, () => "..")).errno).toBe(0);
    expect(client.walk(0, 2, ...Array.from({ length: 17 }, () => "..")).errno).toBe(ERRNO.EINVAL);
  });

  test("no symlink is followed", () => {
    const client = ready();
    const reply = client.walk(0, 1, "link");
    reply.reader.u16();
    expect(reply.reader.qid().type).toBe(P.QTSYMLINK);
    expect(client.open(1).errno).toBe(ERRNO.ELOOP);
    expect(client.walk(1, 2, "x").errno).toBe(ERRNO.ENOTDIR);
  });
});

describe("Tlopen, Tlcreate, Tread, Twrite, Tfsync, Tclunk", () => {
  test("reads any part, and nothing behind the end", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    expect(read(client, 1, 0, 5).errno).toBe(ERRNO.EBADF);
    client.open(1);
    expect(content(read(client, 1, 7, 100))).toEqual(encodeUtf8("world"));
    expect(content(read(client, 1, 0, 5))).toEqual(encodeUtf8("hello"));
    expect(content(read(client, 1, 12, 5)).length).toBe(0);
    expect(content(read(client, 1, 2 ** 60, 5)).length).toBe(0);
    expect(content(read(client, 1, 0, 0)).length).toBe(0);
    expect(content(read(client, 1, 0, 12, 14))).toEqual(encodeUtf8("hel"));
    expect(write(client, 1, 0, encodeUtf8("x")).errno).toBe(ERRNO.EBADF);
  });

  test("however the driver cuts its buffers", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(9000), { maxLength: 12 }),
        fc.boolean(),
        fc.nat(9000),
        fc.nat(2000),
        (cuts, close, length, offset) => {
          const client = new RawClient(new MemoryFileSystem()).ready();
          client.walk(0, 1);
          const create = { fid: 1, name: "f", flags: 2, mode: 0o600, gid: 0 };
          expect(client.now(P.TLCREATE, (w) => T.writeTlcreate(w, create), { cuts, close }).errno).toBe(0);
          const data = pattern(length);
          const fields = { fid: 1, offset, count: length };
          const written = client.now(P.TWRITE, (w) => T.writeTwrite(w, fields), { data, cuts, close });
          expect(written.reader.u32()).toBe(length);
          const whole = { fid: 1, offset: 0, count: 12_000 };
          const reply = client.now(P.TREAD, (w) => T.writeTread(w, whole), { room: 12_011, cuts, close });
          const expected = new Uint8Array(length === 0 ? 0 : offset + length);
          if (length > 0) expected.set(data, offset);
          expect(content(reply)).toEqual(expected);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("a count that the message does not hold is EINVAL, a huge offset EFBIG", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    client.open(1, 2);
    expect(write(client, 1, 0, encodeUtf8("abc"), 4).errno).toBe(ERRNO.EINVAL);
    expect(write(client, 1, 2 ** 53, encodeUtf8("abc")).errno).toBe(ERRNO.EFBIG);
    expect(write(client, 1, 2 ** 52, encodeUtf8("abc")).errno).toBe(ERRNO.EFBIG);
    expect(write(client, 1, 0, encodeUtf8("abcd"), 2).reader.u32()).toBe(2);
    expect(content(read(client, 1, 0, 4))).toEqual(encodeUtf8("abll"));
  });

  test("creates, truncates, appends", () => {
    const client = ready();
    client.walk(0, 1);
    const create = { fid: 1, name: "new", flags: 0o102, mode: 0o104755, gid: 5 };
    const reply = client.now(P.TLCREATE, (w) => T.writeTlcreate(w, create));
    expect(reply.reader.qid().type).toBe(P.QTFILE);
    expect(reply.reader.u32()).toBe(65_536 - 24);
    // The fid is the file now, and open.
    expect(client.now(P.TLCREATE, (w) => T.writeTlcreate(w, create)).errno).toBe(ERRNO.EINVAL);
    write(client, 1, 0, encodeUtf8("abc"));
    client.walk(0, 2, "new");
    expect(client.open(2, 0o2001).errno).toBe(0);
    write(client, 2, 0, encodeUtf8("def"));
    expect(content(read(client, 1, 0, 9))).toEqual(encodeUtf8("abcdef"));
    client.walk(0, 3, "new");
    expect(client.open(3, 0o1001).errno).toBe(0);
    expect(content(read(client, 1, 0, 9)).length).toBe(0);
    expect(client.open(3).errno).toBe(ERRNO.EINVAL);
    client.walk(0, 4);
    const exclusive = { ...create, fid: 4, flags: 0o302 };
    expect(client.now(P.TLCREATE, (w) => T.writeTlcreate(w, exclusive)).errno).toBe(ERRNO.EEXIST);
    expect(client.now(P.TFSYNC, (w) => T.writeTfsync(w, { fid: 1, dataOnly: true })).errno).toBe(0);
    expect(client.now(P.TFSYNC, (w) => void w.u32(1)).errno).toBe(0);
    expect(client.now(P.TFSYNC, (w) => void w.u32(4)).errno).toBe(ERRNO.EBADF);
  });

  test("a directory is not read as a file, nor written", () => {
    const client = ready();
    client.walk(0, 1);
    expect(client.open(1, 1).errno).toBe(ERRNO.EISDIR);
    expect(client.open(1).errno).toBe(0);
    expect(read(client, 1, 0, 10).errno).toBe(ERRNO.EISDIR);
    expect(write(client, 1, 0, encodeUtf8("x")).errno).toBe(ERRNO.EISDIR);
  });

  test("a clunked fid is gone; an unlinked file lives on while it is open", () => {
    const fs = tree();
    const client = ready(fs);
    client.walk(0, 1, "file.txt");
    client.open(1);
    const used = fs.inodesUsed;
    const unlink = { fid: 0, name: "file.txt", flags: 0 };
    expect(client.now(P.TUNLINKAT, (w) => T.writeTunlinkat(w, unlink)).errno).toBe(0);
    expect(content(read(client, 1, 0, 5))).toEqual(encodeUtf8("hello"));
    expect(fs.inodesUsed).toBe(used);
    expect(client.clunk(1).errno).toBe(0);
    expect(fs.inodesUsed).toBe(used - 1);
    expect(client.clunk(1).errno).toBe(ERRNO.EBADF);
  });
});

describe("Treaddir", () => {
  const list = (client: RawClient, count: number): string[] => {
    const names: string[] = [];
    for (let offset = 0; ;) {
      const reply = client.now(P.TREADDIR, (w) => T.writeTreaddir(w, { fid: 1, offset, count }), {
        room: count + 11,
      });
      expect(reply.errno).toBe(0);
      expect(reply.written).toBeLessThanOrEqual(count + 11);
      const reader = new MessageReader().start(reply.bytes, reply.written);
      if (reader.u32() === 0) return names;
      while (reader.remaining > 0) {
        const entry = R.readDirectoryEntry(reader);
        ({ offset } = entry);
        names.push(entry.name);
      }
    }
  };

  test("every entry once, in replies of any size", () => {
    const client = ready();
    client.walk(0, 1, "sub");
    client.open(1);
    for (const count of [29, 40, 64, 1000])
      expect(list(client, count).sort()).toEqual([".", "..", "deep", "other"]);
  });

  test("no room for the first entry is EINVAL; not a directory ENOTDIR; not open EBADF", () => {
    const client = ready();
    client.walk(0, 1);
    const ask = (count: number, room = 100): number =>
      client.now(P.TREADDIR, (w) => T.writeTreaddir(w, { fid: 1, offset: 0, count }), { room }).errno;
    expect(ask(100)).toBe(ERRNO.EBADF);
    client.open(1);
    expect(ask(24)).toBe(ERRNO.EINVAL);
    expect(ask(100, 12)).toBe(ERRNO.EINVAL);
    client.clunk(1);
    client.walk(0, 1, "file.txt");
    client.open(1);
    expect(ask(100)).toBe(ERRNO.ENOTDIR);
  });
});

describe("names in directories", () => {
  test("Tmkdir, Tsymlink, Tmknod, Tlink", () => {
    const client = ready();
    const mkdir = { fid: 0, name: "d", mode: 0o40700, gid: 3 };
    expect(client.now(P.TMKDIR, (w) => T.writeTmkdir(w, mkdir)).reader.qid().type).toBe(P.QTDIR);
    expect(client.now(P.TMKDIR, (w) => T.writeTmkdir(w, mkdir)).errno).toBe(ERRNO.EEXIST);
    const symlink = { fid: 0, name: "s", target: "/etc/passwd", gid: 0 };
    expect(client.now(P.TSYMLINK, (w) => T.writeTsymlink(w, symlink)).reader.qid().type).toBe(P.QTSYMLINK);
    client.walk(0, 1, "s");
    expect(client.now(P.TREADLINK, (w) => void w.u32(1)).reader.text()).toBe("/etc/passwd");
    expect(client.now(P.TREADLINK, (w) => void w.u32(0)).errno).toBe(ERRNO.EINVAL);
    const node = { fid: 0, name: "n", mode: 0o020600, major: 0xabc, minor: 0x12345, gid: 0 };
    expect(client.now(P.TMKNOD, (w) => T.writeTmknod(w, node)).errno).toBe(0);
    client.walk(0, 2, "n");
    const stat = R.readRgetattr(
      client.now(P.TGETATTR, (w) => T.writeTgetattr(w, { fid: 2, mask: 0 })).reader,
    );
    expect(stat).toMatchObject({ mode: 0o020600, rdev: 0x12_3ab_c45 });
    expect(client.open(2).errno).toBe(ERRNO.ENXIO);
    const bad = { ...node, name: "m", mode: 0o040600 };
    expect(client.now(P.TMKNOD, (w) => T.writeTmknod(w, bad)).errno).toBe(ERRNO.EINVAL);
    const far = { ...node, name: "m", minor: 0x100000 };
    expect(client.now(P.TMKNOD, (w) => T.writeTmknod(w, far)).errno).toBe(ERRNO.EINVAL);
    client.walk(0, 3, "file.txt");
    const link = { directoryFid: 0, fid: 3, name: "again" };
    expect(client.now(P.TLINK, (w) => T.writeTlink(w, link)).errno).toBe(0);
    const directory = { directoryFid: 0, fid: 0, name: "loop" };
    expect(client.now(P.TLINK, (w) => T.writeTlink(w, directory)).errno).toBe(ERRNO.EPERM);
  });

  test("Trenameat, Trename, Tunlinkat, Tremove", () => {
    const client = ready();
    client.walk(0, 1, "sub");
    client.walk(0, 2, "sub", "deep");
    const loop = { oldDirectoryFid: 0, oldName: "sub", newDirectoryFid: 2, newName: "in" };
    expect(client.now(P.TRENAMEAT, (w) => T.writeTrenameat(w, loop)).errno).toBe(ERRNO.EINVAL);
    const move = { oldDirectoryFid: 1, oldName: "deep", newDirectoryFid: 0, newName: "moved" };
    expect(client.now(P.TRENAMEAT, (w) => T.writeTrenameat(w, move)).errno).toBe(0);
    // The fid stays with the directory; the name it was walked by is gone.
    client.walk(2, 3, "leaf");
    expect(
      client.now(P.TRENAME, (w) => T.writeTrename(w, { fid: 3, directoryFid: 1, name: "l" })).errno,
    ).toBe(0);
    expect(client.walk(1, 4, "l").errno).toBe(0);
    expect(
      client.now(P.TRENAME, (w) => T.writeTrename(w, { fid: 0, directoryFid: 1, name: "r" })).errno,
    ).toBe(ERRNO.EBUSY);
    const unlink = (name: string, flags: number): number =>
      client.now(P.TUNLINKAT, (w) => T.writeTunlinkat(w, { fid: 0, name, flags })).errno;
    expect(unlink("sub", 0)).toBe(ERRNO.EISDIR);
    expect(unlink("sub", P.AT_REMOVEDIR)).toBe(ERRNO.ENOTEMPTY);
    expect(unlink("file.txt", P.AT_REMOVEDIR)).toBe(ERRNO.ENOTDIR);
    expect(unlink("file.txt", 1)).toBe(ERRNO.EINVAL);
    expect(client.now(P.TREMOVE, (w) => void w.u32(2)).errno).toBe(0);
    expect(client.walk(0, 9, "moved").errno).toBe(ERRNO.ENOENT);
    // A removal that fails clunks too.
    expect(client.now(P.TREMOVE, (w) => void w.u32(1)).errno).toBe(ERRNO.ENOTEMPTY);
    expect(client.clunk(1).errno).toBe(ERRNO.EBADF);
    expect(client.now(P.TREMOVE, (w) => void w.u32(4)).errno).toBe(0);
    expect(client.now(P.TREMOVE, (w) => void w.u32(3)).errno).toBe(ERRNO.ESTALE);
    expect(client.now(P.TREMOVE, (w) => void w.u32(0)).errno).toBe(ERRNO.EBUSY);
  });

  test("Tremove and Trename find a file that was moved, not what took its name", () => {
    const fs = tree();
    const client = ready(fs);
    client.walk(0, 1, "file.txt");
    client.walk(0, 2, "sub", "other");
    fs.rename(fs.root, "file.txt", fs.root, "moved");
    fs.rename(fs.lookup(fs.root, "sub"), "other", fs.root, "file.txt");
    expect(
      client.now(P.TRENAME, (w) => T.writeTrename(w, { fid: 2, directoryFid: 0, name: "x" })).errno,
    ).toBe(0);
    fillTree(fs, { "file.txt": "new" });
    expect(client.now(P.TREMOVE, (w) => void w.u32(1)).errno).toBe(0);
    expect([...(fs.root.directory?.entries.keys() ?? [])].sort()).toEqual(["file.txt", "link", "sub", "x"]);
  });

  test("Tremove of one of several names takes the one that was walked by", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    client.now(P.TLINK, (w) => T.writeTlink(w, { directoryFid: 0, fid: 1, name: "second" }));
    client.now(P.TREMOVE, (w) => void w.u32(1));
    expect(client.walk(0, 1, "file.txt").errno).toBe(ERRNO.ENOENT);
    expect(client.walk(0, 1, "second").errno).toBe(0);
  });
});
