import { asError } from "./as-error.ts";
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
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
  featureBits,
  hasFeature,
} from "../spec/core.ts";
import { createDriverQueue } from "../virtqueue/create.ts";
import type { DriverTransport, DeviceNotification } from "./types.ts";
import { allocateQueue, freeQueue, type AllocatedQueue } from "./queue-memory.ts";
import { nextTurn } from "./turn.ts";
import { DriverVirtqueue } from "./virtqueue.ts";
import { untilZero } from "./wait.ts";

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

export interface SessionOptions {
  /** Device-type features the driver can use. */
  readonly wanted: bigint;
  /** Those without which it cannot work. */
  readonly required?: bigint;
  /** Ring features it may use; default all of `DRIVER_RING_FEATURES`. */
  readonly ring?: bigint;
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

/** How often a status register is read while waiting for a reset; then the device counts as dead. */
const RESET_POLLS = 10_000;
/** Of those, how many follow each other without a turn of the event loop. */
const QUICK_POLLS = 20;
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
  /** Called on a configuration change notification. A VirtioFault that it throws is the device's, which then has failed. */
  onConfigChange: (() => void) | undefined;
  /** Called once, when the device failed. */
  onFailure: ((error: Error) => void) | undefined;
  readonly #queues: (DriverVirtqueue | undefined)[] = [];
  readonly #memory: AllocatedQueue[] = [];
  #failure: Error | undefined;
  #live = false;
  #suspended = false;
  #closed: Promise<void> | undefined;

  private constructor(transport: DriverTransport, features: bigint) {
    this.transport = transport;
    this.features = features;
    transport.onNotification = (notification) => this.#notified(notification);
  }

  /** Steps 1 to 6: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK read back. Throws when the device refuses. */
  static async open(transport: DriverTransport, options: SessionOptions): Promise<DriverSession> {
    await resetDevice(transport);
    addStatus(transport, VIRTIO_STATUS_ACKNOWLEDGE);
    addStatus(transport, VIRTIO_STATUS_DRIVER);
    const ring = (options.ring ?? DRIVER_RING_FEATURES) & transport.allowedFeatures;
    const offered = transport.readDeviceFeatures();
    let features = offered & (options.wanted | ring);
    if (transport.legacy) features &= 0xffff_ffffn & ~featureBits(VIRTIO_F_NOTIFICATION_DATA);
    features = withoutOrphans(features, options.dependencies ?? []);
    const missing = (options.required ?? 0n) & ~features;
    const modern = hasFeature(features, VIRTIO_F_VERSION_1);
    if (missing !== 0n || (!modern && !transport.legacy)) {
      const what = missing === 0n ? "VIRTIO_F_VERSION_1" : `features 0x${missing.toString(16)}`;
      throw giveUp(transport, `the device does not offer ${what}`);
    }
    transport.writeDriverFeatures(features);
    if (!transport.legacy) {
      addStatus(transport, VIRTIO_STATUS_FEATURES_OK);
      if ((transport.readStatus() & VIRTIO_STATUS_FEATURES_OK) === 0)
        throw giveUp(transport, `the device refuses the features 0x${features.toString(16)}`);
    }
    return new DriverSession(transport, features);
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
    const offered = transport.queueMaxSize(index);
    if (offered === 0) throw giveUp(transport, `the device has no virtqueue ${index}`);
    const packed = this.has(VIRTIO_F_RING_PACKED);
    const size = transport.legacyQueueAlign !== undefined ? offered : queueSize(offered, maxSize, packed);
    const allocated = allocateQueue(transport, {
      index,
      size,
      packed,
      eventIdx: this.has(VIRTIO_F_EVENT_IDX),
      indirect: this.has(VIRTIO_F_INDIRECT_DESC),
      inOrder: this.has(VIRTIO_F_IN_ORDER),
    });
    this.#memory.push(allocated);
    const ring = createDriverQueue(transport.memory, allocated.config, packed, allocated.tables);
    const queue = new DriverVirtqueue(ring, this);
    this.#queues[index] = queue;
    transport.enableQueue(allocated.config);
    return queue;
  }

  /** Step 8, DRIVER_OK: the device is live. */
  ready(): void {
    addStatus(this.transport, VIRTIO_STATUS_DRIVER_OK);
    this.#live = true;
    for (const queue of this.#queues) queue?.kick();
  }

  /**
   * Takes one virtqueue back and leaves the others alone ("Virtqueue Reset"): what is outstanding on it ends with an
   * error. `addQueue` makes it anew. Throws without VIRTIO_F_RING_RESET.
   */
  async resetQueue(index: number): Promise<void> {
    this.#need(VIRTIO_F_RING_RESET, "VIRTIO_F_RING_RESET");
    const queue = this.#queues[index];
    if (queue === undefined) return;
    const error = new Error(`${this.transport.name}: virtqueue ${index} was reset`);
    queue.stop(error);
    await this.transport.resetQueue(index);
    this.#queues[index] = undefined;
    queue.abandon(error);
    const at = this.#memory.findIndex(({ config }) => config.index === index);
    for (const allocated of this.#memory.splice(at, at < 0 ? 0 : 1))
      freeQueue(this.transport.memory, allocated);
  }

  /**
   * Sets SUSPEND and waits until the device has finished what it works on ("Device Suspend"). Until `resume` requests
   * wait, and configuration cannot be written. Throws without VIRTIO_F_SUSPEND.
   */
  async suspend(): Promise<void> {
    this.#need(VIRTIO_F_SUSPEND, "VIRTIO_F_SUSPEND");
    if (this.#suspended || !this.#live) return;
    // What was asked before goes to the device before.
    for (const queue of this.#queues) queue?.kick();
    this.#live = false;
    this.#suspended = true;
    addStatus(this.transport, VIRTIO_STATUS_SUSPEND);
    await this.#status("suspension", VIRTIO_STATUS_SUSPEND);
  }

  /** Sets DRIVER_OK again and waits until the device runs; what waited is then offered. */
  async resume(): Promise<void> {
    if (!this.#suspended) return;
    addStatus(this.transport, VIRTIO_STATUS_DRIVER_OK);
    await this.#status("resumption", VIRTIO_STATUS_DRIVER_OK);
    this.#suspended = false;
    this.#live = true;
    for (const queue of this.#queues) queue?.kick();
  }

  /**
   * Resets the device, ends what is outstanding with an error, and gives its memory back. Only the first call does: the
   * device may be another driver's by then.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { transport } = this;
    this.#live = false;
    this.#suspended = false;
    const error = new Error(`${transport.name}: the driver was closed`);
    this.#failure ??= error;
    transport.onNotification = undefined;
    // Requests end and memory goes back only after it: "a driver MUST ensure a virtqueue isn't live (by device reset) before
    // removing exposed buffers". When it fails the memory stays the device's.
    const reset = await resetDevice(transport).then(
      () => undefined,
      (problem: unknown) => asError(problem),
    );
    this.#end(error);
    if (reset === undefined)
      for (const allocated of this.#memory.splice(0)) freeQueue(transport.memory, allocated);
    transport.close?.();
    if (reset !== undefined) throw reset;
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
    // A device that cannot be reached is not told.
    try {
      if (this.transport.failure === undefined) addStatus(this.transport, VIRTIO_STATUS_FAILED);
    } catch {
      // Nobody may have known yet that it cannot.
    }
    this.#end(reason);
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

  /** Waits until of SUSPEND and DRIVER_OK just this one is set. */
  async #status(what: string, bit: number): Promise<void> {
    const both = VIRTIO_STATUS_SUSPEND | VIRTIO_STATUS_DRIVER_OK;
    const { transport } = this;
    let status = 0;
    await untilZero(`${transport.name}: ${what}`, () => {
      status = transport.readStatus();
      return (status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) !== 0 || (status & both) === bit ? 0 : 1;
    });
    if ((status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) === 0) return;
    this.fail(this.#needsReset);
    throw this.#failure ?? new Error(what);
  }

  #end(error: Error): void {
    this.#failure ??= error;
    for (const queue of this.#queues) queue?.abandon(error);
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

function addStatus(transport: DriverTransport, bit: number): void {
  transport.writeStatus(transport.readStatus() | bit);
}

async function resetDevice(transport: DriverTransport): Promise<void> {
  transport.writeStatus(0);
  for (let polls = 0; transport.readStatus() !== 0; polls++) {
    if (polls === RESET_POLLS) throw new Error(`${transport.name}: the reset never completes`);
    // Most resets are over at once; a device that waits for its disk or network needs the event loop.
    await (polls < QUICK_POLLS ? Promise.resolve() : nextTurn());
  }
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

function giveUp(transport: DriverTransport, reason: string): Error {
  addStatus(transport, VIRTIO_STATUS_FAILED);
  return new Error(`${transport.name}: ${reason}`);
}

/** The device's offer, cut to what the driver wants; a split ring needs a power of two. */
function queueSize(offered: number, wanted: number, packed: boolean): number {
  const size = Math.min(offered, wanted);
  return packed ? size : 2 ** Math.floor(Math.log2(size));
}
