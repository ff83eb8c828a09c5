import { wholeOptions } from "../../check-option.ts";
import type { AccessSize, PciBar, PciFunction, PciSlot } from "../types.ts";
import { PciConfigSpace } from "./config-space.ts";
import { barAddress, checkBar, declareBar, slotsOf } from "./bar.ts";
import type { MsixState, MsixTable } from "./msix.ts";
import * as pci from "./registers.ts";

export interface PciIdentity {
  /** 16 bits. */
  readonly vendorId: number;
  /** 16 bits. */
  readonly deviceId: number;
  /** 8 bits. */
  readonly revision: number;
  /** 24 bits: base class, subclass, programming interface. */
  readonly classCode: number;
  /** 16 bits. */
  readonly subsystemVendorId: number;
  /** 16 bits. */
  readonly subsystemId: number;
  /** 1 to 4 for INTA# to INTD#; 0: the function uses no INTx interrupt. */
  readonly interruptPin: 0 | 1 | 2 | 3 | 4;
}

const IDENTITY_RANGES = {
  vendorId: [0, 0xffff],
  deviceId: [0, 0xffff],
  revision: [0, 0xff],
  classCode: [0, 0xff_ffff],
  subsystemVendorId: [0, 0xffff],
  subsystemId: [0, 0xffff],
  interruptPin: [0, 4],
} as const;

/** Bytes of configuration space with something behind them. */
export interface ConfigWindow {
  readonly offset: number;
  readonly length: number;
  /** Software is about to read some of the bytes. */
  beforeRead(): void;
  /** Software wrote some of the bytes. */
  afterWrite(): void;
}

/** What save and restore carry. */
export interface PciFunctionState {
  /** The whole configuration space. */
  readonly config: Uint8Array;
  readonly msix: MsixState | undefined;
}

const COMMAND_WRITABLE =
  pci.PCI_COMMAND_IO |
  pci.PCI_COMMAND_MEMORY |
  pci.PCI_COMMAND_MASTER |
  pci.PCI_COMMAND_PARITY |
  pci.PCI_COMMAND_SERR |
  pci.PCI_COMMAND_INTX_DISABLE;

/**
 * A conventional PCI function with a type 0 header: base address registers with sizing, command and status,
 * capabilities, MSI-X and INTx. What is behind the BARs is the business of their handlers.
 */
export class StandardPciFunction implements PciFunction {
  readonly config: PciConfigSpace = new PciConfigSpace();
  readonly #bars: PciBar[] = [];
  readonly #mapped: (number | undefined)[] = [];
  readonly #windows: ConfigWindow[] = [];
  #slot: PciSlot | undefined;
  #msix: MsixTable | undefined;
  #msixCapability = 0;
  /** Where the next capability goes, and the byte that will point to it. */
  #nextCapability = pci.PCI_HEADER_SIZE;
  #link = pci.PCI_CAPABILITIES;
  #interruptPending = false;
  #pinLevel = false;

  /** Throws a RangeError that names the field of the identity that cannot be. */
  constructor(identity: PciIdentity) {
    wholeOptions("PCI function", identity, IDENTITY_RANGES);
    const { config } = this;
    config.set(pci.PCI_VENDOR_ID, 2, identity.vendorId);
    config.set(pci.PCI_DEVICE_ID, 2, identity.deviceId);
    config.set(pci.PCI_REVISION_ID, 4, (identity.revision | (identity.classCode << 8)) >>> 0);
    config.set(pci.PCI_SUBSYSTEM_VENDOR_ID, 2, identity.subsystemVendorId);
    config.set(pci.PCI_SUBSYSTEM_ID, 2, identity.subsystemId);
    config.set(pci.PCI_INTERRUPT_PIN, 1, identity.interruptPin);
    config.setWritable(pci.PCI_COMMAND, 2, COMMAND_WRITABLE);
    config.setWritable(pci.PCI_INTERRUPT_LINE, 1, 0xff);
  }

  get bars(): readonly PciBar[] {
    return this.#bars;
  }

  /** Before `attach`. Throws a RangeError on a BAR that cannot be. */
  addBar(bar: PciBar): void {
    checkBar(bar);
    const taken = new Set(this.#bars.flatMap(slotsOf));
    if (slotsOf(bar).some((index) => taken.has(index)))
      throw new RangeError(`two BARs at index ${bar.index}`);
    declareBar(this.config, bar);
    this.#bars.push(bar);
    this.#mapped.push(undefined);
  }

  get msix(): MsixTable | undefined {
    return this.#msix;
  }

  get msixEnabled(): boolean {
    return this.#msix !== undefined && this.#msix.enabled;
  }

  /**
   * Appends a capability to the list. `body` is what follows the two bytes of id and next pointer; `writable` masks its
   * bits. Returns its offset. Throws when the configuration space is full.
   */
  addCapability(id: number, body: Uint8Array, writable?: Uint8Array): number {
    const offset = this.#nextCapability;
    const end = offset + 2 + body.length;
    if (end > pci.PCI_CONFIG_SIZE) throw new RangeError("no room for another capability");
    this.config.set(this.#link, 1, offset);
    this.config.set(offset, 1, id);
    this.config.bytes.set(body, offset + 2);
    if (writable !== undefined) this.config.writable.set(writable, offset + 2);
    this.config.set(pci.PCI_STATUS, 2, pci.PCI_STATUS_CAPABILITIES);
    this.#link = offset + 1;
    this.#nextCapability = (end + 3) & ~3;
    return offset;
  }

  /** Adds the MSI-X capability; the table is the handler of the BAR with this index. */
  addMsix(table: MsixTable, bar: number): void {
    const body = new DataView(new ArrayBuffer(pci.PCI_MSIX_CAP_SIZE - 2));
    body.setUint16(pci.PCI_MSIX_CONTROL - 2, table.size - 1, true);
    body.setUint32(pci.PCI_MSIX_TABLE - 2, bar, true);
    body.setUint32(pci.PCI_MSIX_PBA - 2, table.pbaOffset | bar, true);
    const writable = new Uint8Array(body.byteLength);
    writable[1] = (pci.PCI_MSIX_CONTROL_ENABLE | pci.PCI_MSIX_CONTROL_MASK_ALL) >>> 8;
    this.#msixCapability = this.addCapability(pci.PCI_CAP_ID_MSIX, new Uint8Array(body.buffer), writable);
    this.#msix = table;
    table.connect((address, data) => this.#slot?.sendMsi(address, data));
  }

  addWindow(window: ConfigWindow): void {
    this.#windows.push(window);
  }

  attach(slot: PciSlot): void {
    this.#slot = slot;
  }

  /** Asks for an INTx interrupt, or no longer: the Interrupt Status bit. Ignored while MSI-X is enabled. */
  setInterrupt(pending: boolean): void {
    if (this.#interruptPending === pending) return;
    this.#interruptPending = pending;
    this.#updateInterrupt();
  }

  readConfig(offset: number, size: AccessSize): number {
    for (const window of this.#windows) if (touches(window, offset, size)) window.beforeRead();
    return this.config.read(offset, size);
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    this.config.write(offset, size, value);
    if (offset < pci.PCI_HEADER_SIZE || this.#touchesMsix(offset, size)) this.#apply();
    for (const window of this.#windows) if (touches(window, offset, size)) window.afterWrite();
  }

  /** Executes an access to the BAR with this index, decoded or not. Undefined: it has no such bytes. */
  readBar(index: number, offset: number, size: AccessSize): number | undefined {
    return this.#barHolding(index, offset, size)?.handler.read(offset, size);
  }

  writeBar(index: number, offset: number, size: AccessSize, value: number): void {
    this.#barHolding(index, offset, size)?.handler.write(offset, size, value);
  }

  reset(): void {
    const { bytes, writable } = this.config;
    for (let i = 0; i < bytes.length; i++) bytes[i] = (bytes[i] ?? 0) & ~(writable[i] ?? 0);
    this.#msix?.reset();
    this.#interruptPending = false;
    this.#apply();
  }

  save(): PciFunctionState {
    return { config: this.config.bytes.slice(), msix: this.#msix?.save() };
  }

  /** Whether an untrusted value is the state of a function like this one. */
  accepts(state: unknown): state is PciFunctionState {
    if (typeof state !== "object" || state === null || !("config" in state) || !("msix" in state))
      return false;
    const { config, msix } = state;
    if (this.#msix === undefined ? msix !== undefined : !this.#msix.accepts(msix)) return false;
    if (!(config instanceof Uint8Array) || config.length !== pci.PCI_CONFIG_SIZE) return false;
    const interruptStatus = (i: number): number => (i === pci.PCI_STATUS ? pci.PCI_STATUS_INTERRUPT : 0);
    return this.config.bytes.every((byte, i) => {
      const free = (this.config.writable[i] ?? 0) | interruptStatus(i);
      return ((byte ^ (config[i] ?? 0)) & ~free) === 0;
    });
  }

  /** A state that `accepts` took. BARs are decoded and interrupts asserted again as it says. */
  restore(state: PciFunctionState, interruptPending: boolean): void {
    this.config.bytes.set(state.config);
    if (state.msix !== undefined) this.#msix?.restore(state.msix);
    this.#interruptPending = interruptPending;
    this.#apply();
  }

  #barHolding(index: number, offset: number, size: number): PciBar | undefined {
    const bar = this.#bars.find((candidate) => candidate.index === index);
    return bar !== undefined && offset + size <= bar.size ? bar : undefined;
  }

  #touchesMsix(offset: number, size: number): boolean {
    if (this.#msix === undefined) return false;
    const control = this.#msixCapability + pci.PCI_MSIX_CONTROL;
    return offset < control + 2 && offset + size > control;
  }

  /** Brings what the machine sees in line with the configuration space. */
  #apply(): void {
    const command = this.config.read(pci.PCI_COMMAND, 2);
    this.#updateBars(command);
    if (this.#msix !== undefined) {
      const control = this.config.read(this.#msixCapability + pci.PCI_MSIX_CONTROL, 2);
      this.#msix.control(
        (control & pci.PCI_MSIX_CONTROL_ENABLE) !== 0,
        (control & pci.PCI_MSIX_CONTROL_MASK_ALL) !== 0,
        (command & pci.PCI_COMMAND_MASTER) !== 0,
      );
    }
    this.#updateInterrupt();
  }

  #updateBars(command: number): void {
    let moved = false;
    const wanted = this.#bars.map((bar, i) => {
      const enable = bar.kind === "io" ? pci.PCI_COMMAND_IO : pci.PCI_COMMAND_MEMORY;
      const base = (command & enable) !== 0 ? barAddress(this.config, bar) : undefined;
      if (base !== this.#mapped[i]) moved = true;
      return base;
    });
    if (!moved) return;
    // First take away, then put: two BARs may change places.
    this.#bars.forEach((bar, i) => {
      if (this.#mapped[i] !== undefined && wanted[i] !== this.#mapped[i]) this.#slot?.mapBar(bar, undefined);
    });
    this.#bars.forEach((bar, i) => {
      const base = wanted[i];
      if (base !== undefined && base !== this.#mapped[i]) this.#slot?.mapBar(bar, base);
      this.#mapped[i] = base;
    });
  }

  #updateInterrupt(): void {
    const pending = this.#interruptPending && !this.msixEnabled;
    const status = this.config.read(pci.PCI_STATUS, 2) & ~pci.PCI_STATUS_INTERRUPT;
    this.config.set(pci.PCI_STATUS, 2, pending ? status | pci.PCI_STATUS_INTERRUPT : status);
    const disabled = (this.config.read(pci.PCI_COMMAND, 2) & pci.PCI_COMMAND_INTX_DISABLE) !== 0;
    const level = pending && !disabled;
    if (level === this.#pinLevel) return;
    this.#pinLevel = level;
    this.#slot?.setInterrupt(level);
  }
}

function touches(window: ConfigWindow, offset: number, size: number): boolean {
  return offset < window.offset + window.length && offset + size > window.offset;
}
