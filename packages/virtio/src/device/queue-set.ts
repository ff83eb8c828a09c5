import { VirtioFault } from "../fault.ts";
import { addressOf } from "../memory/address.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  hasFeature,
} from "../spec/core.ts";
import { createDeviceQueue } from "../virtqueue/create.ts";
import { isQueueSize } from "../virtqueue/state.ts";
import type { QueueConfig, QueueStart, QueueState } from "../virtqueue/types.ts";
import { newCounters, type QueueCounters } from "./counters.ts";
import type { DeviceContext, RunningQueue, VirtioDevice } from "./device.ts";
import { QueueRegisters, type QueueArea, type QueueRegistersHost } from "./queue-registers.ts";
import { QueueRunner, type RunnerHost } from "./queue-runner.ts";
import type { SavedQueue } from "./state.ts";

/** What the virtqueues need from the device instance they belong to. */
interface QueueSetHost extends RunnerHost {
  /** The clause about the transport's registers of a virtqueue. */
  queueClause(): string;
}

/** The virtqueues of one device: their registers, the rings that run, and what is waiting for them. */
export class QueueSet {
  readonly registers: readonly QueueRegisters[];
  readonly counters: readonly QueueCounters[];
  readonly #device: VirtioDevice;
  readonly #memory: GuestMemory;
  readonly #host: QueueSetHost;
  readonly #runners: (QueueRunner | undefined)[];
  /** Taken back by the driver while a promise of the device still worked on a chain. */
  readonly #leaving: (QueueRunner | undefined)[] = [];
  readonly #drainWaiters: (() => void)[] = [];
  /** Queues with a notification not yet worked on; one task serves them all. */
  readonly #notified: number[] = [];
  #notifyPlanned = false;
  readonly #runNotified = (): void => this.#serveNotified();

  constructor(
    device: VirtioDevice,
    memory: GuestMemory,
    maxSize: number,
    host: QueueSetHost & Pick<QueueRegistersHost, "enableQueue">,
  ) {
    this.#device = device;
    this.#memory = memory;
    this.#host = host;
    const registersHost: QueueRegistersHost = {
      enableQueue: (queue) => host.enableQueue(queue),
      disableQueue: (queue) => this.drop(queue.index),
      queueBusy: (queue) => this.#leaving[queue.index]?.idle === false,
      stopQueue: (queue) => this.#stopOne(queue.index),
      look: ({ index }) => this.#runners[index]?.look() ?? false,
      rest: ({ index }) => this.#runners[index]?.rest() ?? false,
      modeChanged: ({ index, mode }) => this.#runners[index]?.setMode(mode),
    };
    this.registers = device.queues.map(
      (spec, index) => new QueueRegisters(index, Math.min(spec.maxSize, maxSize), registersHost),
    );
    this.counters = device.queues.map(newCounters);
    this.#runners = device.queues.map(() => undefined);
  }

  running(index: number): RunningQueue | undefined {
    return this.#runners[index];
  }

  /**
   * Makes the ring of an enabled queue; it does not serve yet. Throws a VirtioFault when its registers cannot be, and
   * when `ring` is impossible.
   */
  start(queue: QueueRegisters, context: DeviceContext, ring?: QueueStart): void {
    const spec = this.#device.queues[queue.index];
    const counters = this.counters[queue.index];
    if (spec === undefined || counters === undefined) return;
    const { features } = context;
    const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
    this.checkSize(queue, packed);
    const config: QueueConfig = {
      index: queue.index,
      size: queue.size,
      descriptorArea: this.#area(queue, "descriptorArea"),
      driverArea: this.#area(queue, "driverArea"),
      deviceArea: this.#area(queue, "deviceArea"),
      eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
      indirect: hasFeature(features, VIRTIO_F_INDIRECT_DESC),
      inOrder: hasFeature(features, VIRTIO_F_IN_ORDER),
      longestChain: queue.longestChain,
    };
    const deviceQueue = createDeviceQueue(this.#memory, config, packed, ring);
    const runner = new QueueRunner(deviceQueue, spec, context, this.#host, counters);
    runner.pause();
    runner.setMode(queue.mode);
    this.#runners[queue.index] = runner;
  }

  /** Where an area is for `GuestMemory`; one that memory does not know stays what it is, and is found not to be backed. */
  #area(queue: QueueRegisters, area: QueueArea): number {
    const gpa = addressOf(this.#memory, queue.readArea(area, "low"), queue.readArea(area, "high"));
    return gpa < 0 ? queue[area] : gpa;
  }

  checkSize({ index, size, maxSize }: QueueRegisters, packed: boolean): void {
    if (size <= maxSize && isQueueSize(size, packed)) return;
    const rule = `Queue Size must be ${packed ? "" : "a power of two and "}1 to ${maxSize}`;
    throw new VirtioFault(this.#host.queueClause(), rule, { queue: index, value: size });
  }

  /** The driver took one queue back. */
  drop(index: number): void {
    const runner = this.#runners[index];
    if (runner === undefined) return;
    runner.abandon();
    this.#runners[index] = undefined;
    this.#leaving[index] = runner;
    this.#device.resetQueue?.(index);
    this.wakeDrain();
  }

  /** Device reset: rings and registers. */
  clear(): void {
    this.#runners.forEach((runner, index) => {
      runner?.abandon();
      this.#runners[index] = undefined;
    });
    this.#notified.length = 0;
    this.#leaving.length = 0;
    for (const queue of this.registers) queue.clear();
    this.wakeDrain();
  }

  notify(index: number): void {
    if (this.#runners[index] === undefined || this.#notified.includes(index)) return;
    this.#notified.push(index);
    if (this.#notifyPlanned) return;
    this.#notifyPlanned = true;
    this.#host.scheduler.soon(this.#runNotified);
  }

  /** Takes no more chains. */
  stop(): void {
    for (const runner of this.#runners) runner?.pause();
  }

  /** After `flush`: touches no ring until `resume`. */
  freeze(): void {
    for (const runner of this.#runners) runner?.freeze();
  }

  resume(): void {
    for (const runner of this.#runners) runner?.resume();
  }

  resumeOne(index: number): void {
    this.#runners[index]?.resume();
  }

  /** No promise of a device works on a chain. */
  get idle(): boolean {
    return this.#runners.every((runner) => runner === undefined || runner.idle);
  }

  /** Stops, waits until idle, and publishes what was completed. */
  async drain(): Promise<void> {
    this.stop();
    while (!this.idle) await new Promise<void>((resolve) => this.#drainWaiters.push(resolve));
    this.flush();
  }

  flush(): void {
    for (const runner of this.#runners) runner?.flush();
  }

  async #stopOne(index: number): Promise<QueueState | undefined> {
    const runner = this.#runners[index];
    if (runner === undefined) return undefined;
    runner.pause();
    while (!runner.idle && this.#runners[index] === runner)
      await new Promise<void>((resolve) => this.#drainWaiters.push(resolve));
    if (this.#runners[index] !== runner) return undefined;
    runner.flush();
    return runner.ring.save();
  }

  wakeDrain(): void {
    if (this.#drainWaiters.length === 0) return;
    this.#host.scheduler.promised?.();
    for (const wake of this.#drainWaiters.splice(0)) wake();
  }

  /** `rings`: with the places where they stand. Throws an Error when the device still holds chains of one. */
  save(rings: boolean): SavedQueue[] {
    return this.registers.map(({ index, size, descriptorArea, driverArea, deviceArea, enabled }) => {
      const saved = { size, descriptorArea, driverArea, deviceArea, enabled };
      const ring = this.#runners[index]?.ring;
      if (ring === undefined || !rings) return saved;
      if (ring.inFlight > 0)
        throw new Error(`${ring.inFlight} chains of virtqueue ${index} are not given back`);
      return { ...saved, ring: ring.save() };
    });
  }

  #serveNotified(): void {
    this.#notifyPlanned = false;
    for (let index = this.#notified.shift(); index !== undefined; index = this.#notified.shift())
      this.#runners[index]?.run();
  }
}
