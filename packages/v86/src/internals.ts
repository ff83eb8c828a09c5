// Whoever compiles this file from source needs the declaration too.
// oxlint-disable-next-line typescript/triple-slash-reference
/// <reference path="./libv86.d.ts" />
/**
 * The one file that touches v86's insides, but for its PCI (`v86-pci.ts`; npm 0.5.462, unpatched, types in `v86-shape.ts`). v86 promises none
 * of it: when the pinned version moves, this is what has to be checked again. All the rest works through `V86Core`.
 */
import { V86 } from "v86/build/libv86.mjs";
import type { AccessSize, IoHandler } from "virtio/bus/types";
import { host } from "./globals.ts";
import { clearLooseBars } from "./v86-pci.ts";
import type { Cpu, Emulator, MapWrite, PortEntry } from "./v86-shape.ts";

/** v86 dispatches memory-mapped I/O by blocks of this size. */
export const MMIO_GRANULE = 0x20000;
/** v86's linear frame buffer, up to the size that `vga_memory_size` can have, and its BIOS windows. */
const FRAME_BUFFER = { from: 0xe0000000, to: 0xf0000000 };
const HIGH_BIOS = 0xfeb00000;
/** A block that nothing of v86 uses: its handlers answer for what is not there. */
const UNMAPPED_BLOCK = HIGH_BIOS / MMIO_GRANULE - 1;
const ALL_ONES: Readonly<Record<AccessSize, number>> = { 1: 0xff, 2: 0xffff, 4: 0xffffffff };
/** Ports below belong to the board; v86 too moves I/O BARs only above. */
const FIRST_FREE_PORT = 0x1000;

// Byte offsets in the WebAssembly memory, from v86's `global_pointers.rs`.
const LAST_RESULT = 112;
const FLAGS = 120;
const ACPI_ENABLED = 552;
const INSTRUCTION_COUNTER = 664;
const MXCSR = 824;
const FPU_STATUS_WORD = 1040;
/** v86 leaves its inner loop after this many instructions. */
const LOOP_COUNTER = 100_003;
const FLAG_INTERRUPT = 0x200;
// Words of `struct Apic`, from v86's `apic.rs`.
const APIC_IRR = 16;
const APIC_TMR = 32;
/** Bytes of `struct Pic0`, from v86's `pic.rs`. */
const PIC_ELCR = 10;
/** PIRQA routing register of the PIIX3 bridge. */
const PIIX_PIRQ = 0x60;
const PCI_CONFIG_DATA = 0xcfc;
/** Where v86's PIIX4 has PM1a_CNT, and its SLP_EN bit. */
const ACPI_PM1_CONTROL = 0xb004;
const ACPI_SLEEP_ENABLE = 0x2000;

/** Configuration space of the functions that are not v86's own. */
export interface PciConfigSpace {
  has(bdf: number): boolean;
  read(bdf: number, offset: number, size: AccessSize): number;
  write(bdf: number, offset: number, size: AccessSize, value: number): void;
}

/** Why a guest stopped by itself. */
export type StopReason = "reset" | "power-off" | "halt";

export interface CoreOptions {
  readonly wasm: ArrayBuffer | Uint8Array;
  readonly memorySize: number;
  readonly v86Options?: Readonly<Record<string, unknown>>;
}

/** Start of a 32-bit kernel: flat segments, paging and interrupts off. */
export interface EntryState {
  readonly entry: number;
  /** ESI: the boot parameters. */
  readonly parameters: number;
  /** Where a table of 4 descriptors lies, of which 2 is flat code and 3 flat data. */
  readonly gdt: number;
  readonly stack: number;
}

/** v86 as a bare machine: memory, ports, memory-mapped I/O, PCI configuration, interrupts, and its running. */
export class V86Core {
  readonly memorySize: number;
  /** Where guest RAM starts in `buffer`. */
  readonly ramOffset: number;
  onStop: ((reason: StopReason) => void) | undefined;
  readonly #emulator: Emulator;
  readonly #cpu: Cpu;
  /** True while a memory-mapped access runs: v86 must not deliver an interrupt then, or the guest hangs. */
  #inAccess = false;
  /** True while a port is written: interrupts are safe, and the guest runs. */
  #inPort = false;
  readonly #idleTasks: (() => void)[] = [];
  #words: Int32Array;
  /** 16-bit writes of the blocks that are ours: v86 itself splits them into bytes. */
  readonly #writers16 = new Map<number, MapWrite>();

  private constructor(emulator: Emulator) {
    this.#emulator = emulator;
    this.#cpu = emulator.v86.cpu;
    this.memorySize = this.#cpu.mem8.length;
    this.ramOffset = this.#cpu.mem8.byteOffset;
    this.#words = new Int32Array(this.#cpu.wasm_memory.buffer);
    this.#keepWideWrites();
    this.#watchStop();
    this.#watchIdle();
  }

  static async open(options: CoreOptions): Promise<V86Core> {
    const emulator = new V86({
      net_device: { type: "none" },
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      // The smallest there is: it is part of every saved state.
      vga_memory_size: 0x40000,
      ...options.v86Options,
      autostart: false,
      // The ACPI hardware is always there; `setAcpi` decides whether the guest sees it.
      acpi: true,
      memory_size: options.memorySize,
      wasm_fn: async (imports: object) =>
        (await host.WebAssembly.instantiate(options.wasm, imports)).instance.exports,
    }) as Emulator;
    await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()));
    return new V86Core(emulator);
  }

  /** The WebAssembly memory as it is now; it grows, and the old buffer is then detached. */
  get buffer(): ArrayBuffer {
    return this.#cpu.wasm_memory.buffer;
  }

  /** v86's own object, for who uses devices of v86 itself. */
  get emulator(): object {
    return this.#emulator;
  }

  /** Translated code of this range is stale. */
  dirty(from: number, to: number): void {
    this.#cpu.jit_dirty_cache(from, to);
  }

  // Running

  get running(): boolean {
    return this.#emulator.v86.running;
  }

  run(): void {
    void this.#emulator.run();
  }

  async stop(): Promise<void> {
    const stopped = this.#emulator.stop();
    this.#cpu.stop_idling();
    await stopped;
  }

  async destroy(): Promise<void> {
    const destroyed = this.#emulator.destroy();
    this.#cpu.stop_idling();
    await destroyed;
  }

  onSerial(listener: (byte: number) => void): void {
    this.#emulator.add_listener("serial0-output-byte", listener);
  }

  sendSerial(bytes: Uint8Array): void {
    this.#emulator.serial_send_bytes(0, bytes);
  }

  /** Whether the guest sees a local APIC, an IO-APIC and ACPI's timer. Only before it runs. */
  setAcpi(on: boolean): void {
    new Uint8Array(this.buffer)[ACPI_ENABLED] = on ? 1 : 0;
  }

  enter({ entry, parameters, gdt, stack }: EntryState): void {
    const cpu = this.#cpu;
    cpu.gdtr_offset[0] = gdt;
    cpu.gdtr_size[0] = 4 * 8 - 1;
    cpu.cr[0] = 1;
    cpu.protected_mode[0] = 1;
    cpu.is_32[0] = 1;
    cpu.stack_size_32[0] = 1;
    cpu.flags[0] = 2;
    for (let segment = 0; segment < 6; segment++) {
      const code = segment === 1;
      cpu.segment_is_null[segment] = 0;
      cpu.segment_offsets[segment] = 0;
      cpu.segment_limits[segment] = 0xffffffff;
      cpu.sreg[segment] = code ? 0x10 : 0x18;
      cpu.segment_access_bytes[segment] = code ? 0x9b : 0x93;
    }
    // EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI
    [0, 0, 0, 0, stack, 0, parameters, 0].forEach((value, i) => (cpu.reg32[i] = value));
    cpu.instruction_pointer[0] = entry;
    cpu.update_state_flags();
  }

  /** Everything that v86 keeps itself but RAM: processor and its own devices. Only while stopped. */
  async saveState(): Promise<ArrayBuffer> {
    const noPages = { packed_memory: new Uint8Array(0), bitmap: { get_buffer: () => new ArrayBuffer(4) } };
    this.#cpu.pack_memory = () => noPages;
    return await this.#emulator.save_state();
  }

  /** RAM stays as it is: fill it first, for translated code of what was there before is forgotten here. */
  async restoreState(state: ArrayBuffer): Promise<void> {
    const cpu = this.#cpu;
    const { last_result, fpu_status_word, mxcsr } = cpu;
    cpu.unpack_memory = () => undefined;
    await this.#emulator.restore_state(state);
    // v86 replaces these three views by arrays out of its state instead of filling them: the processor would then
    // compute flags from a stale result, and the next state saved would carry stale values.
    const memory = new DataView(this.buffer);
    memory.setInt32(LAST_RESULT, cpu.last_result[0] ?? 0, true);
    memory.setUint16(FPU_STATUS_WORD, cpu.fpu_status_word[0] ?? 0, true);
    memory.setInt32(MXCSR, cpu.mxcsr[0] ?? 0, true);
    Object.assign(cpu, { last_result, fpu_status_word, mxcsr });
  }

  /** Whether RAM is all zero from here on; both are multiples of 8. */
  isZero(address: number, length: number): boolean {
    return this.#cpu.is_memory_zeroed(address, length);
  }

  /** Runs a task when the guest waits for something, or soon; at once when nothing of the guest is running just now. */
  whenIdle(task: () => void): void {
    if (this.#inAccess || this.#inPort) this.#idleTasks.push(task);
    else task();
  }

  /** v86 calls this after each piece of the guest's work, and before it lets the processor sleep. */
  #watchIdle(): void {
    const cpu = this.#cpu;
    const timers = cpu.run_hardware_timers;
    cpu.run_hardware_timers = (acpi, now) => {
      for (let task = this.#idleTasks.shift(); task !== undefined; task = this.#idleTasks.shift()) task();
      return timers.call(cpu, acpi, now);
    };
  }

  // Interrupts

  raiseIrq(irq: number): void {
    if (!this.#inAccess) {
      this.#cpu.device_raise_irq(irq);
      return;
    }
    const flags = this.#maskInterrupts();
    this.#cpu.device_raise_irq(irq);
    this.#words[FLAGS >> 2] = flags;
    this.#leaveLoopSoon();
  }

  /** Delivers nothing else that is pending, so that it is safe at any time. */
  lowerIrq(irq: number): void {
    const flags = this.#maskInterrupts();
    this.#cpu.device_lower_irq(irq);
    this.#words[FLAGS >> 2] = flags;
  }

  /** v86's local APIC has no input for messages: its request register is set instead. */
  raiseVector(vector: number): void {
    const words = this.#currentWords();
    const register = (this.#cpu.get_apic_addr() >>> 2) + (vector >>> 5);
    const bit = 1 << (vector & 31);
    words[register + APIC_IRR] = (words[register + APIC_IRR] ?? 0) | bit;
    words[register + APIC_TMR] = (words[register + APIC_TMR] ?? 0) & ~bit;
    if (this.#inAccess) this.#leaveLoopSoon();
    else this.#cpu.handle_irqs();
  }

  /** Routes the PCI interrupt pins to IRQs, for v86's own functions too, and makes those level-triggered. */
  routePciInterrupts(irqs: readonly number[], set: (source: string, irq: number, on: boolean) => void): void {
    const pci = this.#cpu.devices.pci;
    pci.isa_bridge_space8.set(irqs, PIIX_PIRQ);
    const routed = (bdf: number): number => {
      const pin = ((pci.device_spaces[bdf]?.[0x3c >> 2] ?? 0) >> 8) & 0xff;
      return irqs[(pin + (bdf >> 3) - 2) & 3] ?? 0;
    };
    pci.raise_irq = (bdf) => set(`v86 ${bdf}`, routed(bdf), true);
    pci.lower_irq = (bdf) => set(`v86 ${bdf}`, routed(bdf), false);
    for (let bdf = 0; bdf < 0x100; bdf += 8) {
      const space = pci.device_spaces[bdf];
      if (space !== undefined && (space[0x3c >> 2] ?? 0) >> 8 !== 0) {
        space[0x3c >> 2] = ((space[0x3c >> 2] ?? 0) & ~0xff) | routed(bdf);
      }
    }
    clearLooseBars(pci);
    const bytes = new Uint8Array(this.buffer);
    const master = this.#cpu.get_pic_addr_master() + PIC_ELCR;
    const slave = this.#cpu.get_pic_addr_slave() + PIC_ELCR;
    for (const irq of irqs) {
      const controller = irq < 8 ? master : slave;
      bytes[controller] = (bytes[controller] ?? 0) | (1 << (irq & 7));
    }
  }

  // Input and output

  /** Whether the range may become memory-mapped I/O: whole granules that nothing else uses. */
  freeMemory(base: number, length: number): boolean {
    const end = base + length;
    if (base % MMIO_GRANULE !== 0 || base < this.memorySize || end > HIGH_BIOS) return false;
    if (base < FRAME_BUFFER.to && end > FRAME_BUFFER.from) return false;
    const map = this.#cpu.memory_map_read8;
    for (let block = base / MMIO_GRANULE; block * MMIO_GRANULE < end; block++) {
      if (map[block] !== map[UNMAPPED_BLOCK]) return false;
    }
    return true;
  }

  /** Puts a window into memory, where `freeMemory` says that it may be. */
  mapMemory(base: number, length: number, handler: IoHandler): () => void {
    const cpu = this.#cpu;
    const first = base / MMIO_GRANULE;
    const last = Math.ceil((base + length) / MMIO_GRANULE);
    const outside: IoHandler = { read: (_, size) => ALL_ONES[size], write: () => undefined };
    const at = (offset: number, size: AccessSize): IoHandler => (offset + size <= length ? handler : outside);
    const read = (address: number, size: AccessSize): number => {
      const offset = (address >>> 0) - base;
      this.#inAccess = true;
      try {
        return at(offset, size).read(offset, size);
      } finally {
        this.#inAccess = false;
      }
    };
    const write = (address: number, size: AccessSize, value: number): void => {
      const offset = (address >>> 0) - base;
      this.#inAccess = true;
      try {
        at(offset, size).write(offset, size, value);
      } finally {
        this.#inAccess = false;
      }
    };
    const { memory_map_read8, memory_map_read32, memory_map_write8, memory_map_write32 } = cpu;
    for (let block = first; block < last; block++) {
      memory_map_read8[block] = (address) => read(address, 1);
      memory_map_read32[block] = (address) => read(address, 4);
      memory_map_write8[block] = (address, value) => write(address, 1, value & 0xff);
      memory_map_write32[block] = (address, value) => write(address, 4, value >>> 0);
      this.#writers16.set(block, (address, value) => write(address, 2, value & 0xffff));
    }
    return () => {
      for (let block = first; block < last; block++) {
        memory_map_read8[block] = memory_map_read8[UNMAPPED_BLOCK];
        memory_map_read32[block] = memory_map_read32[UNMAPPED_BLOCK];
        memory_map_write8[block] = memory_map_write8[UNMAPPED_BLOCK];
        memory_map_write32[block] = memory_map_write32[UNMAPPED_BLOCK];
        this.#writers16.delete(block);
      }
    };
  }

  /** Whether all these ports may be taken: above the board's own and used by nothing. */
  freePorts(base: number, length: number): boolean {
    if (base < FIRST_FREE_PORT || base + length > 0x10000) return false;
    const { ports } = this.#cpu.io;
    for (let port = base; port < base + length; port++) {
      if (ports[port]?.device !== undefined) return false;
    }
    return true;
  }

  /** Puts a window into port I/O, where `freePorts` says that it may be. */
  mapPorts(base: number, length: number, handler: IoHandler): () => void {
    const { io } = this.#cpu;
    for (let offset = 0; offset < length; offset++) {
      io.ports[base + offset] = {
        read8: () => handler.read(offset, 1),
        read16: () => handler.read(offset, 2),
        read32: () => handler.read(offset, 4) | 0,
        write8: (value) => this.#writePortOf(handler, offset, 1, value & 0xff),
        write16: (value) => this.#writePortOf(handler, offset, 2, value & 0xffff),
        write32: (value) => this.#writePortOf(handler, offset, 4, value >>> 0),
        device: handler,
      };
    }
    return () => {
      for (let offset = 0; offset < length; offset++) io.ports[base + offset] = io.create_empty_entry();
    };
  }

  #writePortOf(handler: IoHandler, offset: number, size: AccessSize, value: number): void {
    this.#inPort = true;
    try {
      handler.write(offset, size, value);
    } finally {
      this.#inPort = false;
    }
  }

  /** As if the processor had executed IN; for tools and tests. */
  readPort(port: number, size: AccessSize): number {
    const entry = this.#cpu.io.ports[port];
    if (entry === undefined) return ALL_ONES[size];
    const read = size === 1 ? entry.read8 : size === 2 ? entry.read16 : entry.read32;
    return read.call(entry.device, port) >>> 0;
  }

  /** As if the processor had executed OUT; for tools and tests. */
  writePort(port: number, size: AccessSize, value: number): void {
    const entry = this.#cpu.io.ports[port];
    if (entry === undefined) return;
    const write = size === 1 ? entry.write8 : size === 2 ? entry.write16 : entry.write32;
    write.call(entry.device, value | 0);
  }

  /** Whether v86 has a device of its own in this slot of bus 0. */
  ownsPciSlot(slot: number): boolean {
    return this.#cpu.devices.pci.device_spaces[slot << 3] !== undefined;
  }

  /** Answers configuration accesses to functions that v86 does not know, with the width that the driver used. */
  setPciConfigSpace(space: PciConfigSpace): void {
    const pci = this.#cpu.devices.pci;
    const query = pci.pci_query.bind(pci);
    const selected = (): number => ((pci.pci_addr32[0] ?? 0) >>> 8) & 0xffff;
    const enabled = (): boolean => (pci.pci_addr32[0] ?? 0) < 0;
    const ours = (): boolean => enabled() && space.has(selected());
    // Reading a configuration register may have effects, so that it waits until the data port is read.
    pci.pci_query = () => {
      if (ours()) pci.pci_status32[0] = 0x80000000 | 0;
      else query();
    };
    for (let byte = 0; byte < 4; byte++) this.#wrapConfigPort(byte, space, selected, ours);
  }

  #wrapConfigPort(byte: number, space: PciConfigSpace, selected: () => number, ours: () => boolean): void {
    const pci = this.#cpu.devices.pci;
    const entry = this.#cpu.io.ports[PCI_CONFIG_DATA + byte];
    if (entry === undefined) return;
    const v86 = { ...entry };
    const offset = (): number => ((pci.pci_addr32[0] ?? 0) & 0xfc) + byte;
    const read = (size: AccessSize, original: PortEntry["read8"]): PortEntry["read8"] =>
      function (this: unknown, port) {
        return ours() ? space.read(selected(), offset(), size) | 0 : original.call(this, port);
      };
    const write = (size: AccessSize, original: PortEntry["write8"]): PortEntry["write8"] =>
      function (this: unknown, value) {
        if (ours()) space.write(selected(), offset(), size, size === 4 ? value >>> 0 : value);
        // v86 throws on writes to a function that is not there.
        else if (pci.device_spaces[selected()] !== undefined) original.call(this, value);
      };
    entry.read8 = read(1, v86.read8);
    entry.read16 = read(2, v86.read16);
    entry.read32 = read(4, v86.read32);
    entry.write8 = write(1, v86.write8);
    entry.write16 = write(2, v86.write16);
    entry.write32 = write(4, v86.write32);
  }

  // Inside

  #currentWords(): Int32Array {
    const { buffer } = this.#cpu.wasm_memory;
    if (this.#words.buffer !== buffer) this.#words = new Int32Array(buffer);
    return this.#words;
  }

  /** Returns the flags to put back. */
  #maskInterrupts(): number {
    const words = this.#currentWords();
    const flags = words[FLAGS >> 2] ?? 0;
    words[FLAGS >> 2] = flags & ~FLAG_INTERRUPT;
    return flags;
  }

  /** v86 looks for interrupts when it leaves its inner loop, which it does by this counter. */
  #leaveLoopSoon(): void {
    const words = this.#currentWords();
    words[INSTRUCTION_COUNTER >> 2] = (words[INSTRUCTION_COUNTER >> 2] ?? 0) + LOOP_COUNTER;
  }

  #keepWideWrites(): void {
    const cpu = this.#cpu;
    const original = cpu.mmap_write16.bind(cpu);
    cpu.mmap_write16 = (address, value) => {
      const writer = this.#writers16.get(Math.floor((address >>> 0) / MMIO_GRANULE));
      if (writer === undefined) original(address, value);
      else writer(address, value);
    };
  }

  #watchStop(): void {
    const cpu = this.#cpu;
    const stop = (reason: StopReason): void => {
      this.#emulator.v86.stop();
      this.onStop?.(reason);
    };
    cpu.reboot_internal = () => stop("reset");
    this.#emulator.add_listener("cpu-event-halt", () => stop("halt"));
    const control = cpu.io.ports[ACPI_PM1_CONTROL];
    if (control === undefined) return;
    const original = control.write16;
    control.write16 = function (this: unknown, value) {
      if ((value & ACPI_SLEEP_ENABLE) === 0) original.call(this, value);
      else stop("power-off");
    };
  }
}
