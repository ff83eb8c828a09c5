import type { AccessSize } from "../bus/types.ts";
import type { DmaMemory } from "./types.ts";

/** Memory-mapped registers, or ports. */
export type BusSpace = "memory" | "io";

/**
 * Where a driver's register accesses go: a bus in this process, a qtest socket, real ports. Values are unsigned. Accesses
 * arrive in order. A write may be on its way when it returns; a read returns after everything before it has arrived.
 */
export interface BusAccess {
  read(space: BusSpace, address: number, size: AccessSize): number;
  write(space: BusSpace, address: number, size: AccessSize, value: number): void;
}

/** A place on PCI: `00:05.0` is bus 0, device 5, function 0. */
export interface PciAddress {
  readonly bus: number;
  readonly device: number;
  readonly function: number;
}

export interface PciConfigAccess {
  /** All ones when there is no such function. */
  readConfig(at: PciAddress, offset: number, size: AccessSize): number;
  writeConfig(at: PciAddress, offset: number, size: AccessSize, value: number): void;
}

/** An interrupt message that calls one handler. */
export interface InterruptMessage {
  readonly address: number;
  readonly data: number;
  release(): void;
}

export interface InterruptAccess {
  /**
   * Calls `handler` while the line is asserted; it says whether its device asked. Lines are shared. The function
   * returned takes the handler away.
   */
  connectLine(line: number, handler: () => boolean): () => void;
  /** Undefined: there are no (more) messages. Absent: the machine has none at all. */
  allocateMessage?(handler: () => void): InterruptMessage | undefined;
}

/** The machine as its drivers see it. */
export interface DriverPlatform {
  readonly bus: BusAccess;
  readonly memory: DmaMemory;
  readonly interrupts: InterruptAccess;
  /**
   * Calls `handler` when the whole machine is gone, with the reason; every access throws from then on. The function
   * returned takes the handler away. Absent: the machine stays.
   */
  onLost?(handler: (reason: Error) => void): () => void;
}

export interface PciPlatform extends DriverPlatform {
  readonly pci: PciConfigAccess;
}

/** A shared memory region of a device, and where the driver sees it ("Shared Memory Regions"). */
export interface SharedMemoryRegion {
  /** The device type's `shmid`. */
  readonly id: number;
  readonly address: number;
  /** Bytes. */
  readonly length: number;
}

/** As people and `lspci` write it: `00:05.0`. */
export function pciAddressText(at: PciAddress): string {
  return `${hex(at.bus)}:${hex(at.device)}.${at.function}`;
}

function hex(value: number): string {
  return value.toString(16).padStart(2, "0");
}
