import { DriverSession } from "../../driver/session.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import { writeLe32, writeLe64 } from "../../memory/bytes.ts";
import type { Segment } from "../../memory/guest-memory.ts";
import {
  VIRTIO_BLK_CONFIG,
  VIRTIO_BLK_DISCARD_WRITE_ZEROES_SIZE as RANGE_SIZE,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_GEOMETRY,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_SECTOR_SIZE as SECTOR,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from "../../spec/blk.ts";
import { featureBits } from "../../spec/core.ts";
import { VIRTIO_ID_BLK } from "../../spec/ids.ts";
import { type BlkInfo, readInfo } from "./info.ts";
import { type Slot, SlotPool } from "./slots.ts";

export interface BlkDriverOptions {
  /** Requests in flight at a time. Default 8. */
  readonly depth?: number;
  /** Bytes of data in one request; longer transfers become several. A multiple of 512, default 65536. */
  readonly transferSize?: number;
  /** Request queues to use at most, when the device has several. Default all. */
  readonly queues?: number;
}

/** The device ended a request with VIRTIO_BLK_S_IOERR or VIRTIO_BLK_S_UNSUPP. */
export class BlkError extends Error {
  override readonly name = "BlkError";
  readonly status: number;
  /** Request type. */
  readonly type: number;
  readonly sector: number;

  constructor(type: number, sector: number, status: number) {
    const reason = status === VIRTIO_BLK_S_UNSUPP ? "is not supported" : "failed";
    super(`blk: request of type ${type} at sector ${sector} ${reason}`);
    this.status = status;
    this.type = type;
    this.sector = sector;
  }
}

const WANTED: bigint = featureBits(
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_GEOMETRY,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_WRITE_ZEROES,
);
/** No device sets this; a status byte that still holds it was never written. */
const UNWRITTEN = 0xff;
/** Ranges sent in one discard or write zeroes request. */
const MAX_RANGES = 16;
const NOTHING: readonly Segment[] = [];

/** The driver of the block device. Sectors are 512 bytes; buffers are whole sectors. */
export class BlkDriver {
  /** Called when the configuration changed, after `info` did. */
  onChange: (() => void) | undefined;
  readonly #session: DriverSession;
  readonly #queues: readonly DriverVirtqueue[];
  readonly #slots: SlotPool;
  readonly #segmentSize: number;
  readonly #transferSize: number;
  #info: BlkInfo;
  #turn = 0;

  private constructor(
    session: DriverSession,
    { depth = 8, transferSize = 65_536, queues }: BlkDriverOptions,
  ) {
    this.#session = session;
    this.#info = readInfo(session);
    const count = Math.max(1, Math.min(queues ?? this.#info.numQueues, this.#info.numQueues));
    this.#queues = Array.from({ length: count }, (_, index) => session.addQueue(index));
    // Header and status take two descriptors of a chain that may not be longer than the queue.
    const room = Math.min(...this.#queues.map(({ size }) => size)) - 2;
    const segments = Math.max(1, Math.min(this.#info.segMax, room));
    this.#segmentSize = Math.max(SECTOR, wholeSectors(this.#info.sizeMax));
    this.#transferSize = Math.max(SECTOR, wholeSectors(Math.min(transferSize, segments * this.#segmentSize)));
    this.#slots = new SlotPool(session.transport.memory, depth, this.#transferSize);
    session.onConfigChange = () => this.#changed();
    session.ready();
  }

  /** Takes the device over. Throws when it is not a block device, or refuses. */
  static async open(transport: DriverTransport, options: BlkDriverOptions = {}): Promise<BlkDriver> {
    if (transport.deviceId !== VIRTIO_ID_BLK)
      throw new Error(`${transport.name}: device ${transport.deviceId} is no block device`);
    return new BlkDriver(await DriverSession.open(transport, { wanted: WANTED }), options);
  }

  /** What the device says about itself, as of the last configuration change. */
  get info(): BlkInfo {
    return this.#info;
  }

  /** Negotiated features. */
  get features(): bigint {
    return this.#session.features;
  }

  /** Fills the whole of `target` from `sector` on. */
  async read(sector: number, target: Uint8Array): Promise<void> {
    this.#check(sector, target.length);
    await this.#pieces(target.length, async (at, length) => {
      const place = sector + at / SECTOR;
      await this.#request(VIRTIO_BLK_T_IN, place, 0, length, undefined, (data) => target.set(data, at));
    });
  }

  /** Writes whole sectors. With `info.writeback` they are durable after the next `flush`, otherwise at once. */
  async write(sector: number, source: Uint8Array): Promise<void> {
    this.#check(sector, source.length);
    this.#checkWritable();
    await this.#pieces(source.length, async (at, length) => {
      const fill = (data: Uint8Array): void => data.set(source.subarray(at, at + length));
      await this.#request(VIRTIO_BLK_T_OUT, sector + at / SECTOR, length, 0, fill, undefined);
    });
  }

  /** The sectors from `sector` on, `count` of them, piece by piece. */
  async *sectors(sector: number, count: number): AsyncGenerator<Uint8Array, void> {
    this.#check(sector, count * SECTOR);
    const step = this.#transferSize / SECTOR;
    for (let at = sector; at < sector + count; at += step) {
      const piece = new Uint8Array(Math.min(step, sector + count - at) * SECTOR);
      await this.read(at, piece);
      yield piece;
    }
  }

  /** What was written before is durable when this resolves. Nothing to do for a device without a volatile cache. */
  async flush(): Promise<void> {
    if (this.#session.has(VIRTIO_BLK_F_FLUSH))
      await this.#request(VIRTIO_BLK_T_FLUSH, 0, 0, 0, undefined, undefined);
  }

  /** Releases `count` sectors; what they hold afterwards is unspecified. */
  async discard(sector: number, count: number): Promise<void> {
    const limits = this.#info.discard;
    if (limits === undefined) throw new BlkError(VIRTIO_BLK_T_DISCARD, sector, VIRTIO_BLK_S_UNSUPP);
    await this.#ranges(VIRTIO_BLK_T_DISCARD, sector, count, limits, 0);
  }

  /** Makes `count` sectors read as zeroes; with `unmap` their storage may be released. */
  async writeZeroes(sector: number, count: number, unmap: boolean = false): Promise<void> {
    const limits = this.#info.writeZeroes;
    if (limits === undefined) throw new BlkError(VIRTIO_BLK_T_WRITE_ZEROES, sector, VIRTIO_BLK_S_UNSUPP);
    await this.#ranges(VIRTIO_BLK_T_WRITE_ZEROES, sector, count, limits, Number(unmap));
  }

  /** The device ID string. */
  async getId(): Promise<string> {
    let id = "";
    await this.#request(VIRTIO_BLK_T_GET_ID, 0, 0, VIRTIO_BLK_ID_BYTES, undefined, (data) => {
      const end = data.indexOf(0);
      id = String.fromCharCode(...data.subarray(0, end < 0 ? data.length : end));
    });
    return id;
  }

  /** Switches between a writeback and a writethrough cache. Throws when the device does not let us. */
  setWriteback(on: boolean): void {
    if (!this.#session.has(VIRTIO_BLK_F_CONFIG_WCE))
      throw new Error("blk: the device has no VIRTIO_BLK_F_CONFIG_WCE");
    this.#session.writeConfig(VIRTIO_BLK_CONFIG.writeback, Uint8Array.of(Number(on)));
    this.#info = readInfo(this.#session);
  }

  /** Resets the device and gives its memory back; what is outstanding fails. */
  async close(): Promise<void> {
    await this.#session.close();
    this.#slots.close(new Error("blk: the driver was closed"));
  }

  /** "The driver SHOULD check if the content of the capacity field has changed" */
  #changed(): void {
    try {
      this.#info = readInfo(this.#session);
    } catch (error) {
      return this.#session.fail(error);
    }
    this.onChange?.();
  }

  /** "A driver MUST NOT submit a request which would cause a read or write beyond capacity." */
  #check(sector: number, length: number): void {
    if (length % SECTOR !== 0) throw new RangeError(`blk: ${length} bytes are no whole number of sectors`);
    if (!Number.isSafeInteger(sector) || sector < 0 || sector + length / SECTOR > this.#info.capacity)
      throw new RangeError(`blk: ${length / SECTOR} sectors at ${sector} do not fit ${this.#info.capacity}`);
  }

  #checkWritable(): void {
    if (this.#info.readOnly) throw new Error("blk: the device is read-only");
  }

  /** Runs the pieces of a long transfer side by side, and waits for all of them even when one fails. */
  async #pieces(length: number, move: (at: number, length: number) => Promise<void>): Promise<void> {
    const size = this.#transferSize;
    if (length <= size) return length === 0 ? undefined : move(0, length);
    const starts = Array.from({ length: Math.ceil(length / size) }, (_, i) => i * size);
    const results = await Promise.allSettled(starts.map((at) => move(at, Math.min(size, length - at))));
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  async #ranges(
    type: number,
    sector: number,
    count: number,
    limits: { readonly maxSectors: number; readonly maxSegments: number },
    flags: number,
  ): Promise<void> {
    this.#check(sector, count * SECTOR);
    this.#checkWritable();
    const perRange = Math.max(1, limits.maxSectors);
    const room = Math.floor(this.#transferSize / RANGE_SIZE);
    const perRequest = perRange * Math.max(1, Math.min(limits.maxSegments, MAX_RANGES, room));
    for (let at = sector; at < sector + count; at += perRequest) {
      const end = Math.min(sector + count, at + perRequest);
      const length = Math.ceil((end - at) / perRange) * RANGE_SIZE;
      const fill = (data: Uint8Array): void => {
        for (let i = 0, from = at; from < end; i += RANGE_SIZE, from += perRange) {
          writeLe64(data, i, from);
          writeLe32(data, i + 8, Math.min(perRange, end - from));
          writeLe32(data, i + 12, flags);
        }
      };
      await this.#request(type, 0, length, 0, fill, undefined);
    }
  }

  /** One request: `fill` writes the data that the device reads, `take` sees the data that it wrote. */
  async #request(
    type: number,
    sector: number,
    dataOut: number,
    dataIn: number,
    fill: ((data: Uint8Array) => void) | undefined,
    take: ((data: Uint8Array) => void) | undefined,
  ): Promise<void> {
    const slot = await this.#slots.take();
    try {
      const { memory } = this.#session.transport;
      const header = memory.view(slot.header.gpa, slot.header.length);
      writeLe32(header, 0, type);
      writeLe32(header, 4, 0);
      writeLe64(header, 8, sector);
      memory.view(slot.status.gpa, 1)[0] = UNWRITTEN;
      fill?.(memory.view(slot.data, dataOut));
      const queue = this.#queues[this.#turn++ % this.#queues.length];
      const readable = [slot.header, ...this.#segments(slot, dataOut)];
      const writable = [...this.#segments(slot, dataIn), slot.status];
      const written = (await queue?.request(readable, writable)) ?? 0;
      const status = this.#status(slot, written, dataIn);
      if (status !== VIRTIO_BLK_S_OK) throw new BlkError(type, sector, status);
      take?.(memory.view(slot.data, dataIn));
    } finally {
      this.#slots.give(slot);
    }
  }

  #segments({ data }: Slot, length: number): readonly Segment[] {
    if (length === 0) return NOTHING;
    const size = this.#segmentSize;
    if (length <= size) return [{ gpa: data, length }];
    return Array.from({ length: Math.ceil(length / size) }, (_, i) => ({
      gpa: data + i * size,
      length: Math.min(size, length - i * size),
    }));
  }

  /** The status byte, which must lie inside what the device says that it wrote. */
  #status(slot: Slot, written: number, dataIn: number): number {
    const status = this.#session.transport.memory.view(slot.status.gpa, 1)[0] ?? UNWRITTEN;
    // "When using the legacy interface, transitional drivers SHOULD ignore the used length values."
    const short = written !== dataIn + 1 && !this.#session.transport.legacy;
    if (
      !short &&
      (status === VIRTIO_BLK_S_OK || status === VIRTIO_BLK_S_IOERR || status === VIRTIO_BLK_S_UNSUPP)
    )
      return status;
    const fault = short
      ? new VirtioFault("dev.blk.operation", `used length of a request with ${dataIn + 1} writable bytes`, {
          value: written,
        })
      : new VirtioFault("dev.blk.operation", "status byte", { value: status });
    this.#session.fail(fault);
    throw fault;
  }
}

function wholeSectors(bytes: number): number {
  return Math.floor(bytes / SECTOR) * SECTOR;
}
