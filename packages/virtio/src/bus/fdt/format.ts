/** Numbers of the Devicetree Specification, "Flattened Devicetree (DTB) Format", version 17. */

export const FDT_MAGIC = 0xd00dfeed;
export const FDT_VERSION = 17;
/** What this version can be read as. */
export const FDT_COMPATIBLE_VERSION = 16;
export const FDT_HEADER_SIZE = 40;

/** Offsets in the header; every field is a big-endian u32. */
export const FDT_HEADER = {
  magic: 0,
  totalsize: 4,
  off_dt_struct: 8,
  off_dt_strings: 12,
  off_mem_rsvmap: 16,
  version: 20,
  last_comp_version: 24,
  boot_cpuid_phys: 28,
  size_dt_strings: 32,
  size_dt_struct: 36,
} as const;

export const FDT_BEGIN_NODE = 1;
export const FDT_END_NODE = 2;
export const FDT_PROP = 3;
export const FDT_NOP = 4;
export const FDT_END = 9;

/** Bytes of an entry of the memory reservation block. */
export const FDT_RESERVATION_SIZE = 16;

/** Nodes in nodes; real trees have less than ten. */
export const FDT_MAX_DEPTH = 64;
/** Characters in a name. The specification says 31; trees in use have longer ones. */
export const FDT_MAX_NAME = 255;
/** Bytes of a blob. The tables of the largest machines are a few hundred KiB; QEMU pads to 1 MiB. */
export const FDT_MAX_SIZE: number = 16 << 20;

/** A device tree breaks a rule, or says something that cannot be used. */
export class FdtError extends Error {
  override readonly name = "FdtError";
}

/** "Node Names": printable ASCII without a slash, `name@unit-address`; the root's is empty. */
export function isNodeName(name: string, root: boolean): boolean {
  return root ? name === "" : /^[!-.0-~]+$/.test(name) && name.length <= FDT_MAX_NAME;
}

export function isPropertyName(name: string): boolean {
  return /^[!-.0-~]+$/.test(name) && name.length <= FDT_MAX_NAME;
}
