import { readLe16 } from "virtio/memory/bytes";
import { extAccess, SUPERBLOCK } from "./ext-features.ts";
import { SECTOR, type Disk, type Extent } from "../disk/disk.ts";

/** What is found at the start of a disk or partition. */
export interface Probe {
  readonly type: "ext4" | "fat";
  /** Why it cannot be opened, or undefined. */
  readonly noRead: string | undefined;
  /** Why nothing may be written, or undefined. */
  readonly noWrite: string | undefined;
}

/** Bytes that are looked at. */
const PROBE_LENGTH = 4096;
const EXT_MAGIC = 0xef53;
const EXT_MAGIC_AT = 56;
/** The name that a FAT puts where its size says it is. */
const FAT_NAMES = [54, 82] as const;

/** Undefined: neither ext2, ext3, ext4 nor FAT. */
export async function probe(disk: Disk, { start, sectors }: Extent): Promise<Probe | undefined> {
  const bytes = new Uint8Array(Math.min(PROBE_LENGTH, sectors * SECTOR));
  await disk.read(start, bytes);
  const superblock = bytes.subarray(SUPERBLOCK.at, SUPERBLOCK.at + SUPERBLOCK.bytes);
  if (superblock.length === SUPERBLOCK.bytes && readLe16(superblock, EXT_MAGIC_AT) === EXT_MAGIC)
    return { type: "ext4", ...extAccess(superblock) };
  return isFat(bytes) ? { type: "fat", noRead: undefined, noWrite: undefined } : undefined;
}

function isFat(bytes: Uint8Array): boolean {
  if (bytes.length < SECTOR || readLe16(bytes, 510) !== 0xaa55) return false;
  const sectorSize = readLe16(bytes, 11);
  if (![512, 1024, 2048, 4096].includes(sectorSize)) return false;
  return FAT_NAMES.some((at) => bytes[at] === 0x46 && bytes[at + 1] === 0x41 && bytes[at + 2] === 0x54);
}
