import type { VirtioDevice } from "virtio/device/device";
import type { Descriptor } from "../native/descriptor.ts";
import * as vu from "../protocol/numbers.ts";
import { decodeDeviceState, type DeviceStateTransfer } from "../protocol/payloads.ts";
import { loadState, saveState } from "./device-state.ts";
import { asError } from "../protocol/errors.ts";
import type { Refusals } from "./refusals.ts";
import { u64, type Handled, type Luggage, type Register } from "./handlers.ts";

/** Milliseconds that the rest of a state may take when the front-end says that all of it is there. */
const TIMEOUT = 5000;

/** Whose state it is. */
export interface TransferHost {
  readonly device: VirtioDevice;
  /** No virtqueue runs. */
  suspended(): boolean;
  reset(): Promise<void>;
  /** Told why a transfer failed: the front-end hears no more than that it did. */
  readonly refusals: Refusals;
}

/** SET_DEVICE_STATE_FD was not done. */
const FAILED = 1;

/** The device's state on its way to or from the front-end; one at a time. */
export class StateTransfer {
  #done: Promise<boolean> | undefined;
  #abort = new AbortController();
  /** The session ends: nothing begins any more. */
  #cancelled = false;

  register(on: Register, host: TransferHost): void {
    on(vu.SET_DEVICE_STATE_FD, (body, luggage) => this.#asked(decodeDeviceState(body), luggage, host));
    on(vu.CHECK_DEVICE_STATE, async () => u64((await this.finish()) ? 0 : FAILED));
  }

  async #asked(what: DeviceStateTransfer, luggage: Luggage, host: TransferHost): Promise<Handled> {
    const pipe = luggage.one();
    const known = what.direction === vu.STATE_SAVE || what.direction === vu.STATE_LOAD;
    const begun = this.#done !== undefined;
    if (!host.suspended() || !known || what.phase !== vu.STATE_PHASE_STOPPED || begun) {
      pipe.close();
      return u64(FAILED);
    }
    if (what.direction === vu.STATE_LOAD) await host.reset();
    if (this.#cancelled) {
      pipe.close();
      return u64(FAILED);
    }
    this.#begin(what.direction === vu.STATE_SAVE ? "save" : "load", host, pipe);
    return u64(vu.VRING_NOFD_MASK);
  }

  /** Takes over the channel. */
  #begin(direction: "save" | "load", { device, refusals }: TransferHost, channel: Descriptor): void {
    this.#abort = new AbortController();
    const transfer = direction === "save" ? saveState : loadState;
    this.#done = transfer(device, channel, this.#abort.signal).then(
      () => true,
      (error: unknown) => {
        if (!this.#abort.signal.aborted) refusals.add(asError(error));
        return false;
      },
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
    this.#cancelled = true;
    this.#abort.abort();
    await this.#done;
  }
}
