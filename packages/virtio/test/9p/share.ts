import { expect } from "vitest";
import { fillTree } from "../../src/backends/fill-tree.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as T from "../../src/protocols/9p/requests.ts";
import { RawClient, type Reply } from "./raw.ts";

export function tree(options: ConstructorParameters<typeof MemoryFileSystem>[0] = {}): MemoryFileSystem {
  const fs = new MemoryFileSystem({ clock: () => 1_700_000_000_123, ...options });
  fillTree(fs, {
    "file.txt": "hello, world",
    link: { symlink: "file.txt" },
    sub: { directory: { deep: { directory: { leaf: "leaf" } }, other: "other" } },
  });
  return fs;
}

export const ready = (fs = tree()): RawClient => new RawClient(fs).ready();

export const write = (
  c: RawClient,
  fid: number,
  offset: number,
  data: Uint8Array,
  count = data.length,
): Reply => c.now(P.TWRITE, (w) => T.writeTwrite(w, { fid, offset, count }), { data });
export const read = (c: RawClient, fid: number, offset: number, count: number, room?: number): Reply =>
  c.now(P.TREAD, (w) => T.writeTread(w, { fid, offset, count }), { room: room ?? count + 11 });
export const content = (reply: Reply): Uint8Array => {
  expect(reply.type).toBe(P.TREAD + 1);
  expect(reply.reader.u32()).toBe(reply.written - 11);
  return reply.bytes.subarray(11);
};
