import { gunzipSync } from "node:zlib";

/** Bytes that a compressed archive may become: hundreds of times more could be in a small file. */
const LARGEST = 2 ** 29;
const headerBytes = 110;
/** Places of the numbers in a header that are needed to walk through it, in fields of 8 digits behind the magic. */
const fileSizeField = 6;
const nameSizeField = 11;

/**
 * The entries of an initial root file system as Linux unpacks it: archives in cpio's "newc" format, one behind the other with
 * zeros between them. What is compressed with gzip is so to its end. A later entry takes the place of an earlier one.
 *
 * @throws Error that says what is no archive
 */
export function readCpio(image: Uint8Array): Map<string, Uint8Array> {
  const entries = new Map<string, Uint8Array>();
  addEntries(Buffer.from(image.buffer, image.byteOffset, image.byteLength), entries);
  return entries;
}

function addEntries(image: Buffer, entries: Map<string, Uint8Array>): void {
  for (let at = 0; at < image.length;) {
    if (image[at] === 0) at++;
    else if (image.readUInt8(at) === 0x1f && image[at + 1] === 0x8b)
      return addEntries(decompressed(image.subarray(at)), entries);
    else at = addEntry(image, at, entries);
  }
}

/** Gives where the entry ends. */
function addEntry(image: Buffer, at: number, entries: Map<string, Uint8Array>): number {
  const header = image.toString("latin1", at, at + headerBytes);
  // 070702 has a check sum more.
  if (!/^07070[12][0-9a-fA-F]{104}$/.test(header)) throw new Error("it is no cpio archive, plain or gzip");
  const field = (index: number): number => Number.parseInt(header.slice(6 + 8 * index, 14 + 8 * index), 16);
  const nameEnd = at + headerBytes + field(nameSizeField);
  const start = at + align(nameEnd - at);
  const end = start + field(fileSizeField);
  if (end > image.length) throw new Error("its cpio archive is cut off");
  const name = image.toString("utf8", at + headerBytes, nameEnd).replace(/\0.*$/s, "");
  entries.set(name.replace(/^(\.?\/)+/, ""), image.subarray(start, end));
  return at + align(end - at);
}

function align(length: number): number {
  return Math.ceil(length / 4) * 4;
}

function decompressed(bytes: Uint8Array): Buffer {
  try {
    return gunzipSync(bytes, { maxOutputLength: LARGEST });
  } catch (error) {
    throw new Error(`it cannot be decompressed into ${LARGEST} bytes`, { cause: error });
  }
}
