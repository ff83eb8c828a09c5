import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { host } from "../../guest/virtio.ts";

const SECTOR = 512;
/** Where the partition starts, in sectors: what every tool of today does. */
const PARTITION_START = 2048;
const PARTITION_MEGABYTES = 15;
/** In the first sector: code of a boot loader, then the four entries of the table, then the signature. */
const TABLE_AT = 446;
const SIGNATURE_AT = 510;
const TYPE_LINUX = 0x83;

export interface PartitionedDisk {
  readonly path: string;
  /** As it was made. */
  readonly content: Buffer;
  /** Of the only partition, in sectors. */
  readonly start: number;
  readonly length: number;
}

/** A disk with a partition table of the old kind and one partition with ext4, which has these files. */
export function makePartitionedDisk(
  folder: string,
  files: Readonly<Record<string, Uint8Array>>,
): PartitionedDisk {
  const tree = join(folder, "tree");
  mkdirSync(tree);
  for (const [name, data] of Object.entries(files)) writeFileSync(join(tree, name), data);
  const partition = join(folder, "partition");
  host("mkfs.ext4", "-q", "-F", "-d", tree, partition, `${PARTITION_MEGABYTES}M`);
  const data = readFileSync(partition);
  const length = data.length / SECTOR;
  const content = Buffer.concat([randomBytes(PARTITION_START * SECTOR), data]);
  content.fill(0, TABLE_AT, SIGNATURE_AT);
  // Marked to be booted from; sectors counted by cylinders and heads are those of a partition beyond their reach.
  content.set([0x80, 0xfe, 0xff, 0xff, TYPE_LINUX, 0xfe, 0xff, 0xff], TABLE_AT);
  content.writeUInt32LE(PARTITION_START, TABLE_AT + 8);
  content.writeUInt32LE(length, TABLE_AT + 12);
  content.writeUInt16LE(0xaa55, SIGNATURE_AT);
  const path = join(folder, "disk.img");
  writeFileSync(path, content);
  return { path, content, start: PARTITION_START, length };
}
