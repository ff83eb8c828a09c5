import { readLe32, writeLe32 } from "virtio/memory/bytes";

/**
 * What an ext2, ext3 or ext4 file system asks of whoever opens it, by the feature words of its superblock:
 *
 * - `incompat`: who does not know a bit must not touch the file system.
 * - `ro_compat`: who does not know a bit may read and must not write.
 *
 * libext2fs refuses a file system for bits that mean nothing to somebody who only reads. These are hidden from it, and
 * nothing is written then.
 */

/** The superblock lies here in its file system, bytes. */
export const SUPERBLOCK = { at: 1024, bytes: 1024 } as const;
const INCOMPAT_AT = 96;
const RO_COMPAT_AT = 100;
const CHECKSUM_AT = 1020;
const RO_COMPAT_METADATA_CSUM = 0x400;
const INCOMPAT_RECOVER = 4;

type Bits = ReadonlyMap<number, string>;

/** Bits that libext2fs knows, for reading and for writing. */
const INCOMPAT_KNOWN: number =
  0x2 | INCOMPAT_RECOVER | 0x10 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000;
const RO_COMPAT_KNOWN: number =
  0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | RO_COMPAT_METADATA_CSUM | 0x2000;

/** Bits that a reader need not know, by their names in e2fsprogs. With `casefold` a name is found as it is spelled. */
const INCOMPAT_HIDDEN: Bits = new Map([
  [0x100, "mmp"],
  [0x2_0000, "casefold"],
]);
/** With `bigalloc` the superblock's numbers mean other things; libext2fs cannot open it. */
const RO_COMPAT_NEEDED: Bits = new Map([[0x200, "bigalloc"]]);
const RO_COMPAT_NAMES: Bits = new Map([
  [0x1000, "read-only"],
  [0x4000, "shared_blocks"],
  [0x8000, "verity"],
  [0x1_0000, "orphan_present"],
]);
const INCOMPAT_NAMES: Bits = new Map([
  [0x1, "compression"],
  [0x8, "journal_dev"],
  [0x1000, "dirdata"],
]);

/** What can be done with a file system. */
export interface ExtAccess {
  /** Why it cannot be opened at all, or undefined. */
  readonly noRead: string | undefined;
  /** Why nothing may be written, or undefined. */
  readonly noWrite: string | undefined;
}

/** What the superblock's features allow. */
export function extAccess(superblock: Uint8Array): ExtAccess {
  const incompat = readLe32(superblock, INCOMPAT_AT);
  const readOnly = readLe32(superblock, RO_COMPAT_AT);
  const unknown = bitsOf(incompat & ~INCOMPAT_KNOWN).filter((bit) => !INCOMPAT_HIDDEN.has(bit));
  const needed = [
    ...unknown.map((bit) => INCOMPAT_NAMES.get(bit) ?? `incompat bit 0x${bit.toString(16)}`),
    ...namesOf(readOnly, RO_COMPAT_NEEDED),
  ];
  const noRead = needed.length === 0 ? undefined : `its feature ${needed.join(", ")} is not supported here`;
  if ((incompat & INCOMPAT_RECOVER) !== 0)
    return { noRead, noWrite: "its journal must be replayed first, by e2fsck" };
  const foreign = [
    ...namesOf(incompat, INCOMPAT_HIDDEN),
    ...bitsOf(readOnly & ~RO_COMPAT_KNOWN).map(
      (bit) => RO_COMPAT_NAMES.get(bit) ?? `ro_compat bit 0x${bit.toString(16)}`,
    ),
  ];
  if (foreign.length === 0) return { noRead, noWrite: undefined };
  return { noRead, noWrite: `it can only be read here, for its feature ${foreign.join(", ")}` };
}

/** The superblock without the bits that a reader need not know, in place. */
export function hideFromReader(superblock: Uint8Array): void {
  writeLe32(superblock, INCOMPAT_AT, readLe32(superblock, INCOMPAT_AT) & INCOMPAT_KNOWN);
  const readOnly = readLe32(superblock, RO_COMPAT_AT) & RO_COMPAT_KNOWN;
  writeLe32(superblock, RO_COMPAT_AT, readOnly);
  if ((readOnly & RO_COMPAT_METADATA_CSUM) !== 0)
    writeLe32(superblock, CHECKSUM_AT, crc32c(superblock.subarray(0, CHECKSUM_AT)));
}

function namesOf(word: number, names: Bits): string[] {
  return bitsOf(word).flatMap((bit) => names.get(bit) ?? []);
}

/** Each bit of 32 that is set, as an unsigned number. */
function bitsOf(word: number): number[] {
  return Array.from({ length: 32 }, (_, i) => 2 ** i).filter((bit) => (word & bit) !== 0);
}

/** As ext4 has it: begun with all ones, and not inverted at the end. */
function crc32c(bytes: Uint8Array): number {
  let sum = 0xffff_ffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ ((sum & 1) === 0 ? 0 : 0x82f6_3b78);
  }
  return sum >>> 0;
}
