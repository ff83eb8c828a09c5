import { VIRTIO_STATUS_DRIVER_OK, VIRTIO_STATUS_FEATURES_OK } from "virtio/spec/core";
import type { DeviceLife } from "./life.ts";
import type { BackendRing } from "./ring.ts";

/**
 * When the device of a connection begins to work, and when it has another driver.
 *
 * Without PROTOCOL_F_STATUS it begins with the first ring that runs. With it DRIVER_OK says so, but QEMU (seen in 7.2 and 11.1) says that for
 * block, network and vDPA devices only; of all others it says FEATURES_OK once, and never that the device was reset. So after FEATURES_OK a
 * ring that is in use says it as well: "The driver MUST NOT send any buffer available notifications to the device before setting
 * DRIVER_OK" ("Device Initialization").
 */
export class Beginning {
  readonly #life: DeviceLife;
  readonly #rings: readonly BackendRing[];
  /** PROTOCOL_F_STATUS was negotiated. */
  readonly #hasStatus: () => boolean;
  /** FEATURES_OK was said, or DRIVER_OK. */
  #accepted = false;
  /** This front-end says DRIVER_OK. */
  #saysDriverOk = false;

  constructor(life: DeviceLife, rings: readonly BackendRing[], hasStatus: () => boolean) {
    this.#life = life;
    this.#rings = rings;
    this.#hasStatus = hasStatus;
  }

  /** SET_STATUS, 0 excepted. */
  status(status: number): void {
    this.#life.advance(status);
    if ((status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)) !== 0) this.#accepted = true;
    if ((status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#saysDriverOk = true;
    this.consider();
  }

  /** The front-end reset the device. */
  reset(): void {
    this.#accepted = false;
  }

  /** A ring runs, was enabled or was kicked: the device begins, unless it did. */
  consider(): void {
    if (this.#life.live || this.#life.resetting) return;
    const begins = this.#hasStatus()
      ? this.#accepted && this.#rings.some((ring) => ring.inUse)
      : this.#rings.some((ring) => ring.running);
    if (begins) this.#life.begin();
  }

  /**
   * A ring that an earlier driver had used was set to where only a new one starts. A front-end that says nothing of a driver's beginning
   * says nothing of its end either: then the device is reset, and rings of the new driver that run already are started again after that.
   */
  anotherDriver(): Promise<void> | undefined {
    const silent = !this.#hasStatus() || !this.#saysDriverOk;
    return silent && this.#life.live ? this.#replaceDriver() : undefined;
  }

  async #replaceDriver(): Promise<void> {
    for (const ring of this.#rings) await ring.pause();
    await this.#life.reset();
    for (const ring of this.#rings) ring.tryStart();
  }
}
