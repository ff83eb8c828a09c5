import { patientScheduler } from "../patient-scheduler.ts";
import type { VirtioDevice } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import type { VirtioFault } from "virtio/fault";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import { placeRing } from "../ring/place.ts";
import { RawPackedDriver } from "../ring/raw-packed.ts";
import { RawSplitDriver } from "../ring/raw-split.ts";
import type { Element, RawDriver } from "../ring/raw.ts";
import { Arena, TestMemory } from "../ring/test-memory.ts";

/** Bits of the device status. */
export const STATUS = {
  /** ACKNOWLEDGE and DRIVER. */
  setUp: 3,
  featuresOk: 8,
  driverOk: 4,
  needsReset: 64,
} as const;

const RINGS = 0x1000;
const RINGS_LENGTH = 0x8000;
const TABLES = 0x2_0000;
const TABLES_LENGTH = 0x8000;
/** Where buffers lie. */
export const BUFFERS = 0x10_0000;
/** Bytes. */
export const BUFFERS_LENGTH: number = 192 * 1024;
/** A device of many virtqueues is tested on the first ones. */
const MOST_QUEUES = 10;
const QUEUE_SIZE = 8;

/** A device of any type in the hands of a driver that knows nothing of its type. */
export class DeviceRig {
  readonly memory: TestMemory;
  readonly instance: DeviceInstance;
  readonly faults: VirtioFault[] = [];
  notifications = 0;
  drivers: RawDriver[] = [];
  readonly #packed: boolean;

  constructor(device: VirtioDevice, packed: boolean, memory?: TestMemory) {
    this.memory =
      memory ?? new TestMemory([RINGS, RINGS_LENGTH], [TABLES, TABLES_LENGTH], [BUFFERS, BUFFERS_LENGTH]);
    this.#packed = packed;
    const core = featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC);
    this.instance = new DeviceInstance(device, {
      label: device.name,
      scheduler: patientScheduler,
      memory: this.memory,
      features: packed ? core | featureBits(VIRTIO_F_RING_PACKED) : core,
    });
    this.instance.notifier = {
      usedBuffer: () => void this.notifications++,
      configurationChange: () => void this.notifications++,
    };
    this.instance.onFault = (fault) => void this.faults.push(fault);
  }

  set(bits: number): void {
    this.instance.writeStatus(this.instance.status | bits);
  }

  /** Accepts these features; false: the device did not keep FEATURES_OK. */
  negotiate(features: bigint = this.instance.offered): boolean {
    this.set(STATUS.setUp);
    for (let window = 0; window < 4; window++)
      this.instance.writeDriverFeatures(window, Number((features >> BigInt(32 * window)) & 0xffff_ffffn));
    this.set(STATUS.featuresOk);
    return (this.instance.status & STATUS.featuresOk) !== 0;
  }

  /** To DRIVER_OK with all that is offered and rings on all virtqueues. */
  start(): void {
    if (!this.negotiate()) throw new Error("the device refuses what it offers");
    this.memory.poke(RINGS, new Uint8Array(RINGS_LENGTH));
    const rings = new Arena(RINGS);
    this.drivers = [];
    for (let index = 0; index < Math.min(this.instance.queueCount, MOST_QUEUES); index++) {
      const queue = this.instance.queue(index);
      if (queue === undefined) throw new Error(`no virtqueue ${index}`);
      const size = Math.min(QUEUE_SIZE, queue.maxSize);
      const config = placeRing(rings, { packed: this.#packed, size, index, eventIdx: true, indirect: true });
      const tables = new Arena(TABLES + index * (TABLES_LENGTH / MOST_QUEUES));
      this.drivers.push(
        this.#packed
          ? new RawPackedDriver(this.memory, config, tables)
          : new RawSplitDriver(this.memory, config, tables),
      );
      queue.size = size;
      queue.descriptorArea = config.descriptorArea;
      queue.driverArea = config.driverArea;
      queue.deviceArea = config.deviceArea;
      queue.enable();
    }
    this.set(STATUS.driverOk);
  }

  /** Offers a buffer and notifies. Its token, or undefined when there is no room or no such ring. */
  offer(index: number, elements: readonly Element[]): number | undefined {
    const driver = this.drivers[index];
    const token = driver?.offer(elements);
    if (driver !== undefined && token !== undefined && driver.publish()) this.instance.notify(index);
    return token;
  }
}

/** Turns of the event loop, for devices whose backends take their time. */
export async function turns(count = 3): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}
