/** ACPI's static tables: the ACPI specification's "ACPI Software Programming Model", system description tables. */
import { type Bytes, ascii, concat, le } from "./bytes.ts";

/** A table before it has a place: its signature, its revision and what follows the header. */
export interface Table {
  readonly signature: string;
  readonly revision: number;
  readonly body: Bytes;
}

/** The fixed hardware that the FADT describes. Ports; lengths are the ones of the specification. */
export interface FixedHardware {
  /** The IRQ of system control interrupts. */
  readonly sciInterrupt: number;
  readonly pm1EventBlock: number;
  readonly pm1ControlBlock: number;
  readonly pmTimerBlock: number;
}

/** An interrupt of the ISA bus that the IO-APIC sees as level-triggered and active-high. */
export interface InterruptSource {
  readonly irq: number;
  readonly gsi: number;
}

export interface InterruptHardware {
  readonly localApicAddress: number;
  readonly ioApicAddress: number;
  readonly ioApicId: number;
  /** Local APIC ids of the processors. */
  readonly processors: readonly number[];
  readonly levelTriggered: readonly InterruptSource[];
}

export interface AcpiTables {
  /** Address of the root pointer. */
  readonly root: number;
  /** To be written at the address that `layTables` got. */
  readonly bytes: Uint8Array;
}

const HEADER_SIZE = 36;
const RSDP_SIZE = 36;
const FACS_SIZE = 64;
const FADT_SIZE = 244;
const FADT_DSDT_POINTERS = { facs: 36, dsdt: 40, xFacs: 132, xDsdt: 140 };
const OEM_ID = "VIRTIO";

/** Multiple APIC Description Table. */
export function madt(hardware: InterruptHardware): Table {
  const PCAT_COMPAT = 1;
  const LEVEL_ACTIVE_HIGH = 0xd;
  return {
    signature: "APIC",
    revision: 3,
    body: concat(
      le(hardware.localApicAddress, 4),
      le(PCAT_COMPAT, 4),
      ...hardware.processors.map((id, index) => concat([0, 8, index, id], le(1, 4))),
      concat([1, 12, hardware.ioApicId, 0], le(hardware.ioApicAddress, 4), le(0, 4)),
      ...hardware.levelTriggered.map(({ irq, gsi }) =>
        concat([2, 10, 0, irq], le(gsi, 4), le(LEVEL_ACTIVE_HIGH, 2)),
      ),
    ),
  };
}

/** Differentiated System Description Table: AML terms. */
export function dsdt(...terms: readonly Uint8Array[]): Table {
  return { signature: "DSDT", revision: 2, body: concat(...terms) };
}

/**
 * Lays everything out from `base` (a multiple of 64) on: root pointer, RSDT and XSDT, FADT with FACS and DSDT, and the
 * other tables.
 */
export function layTables(
  base: number,
  hardware: FixedHardware,
  description: Table,
  others: readonly Table[],
): AcpiTables {
  const parts: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  let end = 0;
  const place = (bytes: Uint8Array): number => {
    const offset = (end + 63) & ~63;
    parts.push({ offset, bytes });
    end = offset + bytes.length;
    return base + offset;
  };
  const rootPointer = new Uint8Array(RSDP_SIZE);
  const root = place(rootPointer);
  const facsAddress = place(facs());
  const fadtAddress = place(seal(fadt(hardware, facsAddress, place(seal(description)))));
  const addresses = [fadtAddress, ...others.map((table) => place(seal(table)))];
  const pointers = (size: 4 | 8): Uint8Array => concat(...addresses.map((address) => le(address, size)));
  const rsdt = place(seal({ signature: "RSDT", revision: 1, body: pointers(4) }));
  const xsdt = place(seal({ signature: "XSDT", revision: 1, body: pointers(8) }));
  rootPointer.set(rsdp(rsdt, xsdt));
  const bytes = new Uint8Array(end);
  for (const part of parts) bytes.set(part.bytes, part.offset);
  return { root, bytes };
}

function rsdp(rsdt: number, xsdt: number): Uint8Array {
  const bytes = concat(
    ascii("RSD PTR "),
    [0],
    ascii(OEM_ID, 6),
    [2],
    le(rsdt, 4),
    le(RSDP_SIZE, 4),
    le(xsdt, 8),
    [0, 0, 0, 0],
  );
  bytes[8] = checksum(bytes.subarray(0, 20));
  bytes[32] = checksum(bytes);
  return bytes;
}

function facs(): Uint8Array {
  const bytes = new Uint8Array(FACS_SIZE);
  bytes.set(concat(ascii("FACS"), le(FACS_SIZE, 4)));
  bytes[32] = 1;
  return bytes;
}

function fadt(hardware: FixedHardware, facsAddress: number, dsdtAddress: number): Table {
  const bytes = new Uint8Array(FADT_SIZE);
  const put = (offset: number, value: number, size: 1 | 2 | 4 | 8): void =>
    bytes.set(le(value, size), offset);
  const WBINVD = 1 << 0;
  const PROC_C1 = 1 << 2;
  const NO_POWER_BUTTON = 1 << 4;
  const NO_SLEEP_BUTTON = 1 << 5;
  const LEGACY_DEVICES_AND_8042 = 3;
  /** No C2 and C3: latencies above the specification's limits. */
  const NO_C2 = 101;
  const NO_C3 = 1001;
  put(FADT_DSDT_POINTERS.facs, facsAddress, 4);
  put(FADT_DSDT_POINTERS.dsdt, dsdtAddress, 4);
  put(FADT_DSDT_POINTERS.xFacs, facsAddress, 8);
  put(FADT_DSDT_POINTERS.xDsdt, dsdtAddress, 8);
  put(46, hardware.sciInterrupt, 2);
  put(96, NO_C2, 2);
  put(98, NO_C3, 2);
  put(109, LEGACY_DEVICES_AND_8042, 2);
  put(112, WBINVD | PROC_C1 | NO_POWER_BUTTON | NO_SLEEP_BUTTON, 4);
  const block = (
    pointer: number,
    lengthField: number,
    extended: number,
    port: number,
    length: number,
  ): void => {
    const SYSTEM_IO = 1;
    put(pointer, port, 4);
    put(lengthField, length, 1);
    bytes.set([SYSTEM_IO, length * 8, 0, length === 4 && pointer === 76 ? 3 : 2], extended);
    put(extended + 4, port, 8);
  };
  block(56, 88, 148, hardware.pm1EventBlock, 4);
  block(64, 89, 172, hardware.pm1ControlBlock, 2);
  block(76, 91, 208, hardware.pmTimerBlock, 4);
  return { signature: "FACP", revision: 3, body: bytes.subarray(HEADER_SIZE) };
}

/** Puts the header before the body, with length and checksum. */
function seal({ signature, revision, body }: Table): Uint8Array {
  const bytes = concat(
    ascii(signature),
    le(HEADER_SIZE + body.length, 4),
    [revision, 0],
    ascii(OEM_ID, 6),
    ascii("MACHINE", 8),
    le(1, 4),
    ascii("VRTS"),
    le(1, 4),
    body,
  );
  bytes[9] = checksum(bytes);
  return bytes;
}

/** What makes the sum of all bytes 0. */
function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}
