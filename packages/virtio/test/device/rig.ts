import { areaSizes, placeRing } from "@virtio/testkit/ring/place";
import { RawPackedDriver } from "@virtio/testkit/ring/raw-packed";
import { RawSplitDriver } from "@virtio/testkit/ring/raw-split";
import type { Element, RawDriver } from "@virtio/testkit/ring/raw";
import { Arena, TestMemory } from "@virtio/testkit/ring/test-memory";
import type { DeviceContext, MaybePromise, VirtioDevice } from "../../src/device/device.ts";
import { SUPPORTED_CORE_FEATURES } from "../../src/device/features.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import type { InstanceOptions } from "../../src/device/options.ts";
import type { Scheduler } from "../../src/device/scheduler.ts";
import type { VirtioFault } from "../../src/fault.ts";
import { VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, featureBits, hasFeature } from "../../src/spec/core.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";

export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const SUSPEND = 16;
export const NEEDS_RESET = 64;
export const FAILED = 128;
export const RUNNING: number = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

export const DATA = 0x10_0000;
const QUEUE_SIZE = 8;
export const MODERN: bigint = featureBits(VIRTIO_F_VERSION_1);

/** A request that waits until the test answers it. */
export interface Request {
  readonly chain: DescriptorChain;
  /** Completes it with so many bytes. */
  done(written: number): void;
  fail(error: Error): void;
}

/** A device under the test's hand: virtqueue 0 is served, virtqueue 1 is popped by the device itself. */
export class ProbeDevice implements VirtioDevice {
  readonly id: number = 4;
  readonly name: string = "probe";
  features = 0b111n;
  readonly dependencies = [{ feature: 1, needs: [[0]] }];
  readonly calls: string[] = [];
  readonly requests: Request[] = [];
  readonly configBytes: Uint8Array = Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]);
  context: DeviceContext | undefined;
  /** What `serve` does; absent: the request waits. */
  serve: ((chain: DescriptorChain) => MaybePromise<number>) | undefined;
  onReset: (() => MaybePromise<void>) | undefined;
  onRefilled: (() => void) | undefined;
  refuses: string | undefined;
  saved: unknown = { probe: 1 };
  readonly queues: VirtioDevice["queues"] = [
    { name: "workq", maxSize: QUEUE_SIZE, serve: (chain) => this.#serve(chain) },
    { name: "eventq", maxSize: QUEUE_SIZE, refilled: () => this.#refilled() },
  ];
  readonly config: NonNullable<VirtioDevice["config"]> = {
    length: 8,
    read: (offset, target) => target.set(this.configBytes.subarray(offset, offset + target.length)),
    write: (offset, source) => this.configBytes.set(source, offset),
  };

  refuse(): string | undefined {
    return this.refuses;
  }

  activate(context: DeviceContext): void {
    this.context = context;
    this.calls.push("activate");
  }

  reset(): MaybePromise<void> {
    this.calls.push("reset");
    return this.onReset?.();
  }

  resetQueue(index: number): void {
    this.calls.push(`resetQueue ${index}`);
  }

  save(): unknown {
    return this.saved;
  }

  restore(state: unknown): void {
    if (typeof state !== "object" || state === null || !("probe" in state) || state.probe !== 1)
      throw new Error("not a probe's state");
    this.calls.push("restore");
  }

  #refilled(): void {
    this.calls.push("refilled");
    this.onRefilled?.();
  }

  #serve(chain: DescriptorChain): MaybePromise<number> {
    if (this.serve !== undefined) return this.serve(chain);
    return new Promise((resolve, reject) => this.requests.push({ chain, done: resolve, fail: reject }));
  }
}

/** A device instance on registers worked by hand, with naive drivers on both of its virtqueues. */
export class Rig {
  readonly memory: TestMemory;
  readonly device: ProbeDevice;
  readonly instance: DeviceInstance;
  readonly faults: VirtioFault[] = [];
  /** Used buffer notifications, by virtqueue; "config" for the other kind. */
  readonly notifications: (number | "config")[] = [];
  readonly later: (() => void)[] = [];
  time = 0;
  driver: RawDriver[] = [];
  readonly #arena = new Arena(0x1000);

  /** `memory`: of another rig, whose guest goes on on this one. */
  constructor(
    options: Partial<Omit<InstanceOptions, "memory">> & { readonly memory?: TestMemory } = {},
    device: ProbeDevice = new ProbeDevice(),
  ) {
    this.device = device;
    this.memory = options.memory ?? new TestMemory([0x1000, 0x1000], [0x4000, 0x4000], [DATA, 4096]);
    const scheduler: Scheduler = {
      soon: (task) => task(),
      later: (task) => void this.later.push(task),
      now: () => this.time,
    };
    this.instance = new DeviceInstance(device, {
      label: "probe0",
      features: SUPPORTED_CORE_FEATURES,
      scheduler,
      ...options,
      memory: this.memory,
    });
    this.instance.notifier = {
      usedBuffer: (queue) => void this.notifications.push(queue),
      configurationChange: () => void this.notifications.push("config"),
    };
    this.instance.onFault = (fault) => void this.faults.push(fault);
  }

  get status(): number {
    return this.instance.status;
  }

  set(bits: number): void {
    this.instance.writeStatus(this.instance.status | bits);
  }

  accept(features: bigint): void {
    for (let window = 0; window < 4; window++)
      this.instance.writeDriverFeatures(window, Number((features >> BigInt(32 * window)) & 0xffff_ffffn));
  }

  /** To FEATURES_OK. */
  negotiate(features: bigint = MODERN): void {
    this.set(ACKNOWLEDGE);
    this.set(DRIVER);
    this.accept(features);
    this.set(FEATURES_OK);
  }

  /** Rings on both virtqueues, zeroed. */
  enable(indexes: readonly number[] = [0, 1]): void {
    for (const index of indexes) {
      const features = this.instance.driverFeatures;
      const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
      const shape = { packed, size: QUEUE_SIZE, index, eventIdx: hasFeature(features, 29) };
      const config = placeRing(this.#arena, shape);
      const sizes = areaSizes(shape);
      this.memory.poke(config.descriptorArea, new Uint8Array(sizes.descriptor));
      this.memory.poke(config.driverArea, new Uint8Array(sizes.driver));
      this.memory.poke(config.deviceArea, new Uint8Array(sizes.device));
      const tables = new Arena(0x4000 + 0x2000 * index);
      this.driver[index] = packed
        ? new RawPackedDriver(this.memory, config, tables)
        : new RawSplitDriver(this.memory, config, tables);
      const queue = this.instance.queue(index);
      if (queue === undefined) throw new Error(`no queue ${index}`);
      queue.size = config.size;
      queue.setArea("descriptorArea", "low", config.descriptorArea);
      queue.setArea("driverArea", "low", config.driverArea);
      queue.setArea("deviceArea", "low", config.deviceArea);
      queue.enable();
    }
  }

  /** All the way to DRIVER_OK. */
  start(features: bigint = MODERN): void {
    this.negotiate(features);
    this.enable();
    this.set(DRIVER_OK);
  }

  /** Offers one buffer and notifies. */
  offer(elements: readonly Element[] = REQUEST, queue = 0): number {
    const driver = this.driver[queue];
    const token = driver?.offer(elements);
    if (driver === undefined || token === undefined) throw new Error("no room in the ring");
    if (driver.publish()) this.instance.notify(queue);
    return token;
  }

  used(queue = 0): readonly { readonly token: number; readonly written: number | undefined }[] {
    return this.driver[queue]?.collect() ?? [];
  }

  /** Runs what was left for later, until nothing is. */
  runLater(): void {
    for (let task = this.later.shift(); task !== undefined; task = this.later.shift()) task();
  }
}

/** One readable and one writable element. */
export const REQUEST: readonly Element[] = [
  { gpa: DATA, length: 8, writable: false },
  { gpa: DATA + 64, length: 16, writable: true },
];

/** Lets promises settle. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 30; i++) await Promise.resolve();
}
