import type { Segment } from "../memory/guest-memory.ts";
import type { DriverQueue } from "../virtqueue/types.ts";
import { abortReason } from "./abort.ts";

/** The part of an AbortSignal that is needed; every JavaScript host has one. */
export interface CancelSignal {
  readonly aborted: boolean;
  readonly reason?: unknown;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** What a virtqueue needs of the session it belongs to. */
export interface VirtqueueHost {
  /** Why the device cannot be used any more, or undefined. */
  readonly failure: Error | undefined;
  /** Between DRIVER_OK and reset, and not suspended. */
  readonly live: boolean;
  notify(index: number, data: number): void;
  /** After a look at the virtqueue: whether there will be another one soon without a notification. */
  looksAgain(index: number, found: boolean): boolean;
  /** The device broke a rule, or cannot be reached. */
  fail(error: unknown): void;
}

type Completion = (written: number, error?: Error) => void;

interface Waiting {
  readonly readable: readonly Segment[];
  readonly writable: readonly Segment[];
  readonly done: Completion;
}

const SETTLED = Promise.resolve();
/** Requests that are made together are made available together, but not more of them: the device can begin. */
const KICK_EVERY = 8;
/** Requests that wait for room in the ring. Beyond this a driver is told to slow down. */
const MAX_WAITING = 65_536;

/** A virtqueue in the hands of a driver: offers buffers and hears when they are used. */
export class DriverVirtqueue {
  readonly index: number;
  readonly #ring: DriverQueue;
  readonly #host: VirtqueueHost;
  /** By token. */
  readonly #completions: (Completion | undefined)[] = [];
  readonly #waiting: Waiting[] = [];
  #outstanding = 0;
  /** Requests that were made and not kicked. */
  #unpublished = 0;
  #kickPlanned = false;
  /** The driver took this virtqueue back. */
  #stopped: Error | undefined;

  constructor(ring: DriverQueue, host: VirtqueueHost) {
    this.index = ring.config.index;
    this.#ring = ring;
    this.#host = host;
    ring.setNotifications(true);
  }

  /** Queue Size. */
  get size(): number {
    return this.#ring.config.size;
  }

  /** Descriptors that can be offered now. */
  get free(): number {
    return this.#ring.free;
  }

  /** Chains with the device. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /**
   * Offers one chain, notifies the device (of all that is offered before the next await), and resolves with the bytes it
   * wrote. Waits for room when the ring is full, and for the device to run. Rejects when the device fails or is reset, and on
   * abort. An aborted request that still waited is never sent; the buffers of one that the device has are the device's until it
   * uses them or is reset. `released` is called once, when the buffers are the caller's again, however the request ended.
   */
  request(
    readable: readonly Segment[],
    writable: readonly Segment[],
    signal?: CancelSignal,
    released?: () => void,
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      const done: Completion = (written, error) => {
        signal?.removeEventListener("abort", aborted);
        released?.();
        if (error === undefined) resolve(written);
        else reject(error);
      };
      const aborted = (): void => {
        if (signal === undefined) return;
        if (this.#withdraw(done)) done(0, abortReason(signal));
        else reject(abortReason(signal));
      };
      if (signal?.aborted === true) return done(0, abortReason(signal));
      signal?.addEventListener("abort", aborted);
      this.submit(readable, writable, done);
    });
  }

  /** As `request`, without a promise: `done` gets the bytes written, or an error; at once when there cannot be a request. */
  submit(readable: readonly Segment[], writable: readonly Segment[], done: Completion): void {
    this.#offer(readable, writable, done);
    if (++this.#unpublished >= KICK_EVERY) this.#kickOrFail();
    else if (!this.#kickPlanned) {
      this.#kickPlanned = true;
      void SETTLED.then(this.#plannedKick);
    }
  }

  /**
   * Offers one chain without a promise, for receive queues; `kick` publishes. `done` gets the bytes written, or an
   * error when the device failed or was reset. False: the ring is full.
   */
  post(readable: readonly Segment[], writable: readonly Segment[], done: Completion): boolean {
    if (this.#failure !== undefined) return false;
    const token = this.#ring.addAvailable(readable, writable);
    if (token === undefined) return false;
    this.#completions[token] = done;
    this.#outstanding++;
    return true;
  }

  /** The device runs: what waited for that is offered. */
  start(): void {
    this.#offerWaiting();
    this.kick();
  }

  /**
   * Publishes what was posted and sends the available buffer notification that is due. Before DRIVER_OK it waits: the
   * session does it when the device is live.
   */
  kick(): void {
    this.#unpublished = 0;
    if (this.#failure === undefined && this.#host.live && this.#ring.takeNotification())
      this.#host.notify(this.index, this.#ring.notificationData);
  }

  readonly #plannedKick = (): void => {
    this.#kickPlanned = false;
    if (this.#unpublished > 0) this.#kickOrFail();
  };

  /** Of many requests, maybe in nobody's call: a device that cannot be told of them ends them all. */
  #kickOrFail(): void {
    try {
      this.kick();
    } catch (error) {
      this.#host.fail(error);
    }
  }

  /** Looks for used buffers: called by the session on a notification, or by whoever polls. */
  poll(): void {
    if (this.#failure !== undefined) return;
    try {
      const found = this.#reap();
      if (this.#host.looksAgain(this.index, found)) {
        this.#ring.setNotifications(false);
        return;
      }
      while (this.#ring.setNotifications(true)) this.#reap();
    } catch (error) {
      this.#host.fail(error);
    }
  }

  /**
   * Takes no more requests: those that wait end with this error at once. What the device has is still the device's, until
   * `abandon`.
   */
  stop(error: Error): void {
    this.#stopped ??= error;
    for (const { done } of this.#waiting.splice(0)) done(0, error);
  }

  /** The device is gone: everything still with it, or waiting, ends with this error. */
  abandon(error: Error): void {
    for (const { done } of this.#waiting.splice(0)) done(0, error);
    for (const done of this.#completions.splice(0)) done?.(0, error);
    this.#outstanding = 0;
  }

  /** False: nothing was used. */
  #reap(): boolean {
    let found = false;
    for (let used = this.#ring.popUsed(); used !== undefined; used = this.#ring.popUsed()) {
      found = true;
      const { token, written } = used;
      const done = this.#completions[token];
      this.#completions[token] = undefined;
      this.#outstanding--;
      done?.(written);
      if (this.#failure !== undefined) return true;
    }
    this.#offerWaiting();
    return found;
  }

  get #failure(): Error | undefined {
    return this.#stopped ?? this.#host.failure;
  }

  #offer(readable: readonly Segment[], writable: readonly Segment[], done: Completion): void {
    const failure = this.#failure;
    if (failure !== undefined) return done(0, failure);
    const count = readable.length + writable.length;
    if (count === 0 || count > this.size)
      return done(0, new RangeError(`a chain of ${count} buffers does not fit a virtqueue of ${this.size}`));
    // Until the device runs nothing is put into the ring, so that it can still be taken back.
    if (this.#waiting.length === 0 && this.#host.live && this.post(readable, writable, done)) return;
    if (this.#waiting.length >= MAX_WAITING)
      return done(0, new RangeError("too many requests wait for the device"));
    this.#waiting.push({ readable, writable, done });
  }

  /** True: it waited, and will not be sent. */
  #withdraw(done: Completion): boolean {
    const at = this.#waiting.findIndex((waiting) => waiting.done === done);
    if (at < 0) return false;
    this.#waiting.splice(at, 1);
    // What waited behind it may need less room.
    try {
      this.#offerWaiting();
    } catch (error) {
      this.#host.fail(error);
    }
    return true;
  }

  #offerWaiting(): void {
    if (!this.#host.live) return;
    let offered = 0;
    try {
      for (const { readable, writable, done } of this.#waiting) {
        if (!this.post(readable, writable, done)) break;
        offered++;
      }
    } finally {
      this.#waiting.splice(0, offered);
    }
    if (offered > 0) this.kick();
  }
}
