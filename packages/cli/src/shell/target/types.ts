import type { DriverPlatform, PciAddress, PciPlatform } from "virtio/driver/platform";
import type { DriverTransport } from "virtio/driver/types";
import type { RegionMemory } from "virtio/memory/region-memory";

/** Where a device's registers are. */
export type Place =
  | { readonly bus: "pci"; readonly platform: PciPlatform; readonly at: PciAddress }
  | { readonly bus: "mmio"; readonly platform: DriverPlatform; readonly base: number }
  | { readonly bus: "vhost-user"; readonly socket: string };

/** A device that the shell may drive. */
export interface TargetDevice {
  /** `pci 00:05.0`, `mmio 0xa003e00`, `vhost-user /tmp/disk.sock`. */
  readonly name: string;
  /** Virtio device id. */
  readonly deviceId: number;
  readonly place: Place;
  open(): DriverTransport | Promise<DriverTransport>;
}

/** A piece of memory. */
export interface Bank {
  readonly start: number;
  readonly size: number;
}

/** Devices, and memory to use with them. */
export interface Target {
  /** What it is, for people. */
  readonly title: string;
  readonly banks: readonly Bank[];
  /** All memory, rings and buffers of the drivers included. */
  readonly memory: RegionMemory;
  /** The part of it that is the shell's own. */
  readonly ram: Bank;
  /** All virtio devices, looked for anew. */
  devices(): Promise<readonly TargetDevice[]>;
  /** Why it is gone. */
  readonly failure: Error | undefined;
  /** It is gone though nobody closed it. */
  onFailure: ((error: Error) => void) | undefined;
  close(): Promise<void>;
}
