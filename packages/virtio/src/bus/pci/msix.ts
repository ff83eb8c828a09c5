import { wholeOption } from "../../check-option.ts";
import type { AccessSize, IoHandler } from "../types.ts";
import {
  PCI_MSIX_ENTRY_ADDRESS,
  PCI_MSIX_ENTRY_ADDRESS_HIGH,
  PCI_MSIX_ENTRY_CONTROL,
  PCI_MSIX_ENTRY_DATA,
  PCI_MSIX_ENTRY_MASKED,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_MAX_VECTORS,
} from "./registers.ts";

/** What save and restore carry. */
export interface MsixState {
  readonly table: Uint8Array;
  readonly pending: Uint8Array;
}

/** The PBA never starts below this, so that a small table leaves room to be seen in a dump. */
const SMALLEST_HALF = 2048;

/**
 * The MSI-X table and Pending Bit Array of one function, as the handler of a memory BAR of their own: the table in
 * the lower half, the pending bits in the upper one (PCI Local Bus Specification 3.0, "MSI-X Table Structure").
 */
export class MsixTable implements IoHandler {
  /** Vectors. */
  readonly size: number;
  /** Offset of the Pending Bit Array. */
  readonly pbaOffset: number;
  /** Bytes of the BAR: a power of two. */
  readonly barSize: number;
  readonly #table: DataView;
  readonly #pending: Uint8Array;
  #send: (address: number, data: number) => void = () => {};
  #enabled = false;
  /** Messages wait in the PBA: the function mask is set, or the function is no bus master. */
  #held = true;

  /** `vectors`: 1 to 2048. */
  constructor(vectors: number) {
    this.size = wholeOption("MSI-X table: vectors", vectors, 1, PCI_MSIX_MAX_VECTORS);
    let half = SMALLEST_HALF;
    while (half < vectors * PCI_MSIX_ENTRY_SIZE) half *= 2;
    this.pbaOffset = half;
    this.barSize = half * 2;
    this.#table = new DataView(new ArrayBuffer(vectors * PCI_MSIX_ENTRY_SIZE));
    // Whole quadwords, as the PBA is defined.
    this.#pending = new Uint8Array(Math.ceil(vectors / 64) * 8);
    this.reset();
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  connect(send: (address: number, data: number) => void): void {
    this.#send = send;
  }

  /** Message Control and Bus Master Enable, whenever one of them was written. */
  control(enabled: boolean, masked: boolean, busMaster: boolean): void {
    this.#enabled = enabled;
    this.#held = masked || !busMaster;
    if (enabled && !this.#held) this.#sendPending();
  }

  /** Sends the message of a vector, or sets its pending bit while it is masked. Lost while MSI-X is disabled. */
  trigger(vector: number): void {
    if (!this.#enabled || vector >= this.size) return;
    if (this.#held || this.#masked(vector)) {
      this.#pending[vector >>> 3] = (this.#pending[vector >>> 3] ?? 0) | (1 << (vector & 7));
      return;
    }
    this.#deliver(vector);
  }

  read(offset: number, size: AccessSize): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.#byte(offset + i);
    return value;
  }

  /** Only aligned dwords, the only width that the PCI specification defines beside the quadword. */
  write(offset: number, size: AccessSize, value: number): void {
    if (size !== 4 || (offset & 3) !== 0 || offset + 4 > this.#table.byteLength) return;
    const field = offset % PCI_MSIX_ENTRY_SIZE;
    this.#table.setUint32(
      offset,
      field === PCI_MSIX_ENTRY_CONTROL ? value & PCI_MSIX_ENTRY_MASKED : value,
      true,
    );
    if (field === PCI_MSIX_ENTRY_CONTROL && this.#enabled && !this.#held) {
      this.#sendIfPending(Math.floor(offset / PCI_MSIX_ENTRY_SIZE));
    }
  }

  reset(): void {
    for (let offset = 0; offset < this.#table.byteLength; offset += 4) {
      const isControl = offset % PCI_MSIX_ENTRY_SIZE === PCI_MSIX_ENTRY_CONTROL;
      this.#table.setUint32(offset, isControl ? PCI_MSIX_ENTRY_MASKED : 0, true);
    }
    this.#pending.fill(0);
    this.#enabled = false;
    this.#held = true;
  }

  save(): MsixState {
    return { table: new Uint8Array(this.#table.buffer).slice(), pending: this.#pending.slice() };
  }

  /** A state that `accepts` took. */
  restore(state: MsixState): void {
    for (let offset = 0; offset < this.#table.byteLength; offset++) {
      const isControl = offset % PCI_MSIX_ENTRY_SIZE >= PCI_MSIX_ENTRY_CONTROL;
      const keep = !isControl ? 0xff : offset % PCI_MSIX_ENTRY_SIZE === PCI_MSIX_ENTRY_CONTROL ? 1 : 0;
      this.#table.setUint8(offset, (state.table[offset] ?? 0) & keep);
    }
    for (let vector = 0; vector < this.#pending.length * 8; vector++) {
      const bit = 1 << (vector & 7);
      const set = vector < this.size && ((state.pending[vector >>> 3] ?? 0) & bit) !== 0;
      const others = (this.#pending[vector >>> 3] ?? 0) & ~bit;
      this.#pending[vector >>> 3] = set ? others | bit : others;
    }
  }

  /** Whether an untrusted value is a state that `restore` of this table can take. */
  accepts(state: unknown): state is MsixState {
    if (typeof state !== "object" || state === null || !("table" in state) || !("pending" in state))
      return false;
    const { table, pending } = state;
    return (
      table instanceof Uint8Array &&
      table.length === this.#table.byteLength &&
      pending instanceof Uint8Array &&
      pending.length === this.#pending.length
    );
  }

  #byte(offset: number): number {
    if (offset < this.#table.byteLength) return this.#table.getUint8(offset);
    return this.#pending[offset - this.pbaOffset] ?? 0;
  }

  #masked(vector: number): boolean {
    const control = this.#table.getUint32(vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_CONTROL, true);
    return (control & PCI_MSIX_ENTRY_MASKED) !== 0;
  }

  #deliver(vector: number): void {
    const entry = vector * PCI_MSIX_ENTRY_SIZE;
    const low = this.#table.getUint32(entry + PCI_MSIX_ENTRY_ADDRESS, true);
    const high = this.#table.getUint32(entry + PCI_MSIX_ENTRY_ADDRESS_HIGH, true);
    // No machine has message addresses above 2^53: such a message would go nowhere.
    if (high >= 2 ** 21) return;
    this.#send(low + high * 2 ** 32, this.#table.getUint32(entry + PCI_MSIX_ENTRY_DATA, true));
  }

  #sendIfPending(vector: number): void {
    const bit = 1 << (vector & 7);
    const pending = this.#pending[vector >>> 3] ?? 0;
    if ((pending & bit) === 0 || this.#masked(vector)) return;
    this.#pending[vector >>> 3] = pending & ~bit;
    this.#deliver(vector);
  }

  #sendPending(): void {
    for (let byte = 0; byte < this.#pending.length; byte++) {
      if (this.#pending[byte] === 0) continue;
      for (let bit = 0; bit < 8; bit++) this.#sendIfPending(byte * 8 + bit);
    }
  }
}
