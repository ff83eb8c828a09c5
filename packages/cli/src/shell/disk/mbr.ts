import { readLe16, readLe32 } from "virtio/memory/bytes";
import type { Disk } from "./disk.ts";
import type { MbrPartition } from "./partitions.ts";

const SIGNATURE = 0xaa55;
const SIGNATURE_AT = 510;
const DISK_SIGNATURE_AT = 440;
const TABLE_AT = 446;
const ENTRY = 16;
const ENTRIES = 4;
const GPT_PROTECTIVE = 0xee;
const EXTENDED: ReadonlySet<number> = new Set([0x05, 0x0f, 0x85]);
/** Logical partitions: a chain that is longer counts as a loop. */
const MAX_LOGICAL = 128;
/** Where a FAT without partitions has its name, in a sector that else looks like an MBR. */
const FAT_NAMES = [54, 82] as const;

interface Mbr {
  readonly signature: number;
  readonly protective: boolean;
  readonly partitions: readonly MbrPartition[];
}

interface Entry {
  readonly index: number;
  readonly type: number;
  readonly bootable: boolean;
  readonly start: number;
  readonly sectors: number;
}

/** Undefined: the first sector is no MBR. Entries with the number of their place, logical ones from 5 on. */
export async function readMbr(disk: Disk): Promise<Mbr | undefined> {
  const sector = await readSector(disk, 0);
  const entries = sector === undefined || isFat(sector) ? undefined : entriesOf(sector);
  if (sector === undefined || entries === undefined) return undefined;
  const partitions = entries.map((entry) => partitionOf(entry, 0, entry.index + 1));
  const extended = partitions.find((partition) => partition.extended);
  if (extended !== undefined) partitions.push(...(await readLogical(disk, extended.start)));
  return {
    signature: readLe32(sector, DISK_SIGNATURE_AT),
    protective: entries.some(({ type }) => type === GPT_PROTECTIVE),
    partitions,
  };
}

/** The chain of extended boot records. Their places count from the first one, a logical partition from its own. */
async function readLogical(disk: Disk, first: number): Promise<MbrPartition[]> {
  const found: MbrPartition[] = [];
  const seen = new Set<number>();
  for (let at: number | undefined = first; at !== undefined && found.length < MAX_LOGICAL && !seen.has(at);) {
    seen.add(at);
    const sector: Uint8Array | undefined = await readSector(disk, at);
    const entries: Entry[] = (sector === undefined ? undefined : entriesOf(sector)) ?? [];
    const base = at;
    at = undefined;
    for (const entry of entries) {
      if (!EXTENDED.has(entry.type)) found.push(partitionOf(entry, base, 5 + found.length));
      else at ??= first + entry.start;
    }
    if (seen.size > MAX_LOGICAL) break;
  }
  return found;
}

/** Undefined: beyond the disk, or without the signature. */
async function readSector(disk: Disk, at: number): Promise<Uint8Array | undefined> {
  if (at >= disk.blocks) return undefined;
  const sector = new Uint8Array(disk.blockSize);
  await disk.read(at * disk.unit, sector);
  return readLe16(sector, SIGNATURE_AT) === SIGNATURE ? sector : undefined;
}

/** Undefined: the boot indicators show that this is no table. */
function entriesOf(sector: Uint8Array): Entry[] | undefined {
  const entries: Entry[] = [];
  for (let index = 0; index < ENTRIES; index++) {
    const at = TABLE_AT + index * ENTRY;
    const indicator = sector[at] ?? 0;
    if (indicator !== 0 && indicator !== 0x80) return undefined;
    const entry = {
      index,
      type: sector[at + 4] ?? 0,
      bootable: indicator === 0x80,
      start: readLe32(sector, at + 8),
      sectors: readLe32(sector, at + 12),
    };
    if (entry.type !== 0 && entry.sectors !== 0) entries.push(entry);
  }
  return entries;
}

function partitionOf({ type, bootable, start, sectors }: Entry, base: number, number: number): MbrPartition {
  return { number, type, bootable, start: base + start, sectors, extended: EXTENDED.has(type) };
}

function isFat(sector: Uint8Array): boolean {
  return FAT_NAMES.some((at) => sector[at] === 0x46 && sector[at + 1] === 0x41 && sector[at + 2] === 0x54);
}
