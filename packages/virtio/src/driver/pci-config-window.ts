import type { AccessSize } from "../bus/types.ts";
import { VIRTIO_PCI_CAP, VIRTIO_PCI_CFG_CAP } from "../spec/pci.ts";
import type { PciConfig } from "./pci-config.ts";
import { checkInside, type RegisterWindow } from "./register-window.ts";

/**
 * A structure reached through the "PCI configuration access capability" at `capability`, for when its BAR cannot be
 * mapped. Three configuration writes an access.
 */
export class PciConfigWindow implements RegisterWindow {
  readonly length: number;
  readonly #config: PciConfig;
  readonly #capability: number;
  readonly #bar: number;
  readonly #offset: number;

  constructor(config: PciConfig, capability: number, place: { bar: number; offset: number; length: number }) {
    this.#config = config;
    this.#capability = capability;
    this.#bar = place.bar;
    this.#offset = place.offset;
    this.length = place.length;
  }

  read(offset: number, size: AccessSize): number {
    this.#select(offset, size);
    return this.#config.read(this.#capability + VIRTIO_PCI_CFG_CAP.pci_cfg_data, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.#select(offset, size);
    this.#config.write(this.#capability + VIRTIO_PCI_CFG_CAP.pci_cfg_data, size, value);
  }

  #select(offset: number, size: AccessSize): void {
    checkInside(this, offset, size);
    // "The driver MUST NOT write a cap.offset which is not a multiple of cap.length".
    const at = this.#offset + offset;
    if (at % size !== 0) throw new RangeError(`a ${size}-byte access at ${at} is not aligned`);
    this.#config.write(this.#capability + VIRTIO_PCI_CAP.bar, 1, this.#bar);
    this.#config.write(this.#capability + VIRTIO_PCI_CAP.length, 4, size);
    this.#config.write(this.#capability + VIRTIO_PCI_CAP.offset, 4, at);
  }
}
