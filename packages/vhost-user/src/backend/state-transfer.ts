import type { VirtioDevice } from "virtio/device/device";
import type { Descriptor } from "../native/descriptor.ts";
import { loadState, saveState } from "./device-state.ts";

/** Milliseconds that the rest of a state may take when the front-end says that all of it is there. */
const TIMEOUT = 5000;

/** The device's state on its way to or from the front-end; one at a time. */
export class StateTransfer {
  #done: Promise<boolean> | undefined;
  #abort = new AbortController();

  /** Begun, and nobody asked how it went. */
  get active(): boolean {
    return this.#done !== undefined;
  }

  /** Takes over the channel. */
  begin(direction: "save" | "load", device: VirtioDevice, channel: Descriptor): void {
    this.#abort = new AbortController();
    const transfer = direction === "save" ? saveState : loadState;
    this.#done = transfer(device, channel, this.#abort.signal).then(
      () => true,
      () => false,
    );
  }

  /** How it went. The front-end has seen the end of the channel, or closed it: what is not there soon never comes. */
  async finish(): Promise<boolean> {
    const timer = setTimeout(() => this.#abort.abort(), TIMEOUT);
    const arrived = await this.#done;
    clearTimeout(timer);
    this.#done = undefined;
    return arrived === true;
  }

  async cancel(): Promise<void> {
    this.#abort.abort();
    await this.#done;
  }
}
