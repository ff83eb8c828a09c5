/**
 * What hardware plugs into. Knows no VIRTIO: a machine (v86, a qtest QEMU, the in-process machine of the tests)
 * implements these, a transport is written against them.
 */

export type AccessSize = 1 | 2 | 4;

/** A window of registers. Values are unsigned; a wider access arrives as several. */
export interface IoHandler {
  read(offset: number, size: AccessSize): number;
  write(offset: number, size: AccessSize, value: number): void;
}

/** Memory-mapped I/O or port I/O. */
export interface IoSpace {
  /** Puts a window at `base`; the function returned takes it away again. Throws when it overlaps another. */
  map(base: number, length: number, handler: IoHandler): () => void;
}

/** A level-triggered interrupt input. */
export interface InterruptLine {
  set(asserted: boolean): void;
}

/** Where message-signalled interrupts go. */
export interface MsiTarget {
  /** `address` is the 64-bit message address as a number. */
  send(address: number, data: number): void;
}

/** A base address register as its function declares it. */
export interface PciBar {
  /** 0 to 5; a 64-bit one takes the next index too. */
  readonly index: number;
  readonly kind: "io" | "memory32" | "memory64";
  /** Bytes: a power of two, at least 4 for I/O and 16 for memory. */
  readonly size: number;
  readonly prefetchable?: boolean;
  readonly handler: IoHandler;
}

/** What a PCI host gives to the function in one of its slots. */
export interface PciSlot {
  /** A BAR is decoded at `base` from now on; undefined: no longer decoded. */
  mapBar(bar: PciBar, base: number | undefined): void;
  /** The level of the function's INTx pin. */
  setInterrupt(asserted: boolean): void;
  sendMsi(address: number, data: number): void;
}

/** A PCI function as its host sees it. */
export interface PciFunction {
  readonly bars: readonly PciBar[];
  /** Bytes 0 to 255 (or 4095), any alignment inside a dword; reads of what is not there are 0. */
  readConfig(offset: number, size: AccessSize): number;
  writeConfig(offset: number, size: AccessSize, value: number): void;
  /** Plugged into a slot; called once, before any access. */
  attach(slot: PciSlot): void;
  /** Bus reset: everything as at power-on. */
  reset(): void;
}
