import type { NetDriver } from "virtio/drivers/net/driver";

/** A network device that hears all the time: what nobody waits for is dropped. */
export class NetworkInterface {
  readonly driver: NetDriver;
  /** Gets every frame. */
  onFrame: ((frame: Uint8Array) => void) | undefined;
  #failure: Error | undefined;

  constructor(driver: NetDriver) {
    this.driver = driver;
    void this.#listen();
  }

  /** Why nothing comes any more. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  close(): Promise<void> {
    return this.driver.close();
  }

  async #listen(): Promise<void> {
    try {
      for await (const frame of this.driver) this.onFrame?.(frame);
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error));
    }
  }
}
