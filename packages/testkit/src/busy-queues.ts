import type { DeviceContext, VirtioDevice } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import type { QueueRegisters } from "virtio/device/queue-registers";
import type { Scheduler } from "virtio/device/scheduler";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_VERSION_1 } from "virtio/spec/core";
import { createDriverQueue } from "virtio/virtqueue/create";
import type { DriverQueue } from "virtio/virtqueue/types";

const SIZE = 16;
/** Guest memory of one virtqueue: three areas of a page and a buffer. */
const STRIDE = 0x4000;
const QUEUE_MEMORY = 0x1000;

export interface BusyQueuesOptions {
  readonly queues: number;
  /** Milliseconds of the processor that a chain takes. */
  readonly chainMs: number;
  /** The device pops its queues by itself. Default: the pump serves them. */
  readonly pops?: boolean;
}

/**
 * A device whose drivers never stop: whenever a chain was served, all of its virtqueue is full again. They notify after each chain,
 * whether or not the device asks for it.
 */
export class BusyQueues implements Busy {
  readonly instance: DeviceInstance;
  /** Chains served, by virtqueue. */
  readonly served: number[];
  stopped = false;
  onServed: (() => void) | undefined;
  readonly #drivers: DriverQueue[] = [];
  readonly #chainMs: number;

  constructor(scheduler: Scheduler, { queues, chainMs, pops = false }: BusyQueuesOptions) {
    this.#chainMs = chainMs;
    this.served = Array.from({ length: queues }, () => 0);
    const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(QUEUE_MEMORY + queues * STRIDE) }]);
    const device: VirtioDevice = {
      id: 4,
      name: "busy",
      features: 0n,
      queues: this.served.map((_, index) => ({
        name: `queue${index}`,
        maxSize: SIZE,
        ...(pops
          ? { refilled: (context: DeviceContext) => this.#pop(index, context) }
          : { serve: () => this.#work(index) }),
      })),
    };
    this.instance = new DeviceInstance(device, { label: `busy${queues}`, memory, scheduler });
    this.instance.writeStatus(1 | 2);
    this.instance.writeDriverFeatures(1, 1 << (VIRTIO_F_VERSION_1 - 32));
    this.instance.writeStatus(1 | 2 | 8);
    for (let index = 0; index < queues; index++) {
      const at = QUEUE_MEMORY + index * STRIDE;
      const areas = { descriptorArea: at, driverArea: at + 0x1000, deviceArea: at + 0x2000 };
      const registers = this.queue(index);
      Object.assign(registers, { size: SIZE, ...areas });
      registers.enable();
      this.#drivers.push(createDriverQueue(memory, { index, size: SIZE, ...areas }, false));
    }
    this.instance.writeStatus(1 | 2 | 8 | 4);
  }

  queue(index: number): QueueRegisters {
    const queue = this.instance.queue(index);
    if (queue === undefined) throw new Error(`no virtqueue ${index}`);
    return queue;
  }

  /** The driver of each virtqueue fills it and notifies. */
  start(): void {
    for (let index = 0; index < this.served.length; index++) {
      this.#refill(index);
      this.instance.notify(index);
    }
  }

  /** One buffer for a virtqueue, and a notification. */
  request(index: number): void {
    while (this.#drivers[index]?.popUsed() !== undefined);
    this.#offer(index);
    this.instance.notify(index);
  }

  #work(index: number): number {
    const end = performance.now() + this.#chainMs;
    while (performance.now() < end);
    this.served[index] = (this.served[index] ?? 0) + 1;
    this.onServed?.();
    if (!this.stopped && this.#chainMs > 0) {
      this.#refill(index);
      this.instance.notify(index);
    }
    return 0;
  }

  #pop(index: number, context: DeviceContext): void {
    const queue = context.queue(index);
    for (let chain = queue?.popAvailable(); chain !== undefined; chain = queue?.popAvailable())
      queue?.addUsed(chain, this.#work(index));
    queue?.flush();
  }

  #refill(index: number): void {
    while (this.#drivers[index]?.popUsed() !== undefined);
    while (this.#offer(index));
  }

  #offer(index: number): boolean {
    const gpa = QUEUE_MEMORY + index * STRIDE + 0x3000;
    const token = this.#drivers[index]?.addAvailable([{ gpa, length: 64 }], []);
    this.#drivers[index]?.takeNotification();
    return token !== undefined;
  }
}

/** The longest waits in milliseconds of the processor, of this process. */
export interface Waits {
  /** Of a timer of the host that is due after 1 ms. */
  readonly timer: number;
  /** Of a request to another device on the same scheduler. */
  readonly device: number;
}

/** What keeps devices on a scheduler busy until it is stopped. */
export interface Busy {
  stopped: boolean;
  start(): void;
}

/** So many times a timer of 1 ms, and with each a request to another device, while `busy` is. */
export async function waitsBeside(busy: Busy, scheduler: Scheduler, times: number): Promise<Waits> {
  const other = new BusyQueues(scheduler, { queues: 1, chainMs: 0 });
  let timer = 0;
  let device = 0;
  let asked: number | undefined;
  other.onServed = () => {
    if (asked !== undefined) device = Math.max(device, processorTime() - asked);
    asked = undefined;
  };
  busy.start();
  for (let i = 0; i < times; i++) {
    const before = processorTime();
    await new Promise((resolve) => setTimeout(resolve, 1));
    timer = Math.max(timer, processorTime() - before);
    if (asked !== undefined) continue;
    asked = processorTime();
    other.request(0);
  }
  busy.stopped = true;
  return { timer, device };
}

/**
 * The least of several rounds of `waitsBeside`, after one for the compiler. A machine that does much else now and then charges us for
 * what it does; what the devices cost is there in each round.
 */
export async function leastWaits(
  busy: Busy,
  scheduler: Scheduler,
  times: number,
  rounds: number,
): Promise<Waits> {
  let least: Waits = { timer: Infinity, device: Infinity };
  for (let round = 0; round <= rounds; round++) {
    busy.stopped = false;
    const { timer, device } = await waitsBeside(busy, scheduler, times);
    if (round > 0) least = { timer: Math.min(least.timer, timer), device: Math.min(least.device, device) };
  }
  return least;
}

/** Milliseconds that this process has worked. */
function processorTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
