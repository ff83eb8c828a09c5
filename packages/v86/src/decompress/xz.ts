/** The .xz file format, as far as Linux images use it: LZMA2, after the x86 filter or without it. */
import { LzmaDecoder, damaged } from "./lzma.ts";
import { decodeX86 } from "./x86-filter.ts";

const STREAM_HEADER_SIZE = 12;
const STREAM_FOOTER_SIZE = 12;
const FILTER_X86 = 0x04;
const FILTER_LZMA2 = 0x21;
const CHECK_CRC32 = 1;
/** Bytes of a check by its id: groups of three ids share a size. */
const CHECK_SIZES = [0, 4, 8, 16, 32, 64];

export function isXz(bytes: Uint8Array): boolean {
  return [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00].every((byte, i) => bytes[i] === byte);
}

/** Decompresses the first stream, which gives exactly `size` bytes. Throws an Error when it is damaged or gives others. */
export function decompressXz(bytes: Uint8Array, size: number): Uint8Array {
  if (!isXz(bytes)) throw damaged();
  const out = new Uint8Array(size);
  const check = (bytes[7] ?? 0) & 0xf;
  const checkSize = CHECK_SIZES[Math.ceil(check / 3)] ?? 0;
  let at = STREAM_HEADER_SIZE;
  let filled = 0;
  // A block header starts with its size, the index after the last block with 0.
  while (bytes[at] !== 0) {
    const headerSize = ((bytes[at] ?? 0) + 1) * 4;
    const filters = readFilters(bytes.subarray(at, at + headerSize));
    const block = out.subarray(filled);
    const { consumed, produced } = decodeLzma2(bytes.subarray(at + headerSize), block);
    if (filters.includes(FILTER_X86)) decodeX86(block.subarray(0, produced));
    at += headerSize + Math.ceil(consumed / 4) * 4;
    if (check === CHECK_CRC32 && crc32(block.subarray(0, produced)) !== readLe32(bytes, at)) throw damaged();
    at += checkSize;
    filled += produced;
    if (at >= bytes.length) throw damaged();
  }
  if (filled !== size) throw damaged();
  return out;
}

/**
 * What a file of one stream decompresses to, in bytes: its index says so. Throws an Error when there is none, or when it says
 * more than `largest`.
 */
export function xzSize(bytes: Uint8Array, largest: number): number {
  const footer = bytes.length - STREAM_FOOTER_SIZE;
  // CRC32, size of the index in units of four bytes, flags, and the magic "YZ".
  if (footer < STREAM_HEADER_SIZE || bytes[footer + 10] !== 0x59 || bytes[footer + 11] !== 0x5a)
    throw damaged();
  const start = footer - (readLe32(bytes, footer + 4) + 1) * 4;
  if (start < STREAM_HEADER_SIZE || bytes[start] !== 0) throw damaged();
  let at = start + 1;
  const number = (): number => {
    const { value, next } = readNumber(bytes, at);
    at = next;
    return value;
  };
  let size = 0;
  for (let blocks = number(); blocks > 0; blocks--) {
    number();
    size += number();
    if (at > footer) throw damaged();
    if (size > largest)
      throw new Error(`${size} bytes or more of an xz file where at most ${largest} may be`);
  }
  return size;
}

/** Filter ids of a block, in the order in which they were applied; the last is LZMA2. */
function readFilters(header: Uint8Array): readonly number[] {
  let at = 2;
  const number = (): number => {
    const { value, next } = readNumber(header, at);
    at = next;
    return value;
  };
  const flags = header[1] ?? 0;
  if ((flags & 0x40) !== 0) number();
  if ((flags & 0x80) !== 0) number();
  const filters = Array.from({ length: (flags & 3) + 1 }, () => {
    const id = number();
    const propertiesSize = number();
    at += propertiesSize;
    return id;
  });
  const known = filters.every((id, i) =>
    i === filters.length - 1 ? id === FILTER_LZMA2 : id === FILTER_X86,
  );
  if (!known || filters.length > 2)
    throw new Error(`compressed with xz filters ${filters.join(", ")}, which are not supported`);
  return filters;
}

/** A number of seven bits a byte, the least ones first. */
function readNumber(bytes: Uint8Array, start: number): { value: number; next: number } {
  let value = 0;
  let at = start;
  for (let shift = 1; shift < 2 ** 49; shift *= 128) {
    const byte = bytes[at++] ?? 0;
    value += (byte & 0x7f) * shift;
    if (byte < 0x80) return { value, next: at };
  }
  throw damaged();
}

function decodeLzma2(bytes: Uint8Array, out: Uint8Array): { consumed: number; produced: number } {
  const lzma = new LzmaDecoder(out);
  let at = 0;
  const be16 = (): number => {
    at += 2;
    return ((bytes[at - 2] ?? 0) << 8) | (bytes[at - 1] ?? 0);
  };
  const take = (length: number): Uint8Array => {
    if (at + length > bytes.length) throw damaged();
    at += length;
    return bytes.subarray(at - length, at);
  };
  for (;;) {
    const control = take(1)[0] ?? 0;
    if (control === 0) return { consumed: at, produced: lzma.length };
    if (control < 0x80) {
      if (control > 2) throw damaged();
      lzma.copy(take(be16() + 1));
      continue;
    }
    const length = ((control & 0x1f) << 16) + be16() + 1;
    const compressed = be16() + 1;
    const reset = (control >> 5) & 3;
    if (reset >= 2) lzma.setProperties(take(1)[0] ?? 0);
    if (reset >= 1) lzma.resetState();
    lzma.decode(take(compressed), length);
  }
}

function readLe32(bytes: Uint8Array, at: number): number {
  return at + 4 <= bytes.length
    ? new DataView(bytes.buffer, bytes.byteOffset + at, 4).getUint32(0, true)
    : -1;
}

function crc32(bytes: Uint8Array): number {
  const table = Uint32Array.from({ length: 256 }, (_, value) => {
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
    return value;
  });
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = (table[(crc ^ (bytes[i] ?? 0)) & 0xff] ?? 0) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
