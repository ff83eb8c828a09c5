import type { DeviceInstance } from "virtio/device/instance";
import type { VirtioObserver } from "virtio/device/observer";

/** What an embedded machine is made of. */
export interface MachineOptions {
  /** Bytes of guest RAM: a multiple of 128 KiB, from 32 MiB to 1920 MiB. */
  readonly memorySize: number;
  /**
   * A Linux kernel for i386: an ELF `vmlinux` (boots two seconds faster, see `extractVmlinux`) or a `bzImage`. Absent: the
   * machine can only `restore`.
   */
  readonly kernel?: Uint8Array;
  readonly initrd?: Uint8Array;
  /** The kernel command line; `KERNEL_PARAMETERS` goes well with it. */
  readonly commandLine?: string;
  /** v86's WebAssembly file: `readV86Wasm()` of `@virtio/v86/node`, or the bytes of `v86/build/v86.wasm` in a browser. */
  readonly wasm: ArrayBuffer | Uint8Array;
  readonly observer?: VirtioObserver;
  /**
   * ACPI tables, IO-APIC and local APIC. Default true: MMIO devices and MSI-X need them, and Linux boots faster with
   * them. False is a PC of before ACPI.
   */
  readonly acpi?: boolean;
  /** Further options of v86's own constructor, such as its own disk or network device. */
  readonly v86Options?: Readonly<Record<string, unknown>>;
}

/** Which interface a PCI function offers: the spec's "Legacy Interface: A Note on PCI Device Layout". */
export type PciMode = "modern" | "transitional" | "legacy";

export interface PlugOptions {
  /** Unique within the machine, for messages, logs and the fingerprint of a saved state. */
  readonly label: string;
  /** Feature bits of the ring and the transport to offer; default as `DeviceInstance`. */
  readonly features?: bigint;
  /** Caps the size of every virtqueue; a power of two from 1 to 32768. */
  readonly queueSize?: number;
  /** Whether the machine's observer hears of it. Default true. */
  readonly observed?: boolean;
}

export interface PciPlugOptions extends PlugOptions {
  /** Device number on bus 0, from 8 to 29. Default: the next free one. */
  readonly slot?: number;
  /** Default modern. */
  readonly mode?: PciMode;
  /** Offers MSI-X beside the INTx pin; the driver then takes it. Needs ACPI. Default false: INTx is as fast on v86. */
  readonly msix?: boolean;
  /** Number of MSI-X vectors, up to 2048, which turns them on; default one a virtqueue and one more. */
  readonly vectors?: number;
  /** Where the modern registers are. Port I/O is the fastest on v86 and the default. */
  readonly bar?: "io" | "memory32" | "memory64";
}

export interface MmioPlugOptions extends PlugOptions {
  /** 2, or 1 for the legacy interface. Default 2. */
  readonly version?: 1 | 2;
}

/** A device in the machine. */
export interface PluggedDevice {
  readonly label: string;
  readonly instance: DeviceInstance;
  /** For people: `pci 00:08.0`, `mmio 0xfea00000`. */
  readonly address: string;
}
