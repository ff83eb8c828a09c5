import { abortReason, orAborted, throwIfAborted } from "./abort.ts";
import { asError } from "./as-error.ts";
import { checkSession } from "./check-session.ts";
import { VirtioFault } from "../fault.ts";
import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  VIRTIO_STATUS_ACKNOWLEDGE,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
  featureBits,
  hasFeature,
} from "../spec/core.ts";
import { createDriverQueue } from "../virtqueue/create.ts";
import type { DriverTransport, DeviceNotification } from "./types.ts";
import { addStatus, closeQuietly, isGone, resetDevice, setFailed } from "./device-status.ts";
import { allocateQueue, freeQueue, type AllocatedQueue } from "./queue-memory.ts";
import { LentMemory } from "./lent-memory.ts";
import { Turns } from "./turns.ts";
import { DriverVirtqueue, type CancelSignal } from "./virtqueue.ts";
import { checkAlive, untilDone } from "./wait.ts";

/** Ring features that every driver here can use; a transport takes away what it cannot carry. */
export const DRIVER_RING_FEATURES: bigint = featureBits(
  VIRTIO_F_VERSION_1,
  // "A driver SHOULD accept VIRTIO_F_ACCESS_PLATFORM if it is offered": devices may not work without it.
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  // "A driver SHOULD accept VIRTIO_F_NOTIF_CONFIG_DATA if it is offered": the transport does the rest.
  VIRTIO_F_NOTIF_CONFIG_DATA,
);

/** What every driver can be opened with. */
export interface DriverOpenOptions {
  /** Ring features it may use; default all of `DRIVER_RING_FEATURES`. */
  readonly ring?: bigint | undefined;
  /** Ends the opening: the device is given up then, as after any other failure. */
  readonly signal?: CancelSignal | undefined;
}

export interface SessionOptions extends DriverOpenOptions {
  /** The device type that the driver is for, with a word for it that fits behind "is no". Default any. */
  readonly type?: { readonly id: number; readonly name: string };
  /** Bytes of configuration space that every device of the type has, and the driver reads. Default 0. */
  readonly config?: number;
  /** Throws on an option of the driver that cannot be. Called before the device is touched. */
  readonly check?: () => void;
  /** Device-type features the driver can use. */
  readonly wanted: bigint;
  /** Those of them that its user does not want. Default none. */
  readonly without?: bigint | undefined;
  /** Those without which it cannot work. */
  readonly required?: bigint;
  /**
   * Which wanted features need which others (one of each inner list; bit numbers). What misses something is not
   * accepted, even when the device offers it.
   */
  readonly dependencies?: readonly FeatureNeeds[];
}

/** A feature and what it needs, as bit numbers. */
export interface FeatureNeeds {
  readonly feature: number;
  readonly needs: readonly (readonly number[])[];
}

/** How often a changing configuration is read again. */
const CONFIG_RETRIES = 100;

/**
 * A driver's hold on a device, from reset to reset: the initialisation sequence that all drivers share ("Device
 * Initialization"), configuration, virtqueues, and what happens when the device fails.
 */
export class DriverSession {
  readonly transport: DriverTransport;
  /** What was negotiated. */
  readonly features: bigint;
  /** For all that the device is given: what was allocated here goes back at the end by itself. */
  readonly memory: LentMemory;
  /** Called on a configuration change notification. A VirtioFault that it throws is the device's, which then has failed. */
  onConfigChange: (() => void) | undefined;
  /** Called once, when the device failed. */
  onFailure: ((error: Error) => void) | undefined;
  readonly #queues: (DriverVirtqueue | undefined)[] = [];
  readonly #allocated: (AllocatedQueue | undefined)[] = [];
  /** Virtqueues that are being reset. */
  readonly #resets: (Promise<void> | undefined)[] = [];
  /** Suspensions and resumptions, one after the other. */
  readonly #power = new Turns();
  #failure: Error | undefined;
  #live = false;
  #suspended = false;
  #closed: Promise<void> | undefined;
  /** The driver was never brought up. */
  #givenUp = false;
  /** Nobody waits for the reset any more. */
  #cut: Error | undefined;

  private constructor(transport: DriverTransport, features: bigint) {
    this.transport = transport;
    this.features = features;
    this.memory = new LentMemory(transport.memory);
    transport.onNotification = (notification) => this.#notified(notification);
  }

  /**
   * Steps 1 to 6: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK read back. Throws when the device is of another type or
   * refuses, and on abort; its status is FAILED then, and the transport closed. On an option that cannot be it throws a RangeError
   * or TypeError that names it; the transport is closed then as well, and the device was never touched.
   */
  static async open(transport: DriverTransport, options: SessionOptions): Promise<DriverSession> {
    try {
      checkBefore(transport, options);
    } catch (error) {
      closeQuietly(transport);
      throw error;
    }
    try {
      return new DriverSession(transport, await negotiate(transport, options));
    } catch (error) {
      setFailed(transport);
      closeQuietly(transport);
      throw error;
    }
  }

  /**
   * Opens a session and brings a driver up on it. Whatever `bring` throws, the device is given up: it is reset, memory and
   * interrupts go back, and its status is FAILED ("the driver SHOULD set the FAILED status bit to indicate that it has given up
   * on the device").
   */
  static async start<T>(
    transport: DriverTransport,
    options: SessionOptions,
    bring: (session: DriverSession) => T | Promise<T>,
  ): Promise<T> {
    const { signal } = options;
    const session = await DriverSession.open(transport, options);
    try {
      throwIfAborted(signal);
      const driver = await orAborted(Promise.resolve(bring(session)), signal);
      throwIfAborted(signal);
      return driver;
    } catch (error) {
      await session.#giveUp(asError(error), signal);
      throw error;
    }
  }

  has(feature: number): boolean {
    return hasFeature(this.features, feature);
  }

  /** Why the device cannot be used any more. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /**
   * A consistent piece of configuration space: read again until the generation stands still ("Device Configuration
   * Space"). Throws when it never does.
   */
  readConfig(offset: number, length: number): Uint8Array {
    const { transport } = this;
    const known = transport.configLength;
    if (known !== undefined && offset + length > known)
      throw new RangeError(`${transport.name}: configuration space ends at ${known}, not ${offset + length}`);
    const bytes = new Uint8Array(length);
    for (let attempt = 0; attempt < CONFIG_RETRIES; attempt++) {
      const before = transport.configGeneration();
      transport.readConfig(offset, bytes);
      if (transport.configGeneration() === before) return bytes;
    }
    throw new VirtioFault("drv.core.config", `configuration never stood still in ${CONFIG_RETRIES} reads`);
  }

  /** Throws while the device is suspended. */
  writeConfig(offset: number, source: Uint8Array): void {
    if (this.#suspended) throw new Error(`${this.transport.name}: the device is suspended`);
    this.transport.writeConfig(offset, source);
  }

  /** Step 7, once for each virtqueue the driver uses, and again after `resetQueue`. Throws when the device has no such virtqueue. */
  addQueue(index: number, maxSize: number = 256): DriverVirtqueue {
    const { transport } = this;
    if (this.#failure !== undefined) throw this.#failure;
    const offered = transport.queueMaxSize(index);
    if (offered === 0) {
      setFailed(transport);
      throw new Error(`${transport.name}: the device has no virtqueue ${index}`);
    }
    const packed = this.has(VIRTIO_F_RING_PACKED);
    const size = transport.legacyQueueAlign !== undefined ? offered : queueSize(offered, maxSize, packed);
    const allocated = allocateQueue(this.memory, transport.legacyQueueAlign, {
      index,
      size,
      packed,
      eventIdx: this.has(VIRTIO_F_EVENT_IDX),
      indirect: this.has(VIRTIO_F_INDIRECT_DESC),
      inOrder: this.has(VIRTIO_F_IN_ORDER),
    });
    const ring = createDriverQueue(transport.memory, allocated.config, packed, allocated.tables);
    const queue = new DriverVirtqueue(ring, this);
    // From here on the memory may be the device's, even if this throws.
    transport.enableQueue(allocated.config);
    this.#allocated[index] = allocated;
    this.#queues[index] = queue;
    return queue;
  }

  /** Step 8, DRIVER_OK: the device is live. */
  ready(): void {
    addStatus(this.transport, VIRTIO_STATUS_DRIVER_OK);
    this.#live = true;
    for (const queue of this.#queues) queue?.start();
  }

  /**
   * Takes one virtqueue back and leaves the others alone ("Virtqueue Reset"). Requests that waited end with an error at once; those
   * that the device has when it has let go of them, however long that takes. An abort ends the wait and not the reset. `addQueue`
   * makes the virtqueue anew. Throws without VIRTIO_F_RING_RESET, and when the device fails meanwhile.
   */
  async resetQueue(index: number, signal?: CancelSignal): Promise<void> {
    this.#need(VIRTIO_F_RING_RESET, "VIRTIO_F_RING_RESET");
    const queue = this.#queues[index];
    if (queue === undefined) return;
    throwIfAborted(signal);
    this.#resets[index] ??= this.#takeBack(index, queue).finally(() => (this.#resets[index] = undefined));
    await orAborted(this.#resets[index], signal);
  }

  async #takeBack(index: number, queue: DriverVirtqueue): Promise<void> {
    const error = new Error(`${this.transport.name}: virtqueue ${index} was reset`);
    queue.stop(error);
    try {
      await this.transport.resetQueue(index, () => this.#failure);
    } catch (problem) {
      this.fail(problem);
    }
    if (this.#failure !== undefined) throw this.#failure;
    this.#queues[index] = undefined;
    queue.abandon(error);
    const allocated = this.#allocated[index];
    this.#allocated[index] = undefined;
    if (allocated !== undefined) freeQueue(this.memory, allocated);
  }

  /**
   * Sets SUSPEND and waits until the device has finished what it works on ("Device Suspend"), however long that takes. An abort
   * ends the wait and not the suspension. Until `resume` requests wait, and configuration cannot be written. Throws without
   * VIRTIO_F_SUSPEND, and when the device fails meanwhile.
   */
  async suspend(signal?: CancelSignal): Promise<void> {
    this.#need(VIRTIO_F_SUSPEND, "VIRTIO_F_SUSPEND");
    await this.#power.take(() => this.#suspend(), signal);
  }

  /** Sets DRIVER_OK again and waits until the device runs; what waited is then offered. A suspension under way comes first. */
  async resume(signal?: CancelSignal): Promise<void> {
    await this.#power.take(() => this.#resume(), signal);
  }

  async #suspend(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (!this.#live) return;
    // What was asked before goes to the device before.
    for (const queue of this.#queues) queue?.kick();
    this.#live = false;
    this.#suspended = true;
    await this.#changeStatus(VIRTIO_STATUS_SUSPEND);
  }

  async #resume(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (!this.#suspended) return;
    await this.#changeStatus(VIRTIO_STATUS_DRIVER_OK);
    this.#suspended = false;
    this.#live = true;
    for (const queue of this.#queues) queue?.start();
  }

  /**
   * Resets the device, ends what is outstanding with an error, and gives all memory back. Waits for the reset however long it takes;
   * an abort ends that a few turns of the event loop later, and what the device has not let go of by then stays its own. Only the
   * first call does anything: the device may be another driver's by then. Rejects when the device was not reset.
   */
  close(signal?: CancelSignal): Promise<void> {
    this.#closed ??= this.#end(new Error(`${this.transport.name}: the driver was closed`));
    return this.#orCut(this.#closed, signal);
  }

  /** Everything ends with this error, once the device holds nothing of it any more. */
  async #end(error: Error): Promise<void> {
    const { transport } = this;
    this.#live = false;
    this.#suspended = false;
    this.#failure ??= error;
    this.memory.end(error);
    transport.onNotification = undefined;
    // Requests end and memory goes back only after it: "a driver MUST ensure a virtqueue isn't live (by device reset) before
    // removing exposed buffers". When it fails the memory stays the device's, unless that is gone.
    const problem = await resetDevice(transport, () => this.#cut).then(
      () => undefined,
      (reason: unknown) => asError(reason),
    );
    for (const queue of this.#queues) queue?.abandon(error);
    if (problem === undefined || (await isGone(transport, problem))) this.memory.giveBack();
    if (this.#givenUp) setFailed(transport);
    transport.close?.();
    if (problem !== undefined) throw problem;
  }

  /** It could not be brought up. */
  async #giveUp(error: Error, signal: CancelSignal | undefined): Promise<void> {
    this.onFailure = undefined;
    this.onConfigChange = undefined;
    this.#givenUp = true;
    this.#closed ??= this.#end(error);
    // What is thrown is why the driver could not be brought up.
    await this.#orCut(this.#closed, signal).catch(() => undefined);
  }

  /** An abort ends the wait for the reset. */
  async #orCut(end: Promise<void>, signal: CancelSignal | undefined): Promise<void> {
    if (signal === undefined) return end;
    const cut = (): void => void (this.#cut ??= abortReason(signal));
    if (signal.aborted) cut();
    signal.addEventListener("abort", cut);
    try {
      await end;
    } finally {
      signal.removeEventListener("abort", cut);
    }
  }

  // ---- VirtqueueHost

  /** Between DRIVER_OK and reset: "MUST NOT send any buffer available notifications … before setting DRIVER_OK". */
  get live(): boolean {
    return this.#live;
  }

  notify(index: number, data: number): void {
    this.transport.notify(index, this.has(VIRTIO_F_NOTIFICATION_DATA) ? data : undefined);
  }

  looksAgain(index: number, found: boolean): boolean {
    return this.transport.looksAgain?.(index, found) ?? false;
  }

  /** The device broke a rule, or cannot be reached: tell it so, and end everything. */
  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    const reason = asError(error);
    setFailed(this.transport);
    this.#failure = reason;
    for (const queue of this.#queues) queue?.abandon(reason);
    this.onFailure?.(reason);
  }

  #isBroken(): boolean {
    const { transport } = this;
    return (
      transport.failure !== undefined || (transport.readStatus() & VIRTIO_STATUS_DEVICE_NEEDS_RESET) !== 0
    );
  }

  get #needsReset(): Error {
    const { failure, name } = this.transport;
    return failure ?? new Error(`${name}: the device needs a reset`);
  }

  #need(feature: number, name: string): void {
    if (!this.has(feature)) throw new Error(`${this.transport.name}: ${name} was not negotiated`);
  }

  /** Sets one of SUSPEND and DRIVER_OK, and waits until of the two just this one is set. */
  async #changeStatus(bit: number): Promise<void> {
    const { transport } = this;
    const both = VIRTIO_STATUS_SUSPEND | VIRTIO_STATUS_DRIVER_OK;
    try {
      addStatus(transport, bit);
      await untilDone(
        () => {
          checkAlive(transport);
          return (transport.readStatus() & both) === bit;
        },
        () => this.#failure,
      );
    } catch (error) {
      this.fail(error);
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  #configChanged(): void {
    try {
      this.onConfigChange?.();
    } catch (error) {
      if (!(error instanceof VirtioFault)) throw error;
      this.fail(error);
    }
  }

  #notified({ queue, used, configuration }: DeviceNotification): void {
    if (this.#failure !== undefined) return;
    if (configuration) {
      if (this.#isBroken()) return this.fail(this.#needsReset);
      this.#configChanged();
    }
    if (!used) return;
    if (queue === undefined) for (const each of this.#queues) each?.poll();
    else this.#queues[queue]?.poll();
  }
}

/** What can be refused without a look at the device's registers. */
function checkBefore(transport: DriverTransport, options: SessionOptions): void {
  const { type, check } = options;
  checkSession(transport.name, options);
  check?.();
  if (type !== undefined && transport.deviceId !== type.id)
    throw new Error(`${transport.name}: device ${transport.deviceId} is no ${type.name}`);
}

/** Steps 1 to 6; gives what was negotiated. */
async function negotiate(transport: DriverTransport, options: SessionOptions): Promise<bigint> {
  const { signal, config = 0, without = 0n } = options;
  throwIfAborted(signal);
  const { configLength } = transport;
  if (configLength !== undefined && configLength < config)
    throw new Error(
      `${transport.name}: ${config} bytes of configuration space are needed, there are ${configLength}`,
    );
  await resetDevice(transport, () => (signal?.aborted === true ? abortReason(signal) : undefined));
  throwIfAborted(signal);
  addStatus(transport, VIRTIO_STATUS_ACKNOWLEDGE);
  addStatus(transport, VIRTIO_STATUS_DRIVER);
  const ring = (options.ring ?? DRIVER_RING_FEATURES) & transport.allowedFeatures;
  let features = transport.readDeviceFeatures() & ((options.wanted & ~without) | ring);
  if (transport.legacy) features &= 0xffff_ffffn & ~featureBits(VIRTIO_F_NOTIFICATION_DATA);
  features = withoutOrphans(features, options.dependencies ?? []);
  const missing = (options.required ?? 0n) & ~features;
  const modern = hasFeature(features, VIRTIO_F_VERSION_1);
  if (missing !== 0n || (!modern && !transport.legacy)) {
    const what = missing === 0n ? "VIRTIO_F_VERSION_1" : `features 0x${missing.toString(16)}`;
    throw new Error(`${transport.name}: the device does not offer ${what}`);
  }
  transport.writeDriverFeatures(features);
  if (transport.legacy) return features;
  addStatus(transport, VIRTIO_STATUS_FEATURES_OK);
  if ((transport.readStatus() & VIRTIO_STATUS_FEATURES_OK) === 0)
    throw new Error(`${transport.name}: the device refuses the features 0x${features.toString(16)}`);
  return features;
}

/** Takes away what needs something that is not there, until nothing does. */
function withoutOrphans(features: bigint, dependencies: readonly FeatureNeeds[]): bigint {
  for (let kept = features; ;) {
    for (const { feature, needs } of dependencies) {
      const met = needs.every((any) => any.some((bit) => hasFeature(kept, bit)));
      if (!met) kept &= ~featureBits(feature);
    }
    if (kept === features) return kept;
    features = kept;
  }
}

/** The device's offer, cut to what the driver wants; a split ring needs a power of two. */
function queueSize(offered: number, wanted: number, packed: boolean): number {
  const size = Math.min(offered, wanted);
  return packed ? size : 2 ** Math.floor(Math.log2(size));
}
