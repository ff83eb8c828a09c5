import { VirtioFault } from "../fault.ts";
import type { DescriptorChain, DeviceQueue } from "../virtqueue/types.ts";
import type { QueueCounters } from "./counters.ts";
import { type DeviceContext, LATER, type QueueSpec, type RunningQueue } from "./device.ts";
import type { ObservedDevice, VirtioObserver } from "./observer.ts";
import type { QueueMode } from "./queue-registers.ts";
import type { Scheduler } from "./scheduler.ts";
import type { Runnable, Turns } from "./turns.ts";

/** What a running queue needs from the device instance it belongs to. */
export interface RunnerHost extends ObservedDevice {
  readonly observer: VirtioObserver | undefined;
  readonly scheduler: Scheduler;
  /** Of the scheduler: who works when. */
  readonly turns: Turns;
  /** Chains served in a row before the clock is asked, at most. */
  readonly budget: number;
  notifyDriver(queue: number): void;
  /** The driver broke a rule, or a handler failed: stop the device. */
  fail(fault: VirtioFault): void;
  /** A queue that was draining has nothing in flight any more. */
  drained(): void;
}

/** Moving this many bytes is as much work as another chain. */
const BYTES_OF_WORK = 16_384;
/** So are 2 to the power of this many segments. */
const SEGMENTS_OF_WORK = 4;
/** Milliseconds of work between two looks at the clock: how much a look costs does not matter, and it is a small part of a turn. */
const PACE_MS = 0.1;
/** After so much work a device that pops by itself, on an event of its backend, looks at the clock. */
const POPPED_PACE = 8;
/** Milliseconds that count for so much work, at most, when nothing says when it began. */
const POPPED_MS = 0.25;
/** Used elements are published after so much work at least; whether the driver is notified is decided once for all of them. */
const PUBLISH_AFTER = 8;

/**
 * One enabled virtqueue. Serves chains through the `serve` of its QueueSpec, or lends the ring to a device that pops
 * by itself. Faults of the driver end here.
 */
export class QueueRunner implements RunningQueue, Runnable {
  /** For the planner of turns. */
  waits: Runnable["waits"] = "no";
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
  /** Work after which the clock is asked: what is done in `PACE_MS`, as far as is known. */
  #pace = 1;
  /** A device that pops by itself: work since the clock was asked. */
  #popped = 0;
  /** It has worked for its share of this turn. */
  #tired = false;
  #flushPlanned = false;
  #lazyPlanned = false;
  /** Work since used elements were published. */
  #unpublished = 0;
  /** Chains that `serve` left for later. */
  #pending = 0;

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

  /** An available buffer notification. */
  notified(): void {
    this.#host.turns.notified(this);
  }

  /** Called when the planner of turns says so, at activation, and after a pause. */
  run(): void {
    if (this.#running) this.#again = true;
    else if (this.#mayWork()) this.#turn(undefined);
  }

  /** Whether to work now; if only the time is missing, the turn comes. */
  #mayWork(): boolean {
    if (!this.#live || this.#paused || this.#mode === "hold") return false;
    const { turns } = this.#host;
    if (turns.spent) turns.wait(this);
    return !turns.spent;
  }

  /**
   * For a transport that looks at the ring instead of waiting for notifications: serves what is there, and leaves
   * notifications off until `rest`. False: nothing was there.
   */
  look(): boolean {
    if (!this.#live || this.#paused || this.#running || this.#mode === "hold") return false;
    if (this.#spec.serve === undefined) return false;
    this.#looked = true;
    // Its turn comes, and there may be something then.
    if (this.waits === "turn" || !this.#mayWork()) return true;
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
    return this.#counters.chains !== chains || this.waits === "turn";
  }

  /** `first` was popped already. Again for a notification that comes meanwhile, while there is time. */
  #turn(first: DescriptorChain | undefined): void {
    this.#work(first);
    while (this.#again) {
      this.#again = false;
      if (this.waits === "turn" || !this.#mayWork()) return;
      this.#work(undefined);
    }
  }

  #work(first: DescriptorChain | undefined): void {
    this.#running = true;
    this.#tired = false;
    try {
      if (this.#spec.serve === undefined) this.#refill();
      else this.#pump(first);
    } catch (error) {
      this.#broken(error);
    } finally {
      this.#running = false;
      this.#serving = false;
    }
    if (!this.#waiting) return;
    this.#waiting = false;
    this.flush();
  }

  #refill(): void {
    const { turns } = this.#host;
    this.#popped = 0;
    turns.begin();
    try {
      this.#spec.refilled?.(this.#context);
    } finally {
      turns.end();
    }
  }

  /** After a reset: completions still to come are dropped and never written into a ring the driver has taken back. */
  abandon(): void {
    this.#live = false;
    this.#host.turns.forget(this);
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
    if (!this.#live || this.#paused || this.#mode !== "serve" || !this.#hasTime()) return undefined;
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

  /** Of a device that pops by itself. If not, its turn comes. */
  #hasTime(): boolean {
    const { turns } = this.#host;
    if (!turns.spent && !this.#tired) return true;
    turns.wait(this);
    return false;
  }

  worked(bytes: number): boolean {
    this.#didPopped(1 + Math.floor(bytes / BYTES_OF_WORK));
    return !this.#live || this.#hasTime();
  }

  #didPopped(work: number): void {
    const { turns } = this.#host;
    this.#popped += work;
    if (this.#popped < (this.#running ? this.#pace : POPPED_PACE)) return;
    if (this.#running) {
      this.#tired = turns.over();
      this.#adapt(this.#popped, turns.took);
    } else turns.overAfter(POPPED_MS);
    this.#popped = 0;
  }

  addUsed(chain: DescriptorChain, written: number): void {
    if (!this.#live) return;
    if (this.#spec.serve === undefined) this.#didPopped(workOf(chain));
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

  /** Serves until the ring is empty or the time is used up. */
  #pump(first: DescriptorChain | undefined): void {
    this.#queue.setNotifications(false);
    const chain = first ?? this.#next();
    if (chain === undefined) return;
    const { turns } = this.#host;
    turns.begin();
    try {
      if (this.#serveFrom(chain)) turns.wait(this);
    } finally {
      turns.end();
    }
  }

  /** The next chain; without one: notifications on, and look again. */
  #next(): DescriptorChain | undefined {
    for (;;) {
      const chain = this.#queue.popAvailable();
      if (chain !== undefined) return chain;
      this.flush();
      if (!this.#live || this.#looked || !this.#queue.setNotifications(true)) return undefined;
      this.#queue.setNotifications(false);
    }
  }

  /** True: there may be more, but the time is used up. */
  #serveFrom(first: DescriptorChain): boolean {
    const { turns } = this.#host;
    let work = 0;
    for (let chain: DescriptorChain | undefined = first; chain !== undefined; chain = this.#next()) {
      const cost = workOf(chain);
      work += cost;
      this.#serve(chain);
      if (!this.#live || this.#paused || this.#mode === "hold") {
        this.flush();
        return false;
      }
      // A fault ends this turn.
      if (this.#publishes(cost)) this.#queue.publish();
      if (work < this.#pace) continue;
      const over = turns.over();
      this.#adapt(work, turns.took);
      work = 0;
      if (!over) continue;
      this.flush();
      return true;
    }
    return false;
  }

  /** So much work took so many milliseconds. */
  #adapt(work: number, took: number): void {
    const most = this.#spec.uneven === true ? 1 : Math.min(2 * this.#pace, this.#host.budget);
    this.#pace = took * most > PACE_MS * work ? Math.max(1, Math.floor((PACE_MS * work) / took)) : most;
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
  const segments = chain.readable.length + chain.writable.length;
  const bytes = chain.readableLength + chain.writableLength;
  return 1 + Math.floor(bytes / BYTES_OF_WORK) + (segments >>> SEGMENTS_OF_WORK);
}
