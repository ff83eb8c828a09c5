import type { VirtioFault } from "../fault.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import type { DeviceContext, RunningQueue } from "./device.ts";
import { watchOf, type DeviceWatch, type WatchedDevice } from "./hint.ts";
import type { Scheduler } from "./scheduler.ts";
import { SteppedWork } from "./stepped-work.ts";
import { turnsOf } from "./turns.ts";

/** What an activation may ask of the device instance it belongs to. */
export interface ActivationHost extends WatchedDevice {
  readonly memory: GuestMemory;
  readonly scheduler: Scheduler;
  runningQueue(index: number): RunningQueue | undefined;
  configChanged(): void;
  reportFault(fault: VirtioFault): void;
}

/** What a device type gets between DRIVER_OK and reset. A dead one answers nothing and does nothing. */
export class Activation implements DeviceContext {
  readonly memory: GuestMemory;
  readonly features: bigint;
  readonly watch: DeviceWatch | undefined;
  readonly #host: ActivationHost;
  #live = true;

  constructor(host: ActivationHost, features: bigint) {
    this.memory = host.memory;
    this.features = features;
    this.watch = watchOf(host);
    this.#host = host;
  }

  get live(): boolean {
    return this.#live;
  }

  end(): void {
    this.#live = false;
  }

  inTurns(step: () => boolean): void {
    const { scheduler } = this.#host;
    const turns = turnsOf(scheduler);
    turns.wait(new SteppedWork(turns, scheduler, step));
  }

  queue(index: number): RunningQueue | undefined {
    return this.#live ? this.#host.runningQueue(index) : undefined;
  }

  configChanged(): void {
    if (this.#live) this.#host.configChanged();
  }

  fail(fault: VirtioFault): void {
    if (this.#live) this.#host.reportFault(fault);
  }
}
