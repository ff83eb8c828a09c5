import { checkTransferOptions, type TransferOptions } from "../../driver/transfer-options.ts";
import { allDone } from "../../all-done.ts";
import { asError } from "../../driver/as-error.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal, DriverVirtqueue } from "../../driver/virtqueue.ts";
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
import { type Slot, SlotPool, STATUS_AT } from "./slots.ts";

/** `queues` is by default all that the device has. */
export interface BlkDriverOptions extends DriverOpenOptions, TransferOptions {}

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

const TYPE = { id: VIRTIO_ID_BLK, name: "block device" };
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
const NO_DATA: Uint8Array = new Uint8Array(0);

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
    this.#slots = new SlotPool(session.memory, depth, this.#transferSize);
    session.onConfigChange = () => this.#changed();
    session.onFailure = (error) => this.#slots.close(error);
    session.ready();
  }

  /** Takes the device over. Throws when it is not a block device, or refuses. */
  static open(transport: DriverTransport, options: BlkDriverOptions = {}): Promise<BlkDriver> {
    const { ring, signal } = options;
    return DriverSession.start(
      transport,
      {
        type: TYPE,
        config: VIRTIO_BLK_CONFIG.size_max,
        wanted: WANTED,
        ring,
        signal,
        check: () => checkTransferOptions("blk", options),
      },
      (session) => new BlkDriver(session, options),
    );
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
  read(sector: number, target: Uint8Array): Promise<void> {
    const refusal = this.#refusal(sector, target.length);
    if (refusal !== undefined) return Promise.reject(refusal);
    return this.#transfer(VIRTIO_BLK_T_IN, sector, target);
  }

  /** Writes whole sectors. With `info.writeback` they are durable after the next `flush`, otherwise at once. */
  write(sector: number, source: Uint8Array): Promise<void> {
    const refusal = this.#refusal(sector, source.length) ?? this.#readOnly;
    if (refusal !== undefined) return Promise.reject(refusal);
    return this.#transfer(VIRTIO_BLK_T_OUT, sector, source);
  }

  /** The sectors from `sector` on, `count` of them, piece by piece. */
  async *sectors(sector: number, count: number): AsyncGenerator<Uint8Array, void> {
    const refusal = this.#refusal(sector, count * SECTOR);
    if (refusal !== undefined) throw refusal;
    const step = this.#transferSize / SECTOR;
    for (let at = sector; at < sector + count; at += step) {
      const piece = new Uint8Array(Math.min(step, sector + count - at) * SECTOR);
      await this.read(at, piece);
      yield piece;
    }
  }

  /** What was written before is durable when this resolves. Nothing to do for a device without a volatile cache. */
  async flush(): Promise<void> {
    if (this.#session.has(VIRTIO_BLK_F_FLUSH)) await this.#request(VIRTIO_BLK_T_FLUSH, 0, NO_DATA, NO_DATA);
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
    const id = new Uint8Array(VIRTIO_BLK_ID_BYTES);
    await this.#request(VIRTIO_BLK_T_GET_ID, 0, NO_DATA, id);
    const end = id.indexOf(0);
    return String.fromCharCode(...id.subarray(0, end < 0 ? id.length : end));
  }

  /** Switches between a writeback and a writethrough cache. Throws when the device does not let us. */
  setWriteback(on: boolean): void {
    if (!this.#session.has(VIRTIO_BLK_F_CONFIG_WCE))
      throw new Error("blk: the device has no VIRTIO_BLK_F_CONFIG_WCE");
    this.#session.writeConfig(VIRTIO_BLK_CONFIG.writeback, Uint8Array.of(Number(on)));
    this.#info = readInfo(this.#session);
  }

  /** Resets the device and gives its memory back; what is outstanding fails. */
  async close(signal?: CancelSignal): Promise<void> {
    const closed = this.#session.close(signal);
    this.#slots.close(new Error("blk: the driver was closed"));
    await closed;
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
  #refusal(sector: number, length: number): RangeError | undefined {
    if (length % SECTOR !== 0) return new RangeError(`blk: ${length} bytes are no whole number of sectors`);
    const { capacity } = this.#info;
    if (Number.isSafeInteger(sector) && sector >= 0 && sector + length / SECTOR <= capacity) return undefined;
    return new RangeError(`blk: ${length / SECTOR} sectors at ${sector} do not fit ${capacity}`);
  }

  get #readOnly(): Error | undefined {
    return this.#info.readOnly ? new Error("blk: the device is read-only") : undefined;
  }

  /** In one request, or in several side by side: then all of them are waited for, also when one fails. */
  #transfer(type: number, sector: number, data: Uint8Array): Promise<void> {
    const { length } = data;
    const size = this.#transferSize;
    if (length > size) {
      const pending: Promise<void>[] = [];
      for (let at = 0; at < length; at += size)
        pending.push(this.#transfer(type, sector + at / SECTOR, data.subarray(at, at + size)));
      return allDone(pending);
    }
    if (length === 0) return Promise.resolve();
    return type === VIRTIO_BLK_T_IN
      ? this.#request(type, sector, NO_DATA, data)
      : this.#request(type, sector, data, NO_DATA);
  }

  async #ranges(
    type: number,
    sector: number,
    count: number,
    limits: { readonly maxSectors: number; readonly maxSegments: number },
    flags: number,
  ): Promise<void> {
    const refusal = this.#refusal(sector, count * SECTOR) ?? this.#readOnly;
    if (refusal !== undefined) throw refusal;
    const perRange = Math.max(1, limits.maxSectors);
    const room = Math.floor(this.#transferSize / RANGE_SIZE);
    const perRequest = perRange * Math.max(1, Math.min(limits.maxSegments, MAX_RANGES, room));
    for (let at = sector; at < sector + count; at += perRequest) {
      const end = Math.min(sector + count, at + perRequest);
      const length = Math.ceil((end - at) / perRange) * RANGE_SIZE;
      const ranges = new Uint8Array(length);
      for (let i = 0, from = at; from < end; i += RANGE_SIZE, from += perRange) {
        writeLe64(ranges, i, from);
        writeLe32(ranges, i + 8, Math.min(perRange, end - from));
        writeLe32(ranges, i + 12, flags);
      }
      await this.#request(type, 0, ranges, NO_DATA);
    }
  }

  /** One request: the device reads `out` and fills `target`. */
  #request(type: number, sector: number, out: Uint8Array, target: Uint8Array): Promise<void> {
    try {
      const slot = this.#slots.take();
      if (slot !== undefined) return this.#send(slot, type, sector, out, target);
    } catch (error) {
      return Promise.reject(asError(error));
    }
    return this.#slots.wait().then((slot) => this.#send(slot, type, sector, out, target));
  }

  #send(slot: Slot, type: number, sector: number, out: Uint8Array, target: Uint8Array): Promise<void> {
    const { failure } = this.#session;
    // After a close the slot's memory is no longer ours.
    if (failure !== undefined) {
      this.#slots.give(slot);
      return Promise.reject(failure);
    }
    return new Promise((resolve, reject) => {
      const ended = (written: number, error?: Error): void => {
        try {
          if (error !== undefined) return reject(error);
          const status = this.#status(slot, written, target.length);
          if (status !== VIRTIO_BLK_S_OK) return reject(new BlkError(type, sector, status));
          if (target.length > 0) target.set(start(slot.dataBytes, target.length));
          resolve();
        } catch (fault) {
          reject(asError(fault));
        } finally {
          this.#slots.give(slot);
        }
      };
      try {
        const frame = slot.frameBytes;
        writeLe32(frame, 0, type);
        writeLe32(frame, 4, 0);
        writeLe64(frame, 8, sector);
        frame[STATUS_AT] = UNWRITTEN;
        if (out.length > 0) slot.dataBytes.set(out);
        const queue = this.#queues[this.#turn++ % this.#queues.length];
        queue?.submit(this.#readable(slot, out.length), this.#writable(slot, target.length), ended);
      } catch (error) {
        // What throws has not begun.
        ended(0, asError(error));
      }
    });
  }

  #readable(slot: Slot, length: number): readonly Segment[] {
    if (length === 0) return slot.headerOnly;
    slot.piece.length = length;
    return length <= this.#segmentSize ? slot.headerAndData : [slot.header, ...this.#segments(slot, length)];
  }

  #writable(slot: Slot, length: number): readonly Segment[] {
    if (length === 0) return slot.statusOnly;
    slot.piece.length = length;
    return length <= this.#segmentSize ? slot.dataAndStatus : [...this.#segments(slot, length), slot.status];
  }

  #segments({ data }: Slot, length: number): Segment[] {
    const size = this.#segmentSize;
    return Array.from({ length: Math.ceil(length / size) }, (_, i) => ({
      gpa: data + i * size,
      length: Math.min(size, length - i * size),
    }));
  }

  /** The status byte, which must lie inside what the device says that it wrote. */
  #status(slot: Slot, written: number, dataIn: number): number {
    const status = slot.frameBytes[STATUS_AT] ?? UNWRITTEN;
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

function start(bytes: Uint8Array, length: number): Uint8Array {
  return bytes.length === length ? bytes : bytes.subarray(0, length);
}

function wholeSectors(bytes: number): number {
  return Math.floor(bytes / SECTOR) * SECTOR;
}
