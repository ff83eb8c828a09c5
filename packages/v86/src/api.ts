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
  /** The kernel command line; what the machine itself needs is in `kernelParameters`, which the caller may include. */
  readonly commandLine?: string;
  /** v86's WebAssembly file: `readV86Wasm()` of `@virtio/v86/node`, or the bytes of `v86/build/v86.wasm` in a browser. */
  readonly wasm: ArrayBuffer | Uint8Array;
  readonly observer?: VirtioObserver;
  /**
   * ACPI tables, IO-APIC and local APIC. Default: only when a device needs them (MMIO, MSI-X), for they cost boot time.
   * Decided when the first device is plugged in or the machine runs, so set it when in doubt.
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
  /** Caps the size of every virtqueue. */
  readonly queueSize?: number;
}

export interface PciPlugOptions extends PlugOptions {
  /** Device number on bus 0, from 8 to 29. Default: the next free one. */
  readonly slot?: number;
  /** Default modern. */
  readonly mode?: PciMode;
  /** Interrupts by MSI-X instead of the INTx pin. Needs ACPI. Default false. */
  readonly msix?: boolean;
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
