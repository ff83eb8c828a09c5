import { readLe16, readLe32 } from "virtio/memory/bytes";
import { SECTOR, type Disk, type Extent } from "../disk/disk.ts";

/** What is found at the start of a disk or partition. */
export interface Probe {
  readonly type: "ext4" | "fat";
  /** Why nothing may be written, or undefined. */
  readonly noWrite: string | undefined;
}

/** Bytes that are looked at. */
const PROBE_LENGTH = 4096;
const EXT_SUPERBLOCK = 1024;
const EXT_MAGIC = 0xef53;
const EXT_INCOMPAT_RECOVER = 4;
/** The name that a FAT puts where its size says it is. */
const FAT_NAMES = [54, 82] as const;

/** Undefined: neither ext2, ext3, ext4 nor FAT. */
export async function probe(disk: Disk, { start, sectors }: Extent): Promise<Probe | undefined> {
  const bytes = new Uint8Array(Math.min(PROBE_LENGTH, sectors * SECTOR));
  await disk.read(start, bytes);
  if (bytes.length === PROBE_LENGTH && readLe16(bytes, EXT_SUPERBLOCK + 56) === EXT_MAGIC) {
    const journal = (readLe32(bytes, EXT_SUPERBLOCK + 96) & EXT_INCOMPAT_RECOVER) !== 0;
    return { type: "ext4", noWrite: journal ? "its journal must be replayed first, by e2fsck" : undefined };
  }
  return isFat(bytes) ? { type: "fat", noWrite: undefined } : undefined;
}

function isFat(bytes: Uint8Array): boolean {
  if (bytes.length < SECTOR || readLe16(bytes, 510) !== 0xaa55) return false;
  const sectorSize = readLe16(bytes, 11);
  if (![512, 1024, 2048, 4096].includes(sectorSize)) return false;
  return FAT_NAMES.some((at) => bytes[at] === 0x46 && bytes[at + 1] === 0x41 && bytes[at + 2] === 0x54);
}
