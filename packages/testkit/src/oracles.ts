import { readFileSync } from "node:fs";

/**
 * The numbers of the specification, taken from its own text by a program (see `oracles/`), as the tests' second
 * opinion: nothing in `packages/virtio` reads them.
 */

/** A block of normative statements of the specification. */
export interface ClauseRecord {
  /** `role.area.name`, such as `dev.blk.operation`. */
  readonly id: string;
  readonly role: "device" | "driver";
  /** `split`, `pci`, `blk` … */
  readonly area: string;
  /** Section path in the specification. */
  readonly label: string;
  /** Feature bits that the block names. */
  readonly features: readonly string[];
}

/** A feature bit. */
export interface FeatureRecord {
  readonly name: string;
  readonly bit: number;
  readonly area: string;
  /** First version of the specification that has it. */
  readonly since: string;
}

/** A field of a structure in the specification's listings. */
export interface FieldRecord {
  readonly name: string;
  /** Offset in bytes; absent behind a part of variable length. */
  readonly off?: number | null;
  readonly type: string;
  readonly count?: number | null;
}

/** A structure; `size` is in bytes, without what is variable. */
export interface StructRecord {
  readonly size: number;
  readonly variable?: boolean;
  readonly fields: readonly FieldRecord[];
}

export interface RegisterRecords {
  readonly mmio: Readonly<Record<string, { offset: number; access: "R" | "W" | "RW" }>>;
  readonly mmioLegacy: RegisterRecords["mmio"];
  /** Title of the device type, by virtio device id. */
  readonly deviceIds: Readonly<Record<string, string>>;
  /** Title of the device type, by PCI device id. */
  readonly transitionalPciDeviceIds: Readonly<Record<string, string>>;
}

/** All normative clauses of the specification. */
export function loadClauses(): readonly ClauseRecord[] {
  return (load("clauses") as { clauses: ClauseRecord[] }).clauses;
}

/** All feature bits. */
export function loadFeatures(): readonly FeatureRecord[] {
  return load("features") as FeatureRecord[];
}

/** All constants of the listings, by name. */
export function loadConstants(): Readonly<Record<string, number>> {
  return load("consts") as Record<string, number>;
}

/** All structures of the listings, by name. */
export function loadStructs(): Readonly<Record<string, StructRecord>> {
  return load("structs") as Record<string, StructRecord>;
}

/** The register tables of MMIO and the tables of device ids. */
export function loadRegisters(): RegisterRecords {
  return load("registers") as RegisterRecords;
}

function load(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`../oracles/${name}.json`, import.meta.url), "utf8"));
}
