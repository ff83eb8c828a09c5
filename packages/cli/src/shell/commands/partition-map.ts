import { hex8 } from "../numbers.ts";
import type { PartitionTable } from "../disk/partitions.ts";

/** A partition table as U-Boot prints it. */
export function partitionMap(kind: string, device: number, table: PartitionTable): string {
  const header = `\nPartition Map for ${kind} device ${device}  --   Partition Type: ${table.kind}\n\n`;
  return header + (table.kind === "DOS" ? dosMap(table) : efiMap(table));
}

function dosMap({ signature, partitions }: Extract<PartitionTable, { kind: "DOS" }>): string {
  const rows = partitions.map(({ number, start, sectors, type, extended, bootable }) => {
    const hex2 = (value: number): string => value.toString(16).padStart(2, "0");
    const left = `${String(number).padStart(3)}\t${String(start).padEnd(10)}\t${String(sectors).padEnd(10)}`;
    const flags = `${extended ? " Extd" : ""}${bootable ? " Boot" : ""}`;
    return `${left}\t${hex8(signature)}-${hex2(number)}\t${hex2(type)}${flags}\n`;
  });
  return `Part\tStart Sector\tNum Sectors\tUUID\t\tType\n${rows.join("")}`;
}

function efiMap({ partitions }: Extract<PartitionTable, { kind: "EFI" }>): string {
  const rows = partitions.map(({ number, start, sectors, name, typeGuid, guid, attributes }) => {
    const range = `0x${hex8(start)}\t0x${hex8(start + sectors - 1)}`;
    return (
      `${String(number).padStart(3)}\t${range}\t"${name}"\n` +
      `\tattrs:\t0x${attributes.toString(16).padStart(16, "0")}\n\ttype:\t${typeGuid}\n\tguid:\t${guid}\n`
    );
  });
  return `Part\tStart LBA\tEnd LBA\t\tName\n\tAttributes\n\tType GUID\n\tPartition GUID\n${rows.join("")}`;
}
