import { crc32 } from "node:zlib";
import { readLe16, readLe32, readLe64 } from "virtio/memory/bytes";
import type { Disk } from "./disk.ts";
import type { GptPartition } from "./partitions.ts";

const SIGNATURE = "EFI PART";
const HEADER_BYTES = 92;
/** Bytes of the table of entries that are read: 128 entries of 128 bytes are usual. */
const MAX_TABLE = 128 * 1024;
const ENTRY_MIN = 128;
const LEGACY_BOOTABLE = 2;
const NAME_AT = 56;
const NAME_CHARACTERS = 36;

/** The entries of the primary table, or of the backup at the end when that is broken. Undefined: neither is whole. */
export async function readGpt(disk: Disk): Promise<GptPartition[] | undefined> {
  return (await readTable(disk, 1)) ?? (await readTable(disk, disk.blocks - 1));
}

async function readTable(disk: Disk, at: number): Promise<GptPartition[] | undefined> {
  if (at < 1 || at >= disk.blocks) return undefined;
  const header = new Uint8Array(disk.blockSize);
  await disk.read(at * disk.unit, header);
  const size = readLe32(header, 12);
  const signature = String.fromCharCode(...header.subarray(0, 8));
  if (signature !== SIGNATURE || size < HEADER_BYTES || size > disk.blockSize) return undefined;
  const checksum = readLe32(header, 16);
  header.fill(0, 16, 20);
  if (crc32(header.subarray(0, size)) !== checksum) return undefined;
  const first = readLe64(header, 72);
  const count = readLe32(header, 80);
  const entryBytes = readLe32(header, 84);
  const bytes = count * entryBytes;
  if (entryBytes < ENTRY_MIN || entryBytes % 8 !== 0 || bytes > MAX_TABLE || bytes === 0) return undefined;
  const blocks = Math.ceil(bytes / disk.blockSize);
  if (first + blocks > disk.blocks) return undefined;
  const table = new Uint8Array(blocks * disk.blockSize);
  await disk.read(first * disk.unit, table);
  if (crc32(table.subarray(0, bytes)) !== readLe32(header, 88)) return undefined;
  return entriesOf(table, count, entryBytes);
}

function entriesOf(table: Uint8Array, count: number, entryBytes: number): GptPartition[] {
  const found: GptPartition[] = [];
  for (let index = 0; index < count; index++) {
    const entry = table.subarray(index * entryBytes, (index + 1) * entryBytes);
    if (entry.subarray(0, 16).every((byte) => byte === 0)) continue;
    const start = readLe64(entry, 32);
    const last = readLe64(entry, 40);
    const attributes = BigInt(readLe32(entry, 48)) | (BigInt(readLe32(entry, 52)) << 32n);
    found.push({
      number: index + 1,
      start,
      sectors: Math.max(0, last - start + 1),
      bootable: ((attributes >> BigInt(LEGACY_BOOTABLE)) & 1n) === 1n,
      extended: false,
      name: nameOf(entry),
      typeGuid: guidText(entry.subarray(0, 16)),
      guid: guidText(entry.subarray(16, 32)),
      attributes,
    });
  }
  return found;
}

function nameOf(entry: Uint8Array): string {
  let name = "";
  for (let i = 0; i < NAME_CHARACTERS; i++) {
    const unit = readLe16(entry, NAME_AT + 2 * i);
    if (unit === 0) break;
    // Nothing that a terminal would take for a command.
    name += unit < 0x20 || (unit >= 0x7f && unit < 0xa0) ? "." : String.fromCharCode(unit);
  }
  return name;
}

/** The first three fields are little-endian numbers. */
function guidText(bytes: Uint8Array): string {
  const hex = (from: number, to: number): string => Buffer.from(bytes.subarray(from, to)).toString("hex");
  const swapped = (value: number, digits: number): string => value.toString(16).padStart(digits, "0");
  const fields = [
    swapped(readLe32(bytes, 0), 8),
    swapped(readLe16(bytes, 4), 4),
    swapped(readLe16(bytes, 6), 4),
    hex(8, 10),
    hex(10, 16),
  ];
  return fields.join("-");
}
