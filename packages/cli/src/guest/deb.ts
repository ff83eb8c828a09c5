import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gunzipSync } from "node:zlib";

import { decompressXz, xzSize } from "@virtio/v86/decompress/xz";

/** A Debian package is an `ar` archive with a compressed `tar` archive of its files in it (deb(5)). */

/** Bytes of the largest package when it is unpacked; that of a kernel has 500 MB. */
const LARGEST = 1 << 30;
const AR_MAGIC = "!<arch>\n";
const AR_HEADER = 60;
const BLOCK = 512;

/** Writes the files of a package below `target`, which may not have them yet. Throws an Error when it is damaged. */
export function unpackDeb(bytes: Uint8Array, target: string): void {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const { name, data } of arMembers(file)) {
    if (!name.startsWith("data.tar")) continue;
    unpackTar(decompress(name, data), target);
    return;
  }
  throw new Error("there are no files in this package");
}

function* arMembers(file: Buffer): Generator<{ readonly name: string; readonly data: Buffer }> {
  if (file.toString("latin1", 0, AR_MAGIC.length) !== AR_MAGIC) throw new Error("this is no Debian package");
  for (let at = AR_MAGIC.length; at + AR_HEADER <= file.length;) {
    const name = file.toString("latin1", at, at + 16).replace(/\/? *$/, "");
    const size = Number(file.toString("latin1", at + 48, at + 58));
    const begin = at + AR_HEADER;
    if (!Number.isSafeInteger(size) || begin + size > file.length) throw new Error("this package is cut off");
    yield { name, data: file.subarray(begin, begin + size) };
    at = begin + size + (size & 1);
  }
}

function decompress(name: string, data: Buffer): Buffer {
  if (name.endsWith(".tar")) return data;
  if (name.endsWith(".gz")) return gunzipSync(data, { maxOutputLength: LARGEST });
  if (name.endsWith(".xz")) return Buffer.from(decompressXz(data, xzSize(data, LARGEST)).buffer);
  throw new Error(`${name}: this compression is not supported`);
}

/** Regular files, folders and symlinks of the ustar format, with GNU's long names. Others are left out. */
function unpackTar(tar: Buffer, target: string): void {
  const links = new Set<string>();
  let longName: string | undefined;
  let longLink: string | undefined;
  for (let at = 0; at + BLOCK <= tar.length && tar[at] !== 0;) {
    const header = tar.subarray(at, at + BLOCK);
    const size = Number.parseInt(field(header, 124, 12).trim() || "0", 8);
    const begin = at + BLOCK;
    if (!Number.isSafeInteger(size) || begin + size > tar.length) throw new Error("this package is cut off");
    const data = tar.subarray(begin, begin + size);
    const type = field(header, 156, 1);
    at = begin + Math.ceil(size / BLOCK) * BLOCK;
    if (type === "L") longName = data.toString("utf8").replace(/\0[^]*$/, "");
    else if (type === "K") longLink = data.toString("utf8").replace(/\0[^]*$/, "");
    else {
      const prefix = field(header, 345, 155);
      const short = prefix === "" ? field(header, 0, 100) : `${prefix}/${field(header, 0, 100)}`;
      const path = cleanPath(longName ?? short, links);
      if (path !== "") writeEntry(join(target, path), type, data, longLink ?? field(header, 157, 100));
      if (type === "2") links.add(path);
      longName = longLink = undefined;
    }
  }
}

function field(header: Buffer, offset: number, length: number): string {
  return header.toString("utf8", offset, offset + length).replace(/\0[^]*$/, "");
}

/** Without what would leave the target, through ".." or through a symlink of the package itself. */
function cleanPath(name: string, links: ReadonlySet<string>): string {
  const parts = name.split("/").filter((part) => part !== "" && part !== ".");
  const through = parts.some((_, index) => links.has(parts.slice(0, index + 1).join("/")));
  if (parts.includes("..") || through) throw new Error(`"${name}" is outside of this package`);
  return parts.join("/");
}

function writeEntry(path: string, type: string, data: Buffer, link: string): void {
  if (type === "5") mkdirSync(path, { recursive: true });
  else {
    mkdirSync(dirname(path), { recursive: true });
    if (type === "0" || type === "") writeFileSync(path, data, { flag: "wx" });
    else if (type === "2") symlinkSync(link, path);
  }
}
