import type { BlockBackend } from "../../backends/block.ts";
import {
  type DeviceContext,
  type DeviceHost,
  LATER,
  type MaybePromise,
  type QueueSpec,
  type VirtioDevice,
} from "../../device/device.ts";
import { VirtioFault } from "../../fault.ts";
import { SegmentWriter } from "../../memory/cursor.ts";
import type { Segment } from "../../memory/guest-memory.ts";
import {
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_REQ_SIZE,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_SECTOR_SIZE as SECTOR,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_FLUSH_OUT,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from "../../spec/blk.ts";
import { hasFeature, VIRTIO_F_VERSION_1 } from "../../spec/core.ts";
import { VIRTIO_ID_BLK } from "../../spec/ids.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import { BounceTransfer } from "./bounce-transfer.ts";
import { BlkConfig } from "./config.ts";
import { explain, explainNoHeader, judgeDirection } from "./explain.ts";
import { LONG_BYTES, LongRequests, PIECE, type Pieces } from "./long-requests.ts";
import {
  FRAMING_DESCRIPTORS,
  type BlkLimits,
  type BlkOptions,
  MAX_TRANSFER_BYTES,
  resolveLimits,
} from "./options.ts";
import { discardPieces, movePart, zeroPieces } from "./pieces.ts";
import { DISCARD_FLAGS, discardRanges, judgeRanges, WRITE_ZEROES_FLAGS, zeroRanges } from "./ranges.ts";
import { BlkRequest } from "./request.ts";
import { checkedState, type BlkState } from "./state.ts";
import { Started } from "./started.ts";
import { completed } from "./completed.ts";
import { DirectTransfer } from "./transfer.ts";

/** What is made at DRIVER_OK and dropped at reset. */
interface Session {
  readonly context: DeviceContext;
  readonly request: BlkRequest;
  readonly direct: DirectTransfer;
  readonly writer: SegmentWriter;
  readonly discard: boolean;
  readonly writeZeroes: boolean;
  readonly legacy: boolean;
}

/** The block device ("Block Device") on a backend. Throws a RangeError when an option does not fit. */
export class BlkDevice implements VirtioDevice<BlkState> {
  readonly id: number = VIRTIO_ID_BLK;
  readonly name = "blk";
  /** A mass storage controller, as QEMU shows it. */
  readonly pciClass = 0x01_0000;
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly config: BlkConfig;
  readonly #backend: BlockBackend;
  readonly #limits: BlkLimits;
  readonly #onError: ((error: unknown) => void) | undefined;
  readonly #bounce: BounceTransfer;
  #session: Session | undefined;
  /** One count a queue: a request that began under another one is no longer the device's. */
  readonly #lives: Uint32Array;
  #pending = 0;
  readonly #long = new LongRequests();
  /** Those that are not in use. */
  readonly #started: Started<Session>[] = [];
  readonly #idle: (() => void)[] = [];

  constructor(backend: BlockBackend, options: BlkOptions = {}) {
    const limits = resolveLimits(backend, options);
    this.#backend = backend;
    this.#limits = limits;
    this.#onError = options.onError;
    this.#bounce = new BounceTransfer(backend);
    this.#lives = new Uint32Array(limits.numQueues);
    this.features = limits.features;
    this.config = new BlkConfig(limits);
    this.config.capacity = this.#sectors();
    this.config.writeback = limits.writeback;
    this.queues = Array.from({ length: limits.numQueues }, (_, index) => ({
      name: `requestq${index + 1}`,
      maxSize: limits.queueSize,
      serve: (chain) => this.#serve(chain, index),
    }));
    backend.onResize = () => this.#resized();
  }

  /** "No chain is longer than the Queue Size": a driver with smaller queues is told of fewer segments. */
  plugged({ queueSizes }: DeviceHost): void {
    const room = Math.min(...queueSizes) - FRAMING_DESCRIPTORS;
    if (room < 1)
      throw new RangeError(`blk: a Queue Size of ${room + FRAMING_DESCRIPTORS} has no room for a request`);
    this.config.segMax = Math.min(this.#limits.segMax, room);
  }

  /** Refuses nothing; it is where the device learns the features before the driver may read `writeback`. */
  refuse(features: bigint): undefined {
    // "If VIRTIO_BLK_F_CONFIG_WCE is negotiated but VIRTIO_BLK_F_FLUSH is not, the device MUST initialize writeback to 0"
    this.config.writeback = this.#limits.writeback && hasFeature(features, VIRTIO_BLK_F_FLUSH);
  }

  activate(context: DeviceContext): void {
    const { memory, features } = context;
    this.#session = {
      context,
      request: new BlkRequest(memory),
      direct: new DirectTransfer(this.#backend, memory, this.#limits.alignment),
      writer: new SegmentWriter(memory),
      discard: hasFeature(features, VIRTIO_BLK_F_DISCARD),
      writeZeroes: hasFeature(features, VIRTIO_BLK_F_WRITE_ZEROES),
      legacy: !hasFeature(features, VIRTIO_F_VERSION_1),
    };
    // A driver that cannot choose has writeback exactly when it can flush. Legacy: only now may the mode change.
    if (!hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE))
      this.config.writeback = this.#limits.writeback && hasFeature(features, VIRTIO_BLK_F_FLUSH);
    this.#resized();
  }

  reset(): MaybePromise<void> {
    this.#session = undefined;
    for (let i = 0; i < this.#lives.length; i++) this.resetQueue(i);
    this.config.writeback = this.#limits.writeback;
    this.config.capacity = this.#sectors();
    // A write of before the reset must not land on top of one of after it.
    if (this.#pending > 0) return new Promise((resolve) => this.#idle.push(resolve));
  }

  resetQueue(index: number): void {
    this.#lives[index] = (this.#lives[index] ?? 0) + 1;
  }

  save(): BlkState {
    return { capacity: this.config.capacity, writeback: this.config.writeback };
  }

  restore(state: unknown): void {
    const { capacity, writeback } = checkedState(state);
    // Of a disk that has another size now, the driver hears in `activate`.
    this.config.capacity = capacity;
    this.config.writeback = writeback;
  }

  #sectors(): number {
    return Math.floor(this.#backend.size / SECTOR);
  }

  /** Only a running driver can be told; the capacity it read while it began stays as it was until then. */
  #resized(): void {
    if (this.#session === undefined || this.config.capacity === this.#sectors()) return;
    this.config.capacity = this.#sectors();
    this.#session.context.configChanged();
  }

  #serve(chain: DescriptorChain, queue: number): MaybePromise<number> {
    if (chain.writableLength === 0)
      throw new VirtioFault("drv.blk.operation", "request without room for the status byte", { queue });
    const session = this.#session;
    if (session === undefined) throw new Error("blk: a request before activate");
    const { request } = session;
    const { watch } = session.context;
    if (!request.parse(chain)) {
      watch?.failed(queue, explainNoHeader(chain.readableLength));
      return completed(session, chain, VIRTIO_BLK_S_IOERR, 0);
    }
    if (watch !== undefined) judgeDirection(request, queue, watch);
    const filled =
      request.type === VIRTIO_BLK_T_IN || request.type === VIRTIO_BLK_T_GET_ID ? request.dataIn : 0;
    let status: MaybePromise<number>;
    try {
      status = this.#execute(session, chain, queue);
      if (watch !== undefined && typeof status === "number" && status > VIRTIO_BLK_S_OK)
        watch.failed(queue, this.#explain(request, chain, status));
    } catch (error) {
      status = this.#statusOf(error, queue);
    }
    if (status === LATER) return LATER;
    if (typeof status === "number") return completed(session, chain, status, filled);
    return this.#later(session, chain, status, filled, queue);
  }

  /** Dispatches on the request type, gives a status or LATER; what is thrown becomes a status by `#statusOf`. */
  #execute(session: Session, chain: DescriptorChain, queue: number): MaybePromise<number> {
    const { request } = session;
    switch (request.type) {
      case VIRTIO_BLK_T_IN:
        return this.#read(session, chain, queue);
      case VIRTIO_BLK_T_OUT:
        return this.#write(session, chain, queue);
      case VIRTIO_BLK_T_FLUSH:
        return ok(this.#backend.flush());
      case VIRTIO_BLK_T_FLUSH_OUT:
        return session.legacy ? ok(this.#backend.flush()) : VIRTIO_BLK_S_UNSUPP;
      case VIRTIO_BLK_T_GET_ID:
        // "The length of data MUST be 20 bytes"
        if (request.dataIn !== VIRTIO_BLK_ID_BYTES) return VIRTIO_BLK_S_IOERR;
        session.writer.start(chain.writable).copy(this.#limits.serial);
        return VIRTIO_BLK_S_OK;
      case VIRTIO_BLK_T_DISCARD:
        return session.discard ? this.#discard(session, chain, queue) : VIRTIO_BLK_S_UNSUPP;
      case VIRTIO_BLK_T_WRITE_ZEROES:
        return session.writeZeroes ? this.#writeZeroes(session, chain, queue) : VIRTIO_BLK_S_UNSUPP;
      default:
        return VIRTIO_BLK_S_UNSUPP;
    }
  }

  #read(session: Session, chain: DescriptorChain, queue: number): MaybePromise<number> {
    const { request, direct, context } = session;
    const length = request.dataIn;
    if (!this.#inside(request.sector, length)) return VIRTIO_BLK_S_IOERR;
    const offset = request.sector * SECTOR;
    const bounces = this.#bounces(session, chain.writable, 0, length);
    if (!bounces && this.#backend.startRead !== undefined) return this.#start(session, chain, queue, length);
    if (length > LONG_BYTES) return this.#transferLong(session, chain, queue, bounces, length);
    if (bounces)
      return ok(this.#bounce.read(offset, length, context.memory, chain.writable, 0, this.#alive(queue)));
    const done = direct.read(offset, length, chain.writable, 0);
    if (done !== undefined) return this.#told(done, direct, chain.writable, length);
    direct.wrote(chain.writable, length);
    return VIRTIO_BLK_S_OK;
  }

  async #told(
    done: Promise<void>,
    direct: DirectTransfer,
    segments: readonly Segment[],
    length: number,
  ): Promise<number> {
    await done;
    direct.wrote(segments, length);
    return VIRTIO_BLK_S_OK;
  }

  #write(session: Session, chain: DescriptorChain, queue: number): MaybePromise<number> {
    const { request, direct, context } = session;
    const length = request.dataOut;
    if (this.#limits.readOnly || !this.#inside(request.sector, length)) return VIRTIO_BLK_S_IOERR;
    const offset = request.sector * SECTOR;
    const bounces = this.#bounces(session, chain.readable, VIRTIO_BLK_REQ_SIZE, length);
    if (!bounces && this.#backend.startWrite !== undefined)
      return this.#start(session, chain, queue, undefined);
    if (length > LONG_BYTES) return this.#transferLong(session, chain, queue, bounces, undefined);
    if (bounces) {
      const alive = this.#alive(queue);
      return this.#stable(
        this.#bounce.write(offset, length, context.memory, chain.readable, VIRTIO_BLK_REQ_SIZE, alive),
      );
    }
    return this.#stable(direct.write(offset, length, chain.readable, VIRTIO_BLK_REQ_SIZE));
  }

  /** The backend, or the last of its pieces, tells of its end. `filled`: bytes of a read, undefined for what changes the disk. */
  #begin(
    session: Session,
    chain: DescriptorChain,
    queue: number,
    filled: number | undefined,
  ): Started<Session> {
    const started = this.#started.pop() ?? new Started<Session>(this.#ended);
    started.session = session;
    started.chain = chain;
    started.ring = session.context.queue(queue);
    started.queue = queue;
    started.life = this.#lives[queue] ?? 0;
    started.filled = filled ?? 0;
    started.write = filled === undefined;
    return started;
  }

  /** Has the backend begin what was found to be right. */
  #start(
    session: Session,
    chain: DescriptorChain,
    queue: number,
    filled: number | undefined,
  ): MaybePromise<number> {
    const { request, direct } = session;
    const write = filled === undefined;
    const length = filled ?? request.dataOut;
    const offset = request.sector * SECTOR;
    const started = this.#begin(session, chain, queue, filled);
    // What throws has not begun.
    let done = true;
    try {
      done = write
        ? direct.startWrite(offset, length, chain.readable, VIRTIO_BLK_REQ_SIZE, started)
        : direct.startRead(offset, length, chain.writable, started);
    } finally {
      if (done) this.#release(started);
      else this.#pending++;
    }
    if (!done) return LATER;
    if (write) return this.#stable(undefined);
    direct.wrote(chain.writable, length);
    return VIRTIO_BLK_S_OK;
  }

  /** A read or write that would hold the host's loop for long. */
  #transferLong(
    session: Session,
    chain: DescriptorChain,
    queue: number,
    bounces: boolean,
    filled: number | undefined,
  ): number {
    const { request, direct, context } = session;
    const bounce = bounces ? this.#bounce : undefined;
    const move = movePart(chain, direct, bounce, context.memory, filled === undefined, this.#alive(queue));
    const ranges = [{ sector: request.sector, sectors: (filled ?? request.dataOut) / SECTOR, flags: 0 }];
    return this.#inPieces(session, chain, queue, { ranges, piece: PIECE, move }, filled);
  }

  #inPieces(
    session: Session,
    chain: DescriptorChain,
    queue: number,
    pieces: Pieces,
    filled?: number,
  ): number {
    const completion = this.#begin(session, chain, queue, filled);
    this.#pending++;
    this.#long.add(session.context, { ...pieces, alive: this.#alive(queue), completion });
    return LATER;
  }

  readonly #ended = (started: Started<Session>, error: unknown): void => {
    if (error !== undefined) return this.#failed(started, error);
    let status: MaybePromise<number>;
    try {
      status = started.write ? this.#stable(undefined) : VIRTIO_BLK_S_OK;
    } catch (reason) {
      return this.#failed(started, reason);
    }
    if (typeof status === "number") return this.#finish(started, status);
    status.then(
      (value) => this.#finish(started, value),
      (reason: unknown) => this.#failed(started, reason),
    );
  };

  #failed(started: Started<Session>, error: unknown): void {
    let status: number = VIRTIO_BLK_S_IOERR;
    try {
      status = this.#statusOf(error, started.queue);
    } catch (fault) {
      if (!(fault instanceof VirtioFault)) throw fault;
      started.session?.context.fail(fault);
    }
    this.#finish(started, status);
  }

  #finish(started: Started<Session>, status: number): void {
    const { session, chain, ring, queue, life, filled } = started;
    this.#release(started);
    if (session !== undefined && chain !== undefined) {
      const { context, direct } = session;
      let written = 0;
      try {
        if (this.#lives[queue] === life) {
          direct.wrote(chain.writable, filled);
          written = completed(session, chain, status, filled);
        }
      } catch (error) {
        // Translations may have gone meanwhile.
        if (!(error instanceof VirtioFault)) throw error;
        context.fail(error);
      }
      // Also a ring that was taken back, which waits for its last chain.
      ring?.complete(chain, written);
    }
    this.#rested();
  }

  #release(started: Started<Session>): void {
    started.session = started.chain = started.ring = undefined;
    this.#started.push(started);
  }

  /** One request that was left for later has ended. */
  #rested(): void {
    if (--this.#pending === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** An asynchronous backend only works on guest memory that stays where it is. */
  #bounces(session: Session, segments: readonly Segment[], skip: number, length: number): boolean {
    if (!this.#backend.asynchronous) return false;
    return session.context.memory.pinned !== true || !session.direct.fits(segments, skip, length);
  }

  #discard(session: Session, chain: DescriptorChain, queue: number): MaybePromise<number> {
    const { request } = session;
    const { maxDiscardSeg: maxSeg, maxDiscardSectors: maxSectors, alignment } = this.#limits;
    const limits = { flags: DISCARD_FLAGS, maxSeg, maxSectors, alignment, capacity: this.#sectors() };
    const ranges = request.parseRanges(chain);
    const status = judgeRanges(ranges, request.dataOut, limits);
    if (status !== VIRTIO_BLK_S_OK) return status;
    const pieces = discardPieces(this.#backend, ranges);
    if (pieces !== undefined) return this.#inPieces(session, chain, queue, pieces);
    return this.#stable(discardRanges(this.#backend, ranges));
  }

  #writeZeroes(session: Session, chain: DescriptorChain, queue: number): MaybePromise<number> {
    const { request } = session;
    const { maxWriteZeroesSeg: maxSeg, maxWriteZeroesSectors: maxSectors, alignment } = this.#limits;
    const limits = { flags: WRITE_ZEROES_FLAGS, maxSeg, maxSectors, alignment, capacity: this.#sectors() };
    const ranges = request.parseRanges(chain);
    const status = judgeRanges(ranges, request.dataOut, limits);
    if (status !== VIRTIO_BLK_S_OK) return status;
    const pieces = zeroPieces(this.#backend, ranges);
    if (pieces !== undefined) return this.#inPieces(session, chain, queue, pieces);
    return this.#stable(zeroRanges(this.#backend, ranges));
  }

  /** What changes the disk is complete only when it is durable, if the cache is writethrough ("A write is stable"). */
  #stable(done: MaybePromise<void>): MaybePromise<number> {
    if (done !== undefined) return done.then(() => this.#stable(undefined));
    return this.config.writeback ? VIRTIO_BLK_S_OK : ok(this.#backend.flush());
  }

  #inside(sector: number, length: number): boolean {
    const { alignment } = this.#limits;
    return (
      length <= MAX_TRANSFER_BYTES &&
      length % SECTOR === 0 &&
      sector + length / SECTOR <= this.#sectors() &&
      (alignment === SECTOR || (length % alignment === 0 && (sector * SECTOR) % alignment === 0))
    );
  }

  #alive(queue: number): () => boolean {
    const life = this.#lives[queue];
    return () => this.#lives[queue] === life;
  }

  async #later(
    session: Session,
    chain: DescriptorChain,
    status: Promise<number>,
    filled: number,
    queue: number,
  ): Promise<number> {
    const alive = this.#alive(queue);
    this.#pending++;
    try {
      let value: number;
      try {
        value = await status;
      } catch (error) {
        value = this.#statusOf(error, queue);
      }
      return alive() ? completed(session, chain, value, filled) : 0;
    } finally {
      this.#rested();
    }
  }

  #explain(request: BlkRequest, chain: DescriptorChain, status: number): string {
    return explain(request, status, this.#limits, this.#sectors(), () => request.parseRanges(chain));
  }

  /** The total map of what can go wrong below the request. */
  #statusOf(error: unknown, queue: number): number {
    if (error instanceof VirtioFault) throw error;
    this.#onError?.(error);
    this.#session?.context.watch?.failed(
      queue,
      `IOERR: ${error instanceof Error ? error.message : String(error)}`,
    );
    return VIRTIO_BLK_S_IOERR;
  }
}

function ok(done: MaybePromise<void>): MaybePromise<number> {
  return done === undefined ? VIRTIO_BLK_S_OK : done.then(() => VIRTIO_BLK_S_OK);
}
