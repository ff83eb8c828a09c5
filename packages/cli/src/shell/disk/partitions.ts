import type { Disk } from "./disk.ts";
import { readGpt } from "./gpt.ts";
import { readMbr } from "./mbr.ts";

/** A partition. */
export interface Partition {
  /** From 1 on, as U-Boot and Linux count. */
  readonly number: number;
  /** In logical blocks of the disk, as the number of them is. */
  readonly start: number;
  readonly sectors: number;
  readonly bootable: boolean;
  /** An extended partition holds others, and no file system. */
  readonly extended: boolean;
}

/** A partition of a GPT. */
export interface GptPartition extends Partition {
  readonly name: string;
  readonly typeGuid: string;
  readonly guid: string;
  readonly attributes: bigint;
}

/** A partition of an MBR. */
export interface MbrPartition extends Partition {
  readonly type: number;
}

export type PartitionTable =
  | { readonly kind: "DOS"; readonly signature: number; readonly partitions: readonly MbrPartition[] }
  | { readonly kind: "EFI"; readonly partitions: readonly GptPartition[] };

/** The partition table of a disk, or undefined when it has none. Whatever is in it, few sectors are read. */
export async function readPartitions(disk: Disk): Promise<PartitionTable | undefined> {
  if (disk.blocks === 0) return undefined;
  const mbr = await readMbr(disk);
  if (mbr === undefined || mbr.protective) {
    const partitions = await readGpt(disk);
    if (partitions !== undefined) return { kind: "EFI", partitions };
  }
  if (mbr === undefined || mbr.partitions.length === 0) return undefined;
  return { kind: "DOS", signature: mbr.signature, partitions: mbr.partitions };
}
