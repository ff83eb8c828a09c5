import type { VirtioDevice } from "./device.ts";

/** The reset of a device type, which may take its time; it is asked for no second one until the first is over. */
export class DeviceReset {
  readonly #device: VirtioDevice;
  readonly #ended: () => void;
  #running: Promise<void> | undefined;
  /** The driver changed something of the device type since its reset began. */
  #touched = false;
  /** It was to be reset again, and there was something to reset. */
  #again = false;

  /** `ended`: a reset that took its time is over. */
  constructor(device: VirtioDevice, ended: () => void) {
    this.#device = device;
    this.#ended = ended;
  }

  get pending(): boolean {
    return this.#running !== undefined;
  }

  /** The driver reached the device type while it may be resetting: then it is to be reset once more. */
  touch(): void {
    this.#touched = true;
  }

  /** `wait`: a driver had set the device up, which until the end of its reset holds something of that driver's. */
  begin(wait: boolean): void {
    if (this.#running !== undefined) {
      this.#again ||= this.#touched;
      return;
    }
    this.#touched = this.#again = false;
    const done = this.#device.reset?.();
    if (done === undefined) return;
    if (!wait) return void done.catch(() => undefined);
    this.#running = done;
    const finish = (): void => {
      if (this.#running !== done) return;
      this.#running = undefined;
      if (this.#again) this.begin(true);
      if (this.#running === undefined) this.#ended();
    };
    // A reset that fails is over too: what it could not give back is the device type's own affair.
    done.then(finish, finish);
  }

  /** For a restore, which puts the device type right whatever its reset is still at. */
  forget(): void {
    this.#running = undefined;
    this.#again = false;
  }
}
