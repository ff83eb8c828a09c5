/** How the parts of v86 (npm 0.5.462) look that `internals.ts` touches. */

export interface PortEntry {
  read8: (this: unknown, port: number) => number;
  read16: (this: unknown, port: number) => number;
  read32: (this: unknown, port: number) => number;
  write8: (this: unknown, value: number) => void;
  write16: (this: unknown, value: number) => void;
  write32: (this: unknown, value: number) => void;
  device: unknown;
}

export type MapRead = (address: number) => number;
export type MapWrite = (address: number, value: number) => void;

export interface Cpu {
  readonly wasm_memory: { readonly buffer: ArrayBuffer };
  /** A proxy that follows the growing memory: 170 ns a byte, so only its offset and length are used. */
  readonly mem8: Uint8Array;
  readonly cr: Int32Array;
  readonly protected_mode: Int32Array;
  readonly is_32: Int32Array;
  readonly stack_size_32: Int32Array;
  readonly flags: Int32Array;
  readonly in_hlt: Uint8Array;
  readonly segment_is_null: Uint8Array;
  readonly segment_offsets: Int32Array;
  readonly segment_limits: Uint32Array;
  readonly segment_access_bytes: Uint8Array;
  readonly sreg: Uint16Array;
  readonly reg32: Int32Array;
  readonly gdtr_offset: Int32Array;
  readonly gdtr_size: Int32Array;
  readonly instruction_pointer: Int32Array;
  last_result: Int32Array;
  fpu_status_word: Uint16Array;
  mxcsr: Int32Array;
  readonly memory_map_read8: (MapRead | undefined)[];
  readonly memory_map_read32: (MapRead | undefined)[];
  readonly memory_map_write8: (MapWrite | undefined)[];
  readonly memory_map_write32: (MapWrite | undefined)[];
  readonly io: { readonly ports: PortEntry[]; create_empty_entry(): PortEntry };
  readonly devices: { readonly pci: Pci };
  mmap_write16: MapWrite;
  pack_memory(): object;
  unpack_memory(bitmap: object, packed: Uint8Array): void;
  is_memory_zeroed(address: number, length: number): boolean;
  jit_dirty_cache(from: number, to: number): void;
  update_state_flags(): void;
  device_raise_irq(irq: number): void;
  device_lower_irq(irq: number): void;
  handle_irqs(): void;
  /** Called between pieces of the guest's work; returns the milliseconds that the processor may sleep. */
  run_hardware_timers: (acpi: number, now: number) => number;
  get_apic_addr(): number;
  get_pic_addr_master(): number;
  get_pic_addr_slave(): number;
  stop_idling(): void;
  reboot_internal(): void;
}

export interface Pci {
  readonly pci_addr32: Int32Array;
  readonly pci_status32: Int32Array;
  /** By bus, device and function, as `device_spaces`. */
  readonly devices: ({ readonly pci_bars: readonly (object | undefined)[] } | undefined)[];
  readonly device_spaces: (Int32Array | undefined)[];
  readonly isa_bridge_space8: Uint8Array;
  pci_query(): void;
  raise_irq(bdf: number): void;
  lower_irq(bdf: number): void;
}

export interface Emulator {
  readonly v86: { readonly cpu: Cpu; stop(): void; readonly running: boolean };
  add_listener(event: string, listener: (value: number) => void): void;
  serial_send_bytes(port: number, bytes: Uint8Array): void;
  run(): Promise<void>;
  stop(): Promise<void>;
  destroy(): Promise<void>;
  save_state(): Promise<ArrayBuffer>;
  restore_state(state: ArrayBuffer): Promise<void>;
}
