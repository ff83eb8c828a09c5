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
import { saveRegisters, type SavedQueue } from "./state.ts";

/**
 * Rings of earlier lives of a virtqueue that may have unfinished requests while another one runs. A device type whose
 * requests must not overlap says so by a promise of its `reset`; this bounds what resets without end can make us hold.
 */
const FORMER_RINGS = 1;

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
  /** Taken back by the driver while requests of it are still worked on; its successor waits for their end. */
  readonly #leaving: (QueueRunner | undefined)[] = [];
  /** By index: rings of before a device reset whose requests are still worked on. */
  readonly #former: QueueRunner[][];
  /** How many there are of both. */
  #old = 0;
  readonly #waiters: (() => void)[] = [];

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
    this.#former = device.queues.map(() => []);
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
    this.#checkSize(queue, packed);
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

  /** `start` with what the registers say, unless it must wait for requests of earlier rings; the driver's mistakes are faults. */
  tryStart(queue: QueueRegisters, context: DeviceContext): void {
    const { index } = queue;
    const former = this.#former[index]?.length ?? 0;
    if (this.#leaving[index]?.idle === false || former > FORMER_RINGS) return;
    this.#guard(() => this.start(queue, context, queue.start));
  }

  /** What can be said of an enabled queue before its ring is made. */
  check(queue: QueueRegisters, packed: boolean): void {
    this.#guard(() => this.#checkSize(queue, packed));
  }

  #checkSize({ index, size, maxSize }: QueueRegisters, packed: boolean): void {
    if (size <= maxSize && isQueueSize(size, packed)) return;
    const rule = `Queue Size must be ${packed ? "" : "a power of two and "}1 to ${maxSize}`;
    throw new VirtioFault(this.#host.queueClause(), rule, { queue: index, value: size });
  }

  #guard(task: () => void): void {
    try {
      task();
    } catch (error) {
      if (!(error instanceof VirtioFault)) throw error;
      this.#host.fail(error);
    }
  }

  /** The driver took one queue back. */
  drop(index: number): void {
    const runner = this.#runners[index];
    if (runner === undefined) return;
    runner.abandon();
    this.#runners[index] = undefined;
    // Nothing starts while its predecessor is leaving, so that there is only ever one.
    if (!runner.idle) {
      this.#leaving[index] = runner;
      this.#old++;
    }
    this.#device.resetQueue?.(index);
    this.wake();
  }

  /** Device reset: rings and registers. */
  clear(): void {
    this.#runners.forEach((runner, index) => {
      const leaving = this.#leaving[index];
      if (leaving !== undefined) this.#former[index]?.push(leaving);
      if (runner?.idle === false) {
        this.#former[index]?.push(runner);
        this.#old++;
      }
      runner?.abandon();
      this.#runners[index] = this.#leaving[index] = undefined;
    });
    for (const queue of this.registers) queue.clear();
    this.wake();
  }

  /** Somebody waits for requests to end. */
  get awaited(): boolean {
    return this.#old > 0 || this.#waiters.length > 0;
  }

  /** A ring has nothing in flight any more: forgets those that only their requests kept. */
  drained(): void {
    if (this.#old === 0) return;
    for (let index = 0; index < this.registers.length; index++) {
      if (this.#leaving[index]?.idle === true) {
        this.#leaving[index] = undefined;
        this.#old--;
      }
      const former = this.#former[index] ?? [];
      const busy = former.filter((runner) => !runner.idle);
      this.#old -= former.length - busy.length;
      this.#former[index] = busy;
    }
  }

  notify(index: number): void {
    this.#runners[index]?.notified();
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

  /** No request of a ring of this life is worked on, of those that were taken back neither. */
  get idle(): boolean {
    return (
      this.#runners.every((runner) => runner === undefined || runner.idle) &&
      this.#leaving.every((runner) => runner === undefined || runner.idle)
    );
  }

  /** Requests of before a device reset are still worked on. */
  get formerBusy(): boolean {
    return this.#former.some((runners) => runners.length > 0);
  }

  /** Nothing of now or of before is being worked on. */
  get quiet(): boolean {
    return this.idle && !this.formerBusy;
  }

  /** Resolves when something has come to its end; look again then. */
  change(): Promise<void> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  flush(): void {
    for (const runner of this.#runners) runner?.flush();
  }

  async #stopOne(index: number): Promise<QueueState | undefined> {
    const runner = this.#runners[index];
    if (runner === undefined) return undefined;
    runner.pause();
    while (!runner.idle) await this.change();
    if (this.#runners[index] !== runner) return undefined;
    runner.flush();
    return runner.ring.save();
  }

  /** Whoever waits by `change` looks again. */
  wake(): void {
    if (this.#waiters.length === 0) return;
    this.#host.scheduler.promised?.();
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** `rings`: with the places where they stand. Throws an Error when the device still holds chains of one. */
  save(rings: boolean): SavedQueue[] {
    return this.registers.map((registers) => {
      const { index } = registers;
      const saved = saveRegisters(registers.values());
      const ring = this.#runners[index]?.ring;
      if (ring === undefined || !rings) return saved;
      if (ring.inFlight > 0)
        throw new Error(`${ring.inFlight} chains of virtqueue ${index} are not given back`);
      return { ...saved, ring: ring.save() };
    });
  }
}
