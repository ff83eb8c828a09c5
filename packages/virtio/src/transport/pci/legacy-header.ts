import type { AccessSize, IoHandler } from "../../bus/types.ts";
import type { StandardPciFunction } from "../../bus/pci/function.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import {
  VIRTIO_PCI_LEGACY as LEGACY,
  VIRTIO_PCI_LEGACY_CONFIG,
  VIRTIO_PCI_LEGACY_CONFIG_MSIX,
  VIRTIO_PCI_LEGACY_PAGE_SIZE,
} from "../../spec/pci.ts";
import { FieldMap, type Field, type Registers } from "../fields.ts";
import { enableLegacy } from "../legacy-ring.ts";
import type { Negotiated } from "../negotiated.ts";
import { judgeLegacy, judgeWidth } from "./driver-rules.ts";
import type { PciInterrupts } from "./interrupts.ts";

export interface LegacyHeaderParts {
  readonly instance: DeviceInstance;
  readonly fn: StandardPciFunction;
  readonly interrupts: PciInterrupts;
  readonly negotiated: Negotiated;
}

export interface LegacyHeaderState {
  readonly queueSelect: number;
}

const SIZES: Readonly<Record<keyof typeof LEGACY, AccessSize>> = {
  device_features: 4,
  driver_features: 4,
  queue_address: 4,
  queue_size: 2,
  queue_select: 2,
  queue_notify: 2,
  device_status: 1,
  isr_status: 1,
  config_msix_vector: 2,
  queue_msix_vector: 2,
};

const NAMES: readonly (keyof typeof LEGACY)[] = Object.keys(SIZES) as (keyof typeof LEGACY)[];
const ALL: readonly Field[] = NAMES.map((name) => ({ name, offset: LEGACY[name], size: SIZES[name] }));
const WITH_MSIX = new FieldMap(ALL);
const WITHOUT_MSIX = new FieldMap(ALL.filter((field) => field.offset < VIRTIO_PCI_LEGACY_CONFIG));

/**
 * The legacy configuration structure in BAR0 ("Legacy Interfaces: A Note on PCI Device Layout"). Using it turns the
 * device to legacy behaviour until the next reset.
 */
export class LegacyHeader implements IoHandler, Registers {
  readonly #parts: LegacyHeaderParts;
  #queueSelect = 0;

  constructor(parts: LegacyHeaderParts) {
    this.#parts = parts;
  }

  /** Once MSI-X is enabled the other fields move. */
  get #configStart(): number {
    return this.#parts.fn.msixEnabled ? VIRTIO_PCI_LEGACY_CONFIG_MSIX : VIRTIO_PCI_LEGACY_CONFIG;
  }

  read(offset: number, size: AccessSize): number {
    const start = this.#configStart;
    if (offset >= start) return this.#parts.instance.readConfig(offset - start, size);
    const header = start === VIRTIO_PCI_LEGACY_CONFIG ? WITHOUT_MSIX : WITH_MSIX;
    this.#judge(header, "read", offset, size);
    if (offset + size <= start) return header.read(this, offset, size);
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.read(offset + i, 1);
    return value;
  }

  write(offset: number, size: AccessSize, value: number): void {
    const start = this.#configStart;
    if (offset >= start) {
      this.#use();
      this.#parts.instance.writeConfig(offset - start, size, value);
      return;
    }
    const header = start === VIRTIO_PCI_LEGACY_CONFIG ? WITHOUT_MSIX : WITH_MSIX;
    this.#judge(header, "write", offset, size);
    if (offset + size <= start) return header.write(this, offset, size, value);
    for (let i = 0; i < size; i++) this.write(offset + i, 1, (value >>> (8 * i)) & 0xff);
  }

  readField(field: Field): number {
    const value = this.#get(field.offset);
    const { instance } = this.#parts;
    instance.observer?.register?.(instance, "read", field.name, value);
    return value;
  }

  writeField(field: Field, value: number): void {
    const { instance } = this.#parts;
    if (instance.observer?.hint !== undefined) judgeLegacy(instance, this.#queueSelect, field, value);
    instance.observer?.register?.(instance, "write", field.name, value);
    this.#set(field.offset, value);
  }

  #judge(header: FieldMap, access: "read" | "write", offset: number, size: AccessSize): void {
    const { instance } = this.#parts;
    if (instance.observer?.hint !== undefined)
      judgeWidth(instance, header, access, offset, size, "own.legacy");
  }

  reset(): void {
    this.#queueSelect = 0;
  }

  save(): LegacyHeaderState {
    return { queueSelect: this.#queueSelect };
  }

  restore(state: LegacyHeaderState): void {
    this.#queueSelect = state.queueSelect;
  }

  #get(offset: number): number {
    const { instance, interrupts } = this.#parts;
    const queue = instance.queue(this.#queueSelect);
    switch (offset) {
      case LEGACY.device_features:
        return instance.readLegacyFeatures();
      case LEGACY.driver_features:
        return instance.readDriverFeatures(0);
      case LEGACY.queue_address: {
        if (queue === undefined || !queue.enabled) return 0;
        const address =
          queue.readArea("descriptorArea", "low") + queue.readArea("descriptorArea", "high") * 2 ** 32;
        return Math.floor(address / VIRTIO_PCI_LEGACY_PAGE_SIZE) % 2 ** 32;
      }
      case LEGACY.queue_size:
        return queue === undefined ? 0 : queue.maxSize;
      case LEGACY.queue_select:
        return this.#queueSelect;
      case LEGACY.device_status:
        return instance.status;
      case LEGACY.isr_status:
        return interrupts.readIsr();
      case LEGACY.config_msix_vector:
        return interrupts.configVector;
      case LEGACY.queue_msix_vector:
        return interrupts.queueVector(this.#queueSelect);
      default:
        return 0;
    }
  }

  #set(offset: number, value: number): void {
    const { instance, interrupts, negotiated } = this.#parts;
    switch (offset) {
      case LEGACY.driver_features:
        this.#use();
        return instance.writeDriverFeatures(0, value);
      case LEGACY.queue_address:
        this.#use();
        return this.#setAddress(value);
      case LEGACY.queue_select:
        this.#queueSelect = value;
        return;
      case LEGACY.queue_notify:
        this.#use();
        return instance.notify(value);
      case LEGACY.device_status:
        if (value !== 0) this.#use();
        instance.writeStatus(value);
        return negotiated.update(instance);
      case LEGACY.config_msix_vector:
        interrupts.configVector = value;
        return;
      case LEGACY.queue_msix_vector:
        return interrupts.setQueueVector(this.#queueSelect, value);
      default:
        return;
    }
  }

  /** "There was no mechanism to negotiate the queue size." Address 0 stops the virtqueue. */
  #setAddress(page: number): void {
    const queue = this.#parts.instance.queue(this.#queueSelect);
    if (queue === undefined) return;
    if (queue.enabled) queue.disable();
    if (page === 0) return;
    queue.size = queue.maxSize;
    enableLegacy(queue, page * VIRTIO_PCI_LEGACY_PAGE_SIZE, VIRTIO_PCI_LEGACY_PAGE_SIZE);
  }

  /** "Transitional Devices MUST assume that Feature Bits 32 to 63 are not acknowledged by Driver." */
  #use(): void {
    const { instance, negotiated } = this.#parts;
    if (instance.legacy) return;
    instance.useLegacy();
    negotiated.update(instance);
  }
}
