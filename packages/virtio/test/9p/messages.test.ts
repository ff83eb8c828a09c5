import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ERRNO } from "../../src/backends/errno.ts";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { VirtioFault } from "../../src/fault.ts";
import { encodeUtf8 } from "../../src/memory/utf8.ts";
import { MessageReader } from "../../src/protocols/9p/message.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as R from "../../src/protocols/9p/replies.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { pattern } from "../support/ends.ts";
import { RawClient, type Reply } from "./raw.ts";

function tree(options: ConstructorParameters<typeof MemoryFileSystem>[0] = {}): MemoryFileSystem {
  const fs = new MemoryFileSystem({ clock: () => 1_700_000_000_123, ...options });
  fillTree(fs, {
    "file.txt": "hello, world",
    link: { symlink: "file.txt" },
    sub: { directory: { deep: { directory: { leaf: "leaf" } }, other: "other" } },
  });
  return fs;
}

const ready = (fs = tree()): RawClient => new RawClient(fs).ready();

const write = (c: RawClient, fid: number, offset: number, data: Uint8Array, count = data.length): Reply =>
  c.now(P.TWRITE, (w) => T.writeTwrite(w, { fid, offset, count }), { data });
const read = (c: RawClient, fid: number, offset: number, count: number, room?: number): Reply =>
  c.now(P.TREAD, (w) => T.writeTread(w, { fid, offset, count }), { room: room ?? count + 11 });
const content = (reply: Reply): Uint8Array => {
  expect(reply.type).toBe(P.TREAD + 1);
  expect(reply.reader.u32()).toBe(reply.written - 11);
  return reply.bytes.subarray(11);
};

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

  test("Tremove of one of several names takes the one that was walked by", () => {
    const client = ready();
    client.walk(0, 1, "file.txt");
    client.now(P.TLINK, (w) => T.writeTlink(w, { directoryFid: 0, fid: 1, name: "second" }));
    client.now(P.TREMOVE, (w) => void w.u32(1));
    expect(client.walk(0, 1, "file.txt").errno).toBe(ERRNO.ENOENT);
    expect(client.walk(0, 1, "second").errno).toBe(0);
  });
});

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
    expect(client.open(1).errno).toBe(0);
  });
});
