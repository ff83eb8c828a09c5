import { VirtioFault } from "../fault.ts";
import type { DescriptorChain, DeviceQueue } from "../virtqueue/types.ts";
import type { QueueCounters } from "./counters.ts";
import { type DeviceContext, LATER, type QueueSpec, type RunningQueue } from "./device.ts";
import type { ObservedDevice, VirtioObserver } from "./observer.ts";
import type { QueueMode } from "./queue-registers.ts";
import type { Scheduler } from "./scheduler.ts";

/** What a running queue needs from the device instance it belongs to. */
export interface RunnerHost extends ObservedDevice {
  readonly observer: VirtioObserver | undefined;
  readonly scheduler: Scheduler;
  /** Chains served in a row before the clock is asked. */
  readonly budget: number;
  notifyDriver(queue: number): void;
  /** The driver broke a rule, or a handler failed: stop the device. */
  fail(fault: VirtioFault): void;
  /** A queue that was draining has nothing in flight any more. */
  drained(): void;
}

/** Milliseconds that one queue may hold the event loop. */
const TIME_BUDGET = 4;
/** Moving this many bytes is as much work as another chain. */
const BYTES_OF_WORK = 16_384;
/** Used elements are published after so much work at least; whether the driver is notified is decided once for all of them. */
const PUBLISH_AFTER = 8;

/**
 * One enabled virtqueue. Serves chains through the `serve` of its QueueSpec, or lends the ring to a device that pops
 * by itself. Faults of the driver end here.
 */
export class QueueRunner implements RunningQueue {
  readonly index: number;
  readonly size: number;
  readonly #queue: DeviceQueue;
  readonly #spec: QueueSpec;
  readonly #context: DeviceContext;
  readonly #host: RunnerHost;
  readonly #counters: QueueCounters;
  /** False after a reset: nothing of this ring is touched again. */
  #live = true;
  #paused = false;
  #mode: QueueMode = "serve";
  /** The device is suspended: the ring is not touched at all. What a device completes meanwhile waits in `#late`. */
  #frozen = false;
  readonly #late: { readonly chain: DescriptorChain; readonly written: number }[] = [];
  #running = false;
  /** The transport looks by itself just now. */
  #looked = false;
  /** A chain was popped, and the device is at it: a fault now is not one of the ring's. */
  #serving = false;
  /** The ring needs a translation that memory does not have yet; the next notification tries again. */
  #waiting = false;
  #again = false;
  #flushPlanned = false;
  #lazyPlanned = false;
  /** Work since used elements were published. */
  #unpublished = 0;
  /** Chains that `serve` left for later. */
  #pending = 0;
  readonly #run = (): void => this.run();

  constructor(
    queue: DeviceQueue,
    spec: QueueSpec,
    context: DeviceContext,
    host: RunnerHost,
    counters: QueueCounters,
  ) {
    this.index = queue.config.index;
    this.size = queue.config.size;
    this.#queue = queue;
    this.#spec = spec;
    this.#context = context;
    this.#host = host;
    this.#counters = counters;
  }

  /** The ring itself, for save. */
  get ring(): DeviceQueue {
    return this.#queue;
  }

  /** Nothing of the driver's is left for later. */
  get idle(): boolean {
    return this.#pending === 0;
  }

  /** Called for an available buffer notification, at activation, and after a pause. */
  run(): void {
    if (!this.#live || this.#paused || this.#mode === "hold") return;
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#turn(undefined);
  }

  /**
   * For a transport that looks at the ring instead of waiting for notifications: serves what is there, and leaves
   * notifications off until `rest`. False: nothing was there.
   */
  look(): boolean {
    if (!this.#live || this.#paused || this.#running || this.#mode === "hold") return false;
    if (this.#spec.serve === undefined) return false;
    this.#looked = true;
    let first: DescriptorChain | undefined;
    try {
      first = this.#queue.popAvailable();
    } catch (error) {
      this.#broken(error);
      // The notification that tries again comes with the translation.
      this.#waiting = false;
      return false;
    }
    if (first === undefined) return false;
    this.#turn(first);
    return true;
  }

  /** After `look`: asks for notifications again, and serves what came before that. False: nothing did. */
  rest(): boolean {
    if (!this.#looked) return false;
    this.#looked = false;
    const { chains } = this.#counters;
    this.run();
    return this.#counters.chains !== chains;
  }

  /** `first` was popped already. */
  #turn(first: DescriptorChain | undefined): void {
    this.#running = true;
    try {
      if (this.#spec.serve === undefined) this.#spec.refilled?.(this.#context);
      else this.#pump(first);
    } catch (error) {
      this.#broken(error);
    } finally {
      this.#running = false;
      this.#serving = false;
    }
    if (this.#waiting) {
      this.#waiting = false;
      this.flush();
    }
    if (this.#again) {
      this.#again = false;
      this.#host.scheduler.soon(this.#run);
    }
  }

  /** After a reset: completions still to come are dropped and never written into a ring the driver has taken back. */
  abandon(): void {
    this.#live = false;
  }

  /** Runs again when it may. */
  setMode(mode: QueueMode): void {
    this.#mode = mode;
    if (mode !== "hold") this.run();
  }

  /** Takes no more chains. */
  pause(): void {
    this.#paused = true;
  }

  /** "A device MUST NOT send any notifications for any virtqueues, access any virtqueues … while suspended." */
  freeze(): void {
    this.#frozen = true;
  }

  resume(): void {
    this.#paused = false;
    if (this.#frozen) {
      this.#frozen = false;
      for (const { chain, written } of this.#late.splice(0)) this.addUsed(chain, written);
      this.flush();
    }
    this.run();
  }

  popAvailable(): DescriptorChain | undefined {
    if (!this.#live || this.#paused || this.#mode !== "serve") return undefined;
    try {
      const chain = this.#queue.popAvailable();
      if (chain === undefined) {
        // A device that pops by itself asks when it wants buffers; it must hear of the next ones.
        if (this.#queue.setNotifications(true)) return this.#countChain(this.#queue.popAvailable());
        return undefined;
      }
      return this.#countChain(chain);
    } catch (error) {
      this.#broken(error);
      return undefined;
    }
  }

  addUsed(chain: DescriptorChain, written: number): void {
    if (!this.#live) return;
    if (this.#frozen) return void this.#late.push({ chain, written });
    this.#host.observer?.used?.(this.#host, this.index, chain, written);
    this.#counters.writtenBytes += written;
    try {
      if (this.#context.memory.logging === true) this.#logWrites(chain, written);
      this.#queue.addUsed(chain, written);
    } catch (error) {
      // The ring's memory may be gone by now; anything else is the caller's own mistake.
      if (!(error instanceof VirtioFault)) throw error;
      this.#broken(error);
    }
  }

  unpop(chain: DescriptorChain): void {
    if (!this.#live) return;
    this.#counters.chains--;
    this.#counters.readableBytes -= chain.readableLength;
    this.#queue.unpop(chain);
  }

  flush(): void {
    if (!this.#live || this.#frozen) return;
    try {
      if (!this.#queue.takeNotification()) return;
    } catch (error) {
      this.#broken(error);
      return;
    }
    this.#counters.notificationsSent++;
    this.#host.observer?.notification?.(this.#host, "used", this.index);
    this.#host.notifyDriver(this.index);
  }

  /** After so much more work: whether to publish. A driver that looks at the ring goes on while we do. */
  #publishes(work: number): boolean {
    this.#unpublished += work;
    if (this.#unpublished < PUBLISH_AFTER) return false;
    this.#unpublished = 0;
    return true;
  }

  #publish(): void {
    this.#unpublished = 0;
    if (!this.#live || this.#frozen) return;
    try {
      this.#queue.publish();
    } catch (error) {
      this.#broken(error);
    }
  }

  flushLazily(): void {
    const { scheduler } = this.#host;
    if (scheduler.idle === undefined) return this.flush();
    if (!this.#live || this.#frozen) return;
    this.#publish();
    if (this.#lazyPlanned) return;
    this.#lazyPlanned = true;
    scheduler.idle(this.#lazyFlush);
  }

  readonly #lazyFlush = (): void => {
    this.#lazyPlanned = false;
    this.flush();
  };

  /** Notifications off, serve until the ring is empty or the budget spent, notifications on, look again. */
  #pump(first: DescriptorChain | undefined): void {
    const { scheduler, budget } = this.#host;
    const deadline = scheduler.now() + TIME_BUDGET;
    this.#queue.setNotifications(false);
    let work = 0;
    for (let next = first; ; next = undefined) {
      const chain = next ?? this.#queue.popAvailable();
      if (chain === undefined) {
        this.flush();
        if (!this.#live || this.#looked || !this.#queue.setNotifications(true)) return;
        this.#queue.setNotifications(false);
      } else {
        const cost = workOf(chain);
        work += cost;
        this.#serve(chain);
        if (!this.#live || this.#paused || this.#mode === "hold") return this.flush();
        // A fault ends this turn.
        if (this.#publishes(cost)) this.#queue.publish();
        if (work < budget) continue;
        work = 0;
        if (scheduler.now() < deadline) continue;
        this.flush();
        return scheduler.later(this.#run);
      }
    }
  }

  #serve(chain: DescriptorChain): void {
    this.#countChain(chain);
    if (this.#mode === "discard") return this.addUsed(chain, 0);
    this.#serving = true;
    const written = this.#spec.serve?.(chain, this.#context) ?? 0;
    this.#serving = false;
    if (typeof written === "number" && written !== LATER) return this.addUsed(chain, written);
    this.#pending++;
    if (written === LATER) return;
    this.#host.scheduler.promised?.();
    written.then(
      (done) => this.complete(chain, done),
      (error: unknown) => this.#failed(error),
    );
  }

  complete(chain: DescriptorChain, written: number): void {
    this.#pending--;
    // The reset that took the ring back may wait for it.
    if (!this.#live) {
      this.#host.scheduler.promised?.();
      if (this.#pending === 0) this.#host.drained();
      return;
    }
    // Used chains are the ring's again.
    const work = workOf(chain);
    this.addUsed(chain, written);
    if (this.#publishes(work)) this.#publish();
    this.#planFlush();
    if (this.#pending === 0) this.#host.drained();
  }

  #failed(error: unknown): void {
    this.#pending--;
    if (this.#live) this.#broken(error);
    if (this.#pending === 0) this.#host.drained();
  }

  /** Completions that come together are published together. */
  #planFlush(): void {
    if (this.#paused) return this.flush();
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    const { scheduler } = this.#host;
    if (scheduler.afterwards !== undefined) return scheduler.afterwards(this.#plannedFlush);
    void Promise.resolve().then(() => scheduler.soon(this.#plannedFlush));
  }

  readonly #plannedFlush = (): void => {
    this.#flushPlanned = false;
    this.flush();
  };

  #countChain(chain: DescriptorChain | undefined): DescriptorChain | undefined {
    if (chain === undefined) return undefined;
    this.#counters.chains++;
    this.#counters.readableBytes += chain.readableLength;
    this.#host.observer?.available?.(this.#host, this.index, chain);
    return chain;
  }

  #logWrites(chain: DescriptorChain, written: number): void {
    let left = written;
    for (const { gpa, length } of chain.writable) {
      if (left <= 0) return;
      this.#context.memory.wrote(gpa, Math.min(length, left));
      left -= length;
    }
  }

  #broken(error: unknown): void {
    if (error instanceof VirtioFault && !this.#serving && this.#context.memory.awaits?.(error) === true) {
      this.#waiting = true;
      return;
    }
    this.#counters.faults++;
    if (error instanceof VirtioFault) return this.#host.fail(error);
    const reason = error instanceof Error ? error.message : String(error);
    const fault = new VirtioFault("host.bug", `the device's handler failed: ${reason}`, {
      queue: this.index,
    });
    fault.cause = error;
    this.#host.fail(fault);
  }
}

function workOf(chain: DescriptorChain): number {
  return 1 + Math.floor((chain.readableLength + chain.writableLength) / BYTES_OF_WORK);
}
