import type { DeviceInstance } from "virtio/device/instance";
import { withoutDependents } from "virtio/device/features";
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_STATUS_ACKNOWLEDGE,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  hasFeature,
} from "virtio/spec/core";

const BEGUN = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
const STOPPED = VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_FAILED;

/** Turns of the event loop in which a reset is usually over. */
const SHORT_WAIT = 100;

/** The device's life as a front-end leads it: with its status when STATUS was negotiated, and by what it does without. */
export class DeviceLife {
  readonly #instance: DeviceInstance;
  #features = 0n;
  /** Those of them that the device is told of. */
  #accepted = 0n;
  /** FEATURES_OK, when it was said of a legacy driver. */
  #saidOfLegacy = 0;
  #resetting: Promise<void> | undefined;

  constructor(instance: DeviceInstance) {
    this.#instance = instance;
  }

  /** Features of the device and its rings, as the front-end set them. */
  get features(): bigint {
    return this.#features;
  }

  set features(features: bigint) {
    this.#features = features;
    // A front-end that keeps a part of the device for itself (QEMU: the control virtqueue of a network device) passes on features
    // without those that they need. What they are for is its business too.
    this.#accepted = withoutDependents(features, this.#instance.device.dependencies ?? []);
  }

  get live(): boolean {
    return (this.#instance.status & VIRTIO_STATUS_DRIVER_OK) !== 0;
  }

  /** The driver that it was set up for has other features, or the device has failed: it must be reset to go on. */
  get stale(): boolean {
    const { status, driverFeatures } = this.#instance;
    const settled = (status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)) !== 0;
    return (status & STOPPED) !== 0 || (settled && driverFeatures !== this.#accepted);
  }

  /** What GET_STATUS reads: what was said, and what the device says. */
  get status(): number {
    return this.#instance.status | this.#saidOfLegacy;
  }

  /**
   * What SET_STATUS asks for, 0 excepted. It is how far the front-end takes the device to be, and not what the driver
   * wrote: QEMU says FEATURES_OK alone, without what came before it, and of legacy drivers too, which know no such bit.
   */
  advance(status: number): void {
    const settles = (status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)) !== 0;
    if (settles) this.#acceptFeatures();
    const instance = this.#instance;
    this.#saidOfLegacy = instance.legacy ? status & VIRTIO_STATUS_FEATURES_OK : 0;
    const written = (settles ? status | BEGUN : status) & ~VIRTIO_STATUS_DEVICE_NEEDS_RESET;
    // The core refuses cleared bits; a front-end that restores an old status means what is set.
    instance.writeStatus(instance.status | (written & ~this.#saidOfLegacy));
  }

  /** The whole initialisation, for front-ends without a status. */
  begin(): void {
    this.advance(BEGUN | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
  }

  /** A reset is under way. */
  get resetting(): boolean {
    return this.#resetting !== undefined;
  }

  /** Resolves when no request of before is worked on any more. Whoever asks meanwhile waits for the same reset. */
  reset(): Promise<void> {
    this.#saidOfLegacy = 0;
    this.#instance.writeStatus(0);
    if (this.#instance.status === 0) return Promise.resolve();
    this.#resetting ??= this.#resetEnds();
    return this.#resetting;
  }

  async #resetEnds(): Promise<void> {
    for (let turn = 0; this.#instance.status !== 0; turn++)
      await new Promise<void>((resolve) => {
        // A device that takes its time is not waited for with all of a processor.
        if (turn < SHORT_WAIT) setImmediate(resolve);
        else setTimeout(resolve, 1);
      });
    this.#resetting = undefined;
  }

  #acceptFeatures(): void {
    const instance = this.#instance;
    if ((instance.status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)) !== 0) return;
    for (let window = 0; window < 4; window++)
      instance.writeDriverFeatures(window, Number((this.#accepted >> BigInt(32 * window)) & 0xffff_ffffn));
    // The driver is a legacy one.
    if (!hasFeature(this.#features, VIRTIO_F_VERSION_1)) {
      instance.legacy = true;
      return;
    }
    instance.writeStatus(instance.status | BEGUN | VIRTIO_STATUS_FEATURES_OK);
    // What a device type refuses for reasons of its own. The legacy way in asks no such questions.
    if ((instance.status & VIRTIO_STATUS_FEATURES_OK) === 0) instance.legacy = true;
  }
}
