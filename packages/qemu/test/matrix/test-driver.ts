import type { DriverTransport } from "virtio/driver/types";
import type { QemuMachine } from "../../src/index.ts";

/** What the far ends of QEMU's devices need. */
export interface Surroundings {
  readonly folder: string;
  /** Socket that gives back what it gets. */
  readonly echo: string;
}

/** A driver, the QEMU device that it is for, and what it must be able to do there. */
export interface TestDriver {
  readonly name: string;
  readonly deviceId: number;
  /** `virtio-rng`; the bus and its kind are added. */
  readonly device: string;
  /** The type is younger than the legacy interface. */
  readonly modernOnly?: boolean;
  /** Whether a device of the type is the one meant, when there are several. */
  recognises?(transport: DriverTransport): boolean;
  /** Options of the device, and further arguments for QEMU. `id` is one for this device. */
  plug(id: string, around: Surroundings): { readonly properties: string; readonly argv: readonly string[] };
  exercise(transport: DriverTransport, id: string, around: Surroundings, qemu: QemuMachine): Promise<void>;
}

export const pattern = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + (i >>> 8) * 13 + seed) & 0xff);
