import {
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  featureBits,
  hasFeature,
} from "../spec/core.ts";
import { featureList } from "../spec/feature-names.ts";
import type { VirtioDevice } from "./device.ts";
import { featureWindow, missingDependency, offer, withWindow } from "./features.ts";

/** The feature bits of one device: what it offers, and what the driver wrote so far, right or wrong. */
export class Negotiation {
  /** All features offered to a modern driver. */
  readonly offered: bigint;
  /** By index, as the device type calls them with what is accepted: always the same array, which others may keep. */
  readonly queueNames: readonly string[];
  readonly #device: VirtioDevice;
  readonly #names: string[] = [];
  #accepted = 0n;

  /** Throws a RangeError when the features of the device and those of its ring cannot be offered together. */
  constructor(device: VirtioDevice, core: bigint) {
    this.#device = device;
    this.offered = offer(device, core);
    this.queueNames = this.#names;
    this.#nameQueues();
  }

  /** What the driver wrote; nothing is judged before FEATURES_OK. */
  get accepted(): bigint {
    return this.#accepted;
  }

  set accepted(features: bigint) {
    this.#accepted = features;
    if (this.#device.queueNames !== undefined) this.#nameQueues();
  }

  #nameQueues(): void {
    const names = this.#device.queueNames?.(this.#accepted) ?? this.#device.queues.map(({ name }) => name);
    this.#names.splice(0, this.#names.length, ...names);
  }

  /** What a driver may accept on the legacy interface; our devices never depend on framing, so ANY_LAYOUT is among them. */
  get legacyOffered(): bigint {
    return this.offered | featureBits(VIRTIO_F_ANY_LAYOUT);
  }

  get packed(): boolean {
    return hasFeature(this.accepted, VIRTIO_F_RING_PACKED);
  }

  readOffered(window: number): number {
    return featureWindow(this.offered, window);
  }

  readLegacyOffered(): number {
    return featureWindow(this.legacyOffered, 0);
  }

  readAccepted(window: number): number {
    return featureWindow(this.accepted, window);
  }

  write(window: number, value: number): void {
    this.accepted = withWindow(this.accepted, window, value);
  }

  /** "Transitional Devices MUST assume that Feature Bits 32 to 63 are not acknowledged by Driver", and those above. */
  keepLegacyWindow(): void {
    this.accepted = BigInt(this.readAccepted(0));
  }

  /** A legacy driver is never told that it accepted too much: what was not offered does not count. */
  maskLegacy(): void {
    this.accepted &= this.legacyOffered;
  }

  /** Why FEATURES_OK cannot stick. */
  refusal(features: bigint): string | undefined {
    const { id, dependencies = [] } = this.#device;
    const strange = features & ~this.offered;
    if (strange !== 0n) return `${featureList(id, strange)} was not offered`;
    if (!hasFeature(features, VIRTIO_F_VERSION_1)) return "VIRTIO_F_VERSION_1 was not accepted";
    return missingDependency(id, features, dependencies) ?? this.#device.refuse?.(features);
  }
}
