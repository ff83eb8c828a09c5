import type { Busy } from "@virtio/testkit/busy-queues";
import type { BlockBackend } from "../../src/backends/block.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import type { Scheduler } from "../../src/device/scheduler.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { writeLe32 } from "../../src/memory/bytes.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { VIRTIO_BLK_T_IN } from "../../src/spec/blk.ts";
import { VIRTIO_F_VERSION_1 } from "../../src/spec/core.ts";
import { createDriverQueue } from "../../src/virtqueue/create.ts";
import type { DriverQueue } from "../../src/virtqueue/types.ts";

const QUEUE_SIZE = 1024;
const AREAS = { descriptorArea: 0, driverArea: 0x5000, deviceArea: 0x6000 };
const RANGE_SIZE = 16;
const HEADER = 0x9000;
const STATUS = 0xa000;
const DATA = 0x10000;
/** The data of a request is this again and again. */
const DATA_SIZE = 8 << 20;

/** What a driver asks for all the time. */
export interface DiskRequest {
  readonly type: number;
  /** Bytes of data of a read or write. */
  readonly length?: number;
  /** Ranges in sectors, of a discard or of write zeroes. */
  readonly ranges?: readonly { readonly sector: number; readonly sectors: number }[];
}

/** A disk whose driver fills the virtqueue with the same long request whenever there is room. */
export class BusyDisk implements Busy {
  stopped = false;
  /** Statuses of the requests that ended. */
  readonly statuses: number[] = [];
  #refills = false;
  readonly #instance: DeviceInstance;
  readonly #driver: DriverQueue;
  readonly #memory: RegionMemory;
  readonly #request: DiskRequest;

  constructor(backend: BlockBackend, scheduler: Scheduler, request: DiskRequest) {
    this.#request = request;
    this.#memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(DATA + DATA_SIZE) }]);
    const device = new BlkDevice(backend, { queueSize: QUEUE_SIZE });
    this.#instance = new DeviceInstance(device, { label: "disk", memory: this.#memory, scheduler });
    this.#instance.writeStatus(1 | 2);
    this.#instance.writeDriverFeatures(0, Number(BigInt.asUintN(32, device.features)));
    this.#instance.writeDriverFeatures(1, 1 << (VIRTIO_F_VERSION_1 - 32));
    this.#instance.writeStatus(1 | 2 | 8);
    const registers = this.#instance.queue(0);
    Object.assign(registers ?? {}, { size: QUEUE_SIZE, ...AREAS });
    registers?.enable();
    this.#instance.writeStatus(1 | 2 | 8 | 4);
    this.#driver = createDriverQueue(this.#memory, { index: 0, size: QUEUE_SIZE, ...AREAS }, false);
    writeLe32(this.#memory.view(HEADER, 16), 0, request.type);
  }

  /** Fills the virtqueue, now and in each turn of the loop. */
  start(): void {
    this.#refill();
    if (!this.#refills) setImmediate(this.#refillAgain);
    this.#refills = true;
  }

  readonly #refillAgain = (): void => {
    this.#refills = !this.stopped;
    if (this.stopped) return;
    this.#refill();
    setImmediate(this.#refillAgain);
  };

  #refill(): void {
    while (this.#driver.popUsed() !== undefined) this.statuses.push(this.#memory.view(STATUS, 1)[0] ?? -1);
    while (this.#offer());
    this.#driver.takeNotification();
    this.#instance.notify(0);
  }

  #offer(): boolean {
    const { type, length = 0, ranges = [] } = this.#request;
    const data = Array.from({ length: length / DATA_SIZE }, () => ({ gpa: DATA, length: DATA_SIZE }));
    const readable = [{ gpa: HEADER, length: 16 }];
    const writable = [{ gpa: STATUS, length: 1 }];
    if (type === VIRTIO_BLK_T_IN) writable.unshift(...data);
    else readable.push(...data);
    if (ranges.length > 0) readable.push({ gpa: DATA, length: ranges.length * RANGE_SIZE });
    ranges.forEach(({ sector, sectors }, i) => {
      const range = this.#memory.view(DATA + i * RANGE_SIZE, RANGE_SIZE);
      writeLe32(range, 0, sector);
      writeLe32(range, 8, sectors);
    });
    return this.#driver.addAvailable(readable, writable) !== undefined;
  }
}
