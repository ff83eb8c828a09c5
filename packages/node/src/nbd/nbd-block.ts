import { choiceOption, flagOptions, MAX_TIMER_MS, numberOption, wholeOption } from "virtio/check-option";
import { allDone } from "virtio/all-done";
import type { BlockBackend } from "virtio/backends/block";
import { BlockWidener } from "../block/block-widener.ts";
import { cut, totalLength } from "../block/buffers.ts";
import { NbdError, NbdProtocolError } from "./errors.ts";
import type { NbdExport } from "./handshake.ts";
import { NbdPool } from "./pool.ts";
import {
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_DEFAULT_MAX_PAYLOAD,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_ROTATIONAL,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from "./protocol.ts";
import { NbdRequest } from "./request.ts";
import { checkedTarget, describeTarget, type NbdTarget, parseNbdName } from "./uri.ts";

const SECTOR = 512;
/** Bytes in one request that has no payload. */
const MAX_EFFECT: number = 2 ** 30;
/** Bytes of zeroes in one write, where the server cannot make them by itself. */
const ZERO_PIECE: number = 1 << 18;
const MAX_CONNECTIONS = 16;
const OPEN_PAUSE_MS = 100;
const MAX_SECONDS = Math.floor(MAX_TIMER_MS / 1000);
const CACHES: readonly NonNullable<NbdBlockOptions["cache"]>[] = [
  "writeback",
  "none",
  "writethrough",
  "directsync",
  "unsafe",
];

export interface NbdBlockOptions {
  /** Default false; a read-only export is read-only whatever is said here. */
  readonly readOnly?: boolean;
  /**
   * As QEMU's `cache`. `writeback` (the default) and `none`: durable after a flush. `writethrough` and `directsync`: after each
   * write. `unsafe`: flushes do nothing. Whether the server has a cache of its own is the server's choice.
   */
  readonly cache?: "writeback" | "none" | "writethrough" | "directsync" | "unsafe";
  /** False: discards are not offered. Default true, where the server has NBD_CMD_TRIM. */
  readonly discard?: boolean;
  /** Connections, 1 to 16, where the server says that several are one disk (NBD_FLAG_CAN_MULTI_CONN). Default 1. */
  readonly connections?: number;
  /**
   * Seconds that requests wait when the connection is lost, up to 2147483, as for all these times. Default 0: they fail at once. Either way the connection is made
   * again as soon as the server is back.
   */
  readonly reconnectDelay?: number;
  /** Seconds for which `open` tries again when the server is not there. Default 0: it tries once. */
  readonly openTimeout?: number;
  /**
   * Seconds of silence after which a server that owes answers counts as lost. Default 0: never; `onError` hears of it after 30
   * seconds. It must be longer than the server takes for any request. Not without danger: what such a server does with an old
   * request later, after the new connection has changed the same bytes, is the server's choice.
   */
  readonly requestTimeout?: number;
  /** Hears of lost connections and of what a server does wrong; requests that fail say so themselves. */
  readonly onError?: (error: Error) => void;
  /**
   * A lost server is back. `unflushed`: it had acknowledged changes that no flush made durable; if it also lost its cache (with its
   * machine, say) they are gone.
   */
  readonly onReconnect?: (unflushed: boolean) => void;
}

/**
 * A disk behind an NBD server. All requests are promises, many of them under way at once; one that fails rejects with an
 * NbdError. Of a server with blocks of more than 512 bytes, requests that are no whole blocks are widened.
 */
export class NbdBlockBackend implements BlockBackend {
  /** `nbd://…`, as messages name it. */
  readonly name: string;
  readonly readOnly: boolean;
  readonly asynchronous = true;
  /** The server's smallest block, 512 at least. */
  readonly physicalBlockSize: number;
  /** The server says that the disk is a rotating one. */
  readonly rotational: boolean;
  readonly discard?: (offset: number, length: number) => Promise<void>;
  readonly writeZeroes?: (offset: number, length: number, unmap: boolean) => Promise<void>;
  onResize: (() => void) | undefined;
  #size: number;
  /** Bytes in one read or write. */
  readonly #maxPayload: number;
  readonly #pool: NbdPool;
  /** Where the server's blocks are larger than ours. */
  readonly #widener: BlockWidener | undefined;
  readonly #canFlush: boolean;
  /** For each write: NBD_CMD_FLAG_FUA, or 0. */
  readonly #fua: number;
  /** A flush has to follow each write. */
  readonly #flushEach: boolean;
  /** Changes that were acknowledged, and how many of them are durable or were told to be at stake. */
  #changes = 0;
  #settledChanges = 0;

  /**
   * Connects to an export, named as a URI or as QEMU names it (see `parseNbdName`), or taken apart. Rejects with an Error that
   * names the export and says what is wrong; on an option that cannot be it is a RangeError or TypeError that names the option.
   */
  static async open(where: string | NbdTarget, options: NbdBlockOptions = {}): Promise<NbdBlockBackend> {
    flagOptions("nbd", options, ["readOnly", "discard"]);
    if (options.cache !== undefined) choiceOption("nbd: cache", options.cache, CACHES);
    const target = typeof where === "string" ? parseNbdName(where) : checkedTarget(where);
    const name = describeTarget(target);
    // The first connection says what the disk is; later ones have to fit.
    let accept: (found: NbdExport) => void = () => {};
    let disk: NbdBlockBackend;
    let size: number;
    const tell = (error: Error): void =>
      options.onError?.(new Error(`disk '${name}': ${error.message}`, { cause: error }));
    const patience = milliseconds("openTimeout", options.openTimeout);
    const pool = new NbdPool(target, {
      connections: wholeOption("nbd: connections", options.connections ?? 1, 1, MAX_CONNECTIONS),
      reconnectDelayMs: milliseconds("reconnectDelay", options.reconnectDelay),
      silenceMs: milliseconds("requestTimeout", options.requestTimeout),
      accept: (found) => accept(found),
      onError: tell,
      onReconnect: () => options.onReconnect?.(disk.#forgetChanges()),
    });
    try {
      const found = await openPatiently(pool, patience);
      size = found.size;
      disk = new NbdBlockBackend(name, pool, found, options);
      accept = (other) => disk.#accept(other);
    } catch (error) {
      void pool.close();
      throw new Error(`disk '${name}': ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
    if (disk.#size < size) {
      tell(
        new Error(
          `its last ${size - disk.#size} bytes are left out: they do not make a block of ${disk.physicalBlockSize}`,
        ),
      );
    }
    return disk;
  }

  private constructor(name: string, pool: NbdPool, found: NbdExport, options: NbdBlockOptions) {
    const { cache = "writeback" } = options;
    const has = (flag: number): boolean => (found.flags & flag) !== 0;
    this.name = name;
    this.#pool = pool;
    this.physicalBlockSize = Math.max(SECTOR, found.minimumBlock);
    this.#size = wholeBlocks(found.size, this.physicalBlockSize);
    this.#maxPayload = payloadOf(found, this.physicalBlockSize);
    if (this.physicalBlockSize > SECTOR) this.#widener = this.#newWidener();
    this.readOnly = options.readOnly === true || has(NBD_FLAG_READ_ONLY);
    this.rotational = has(NBD_FLAG_ROTATIONAL);
    this.#canFlush = has(NBD_FLAG_SEND_FLUSH) && cache !== "unsafe" && !this.readOnly;
    const durable = cache === "writethrough" || cache === "directsync";
    this.#fua = durable && has(NBD_FLAG_SEND_FUA) ? NBD_CMD_FLAG_FUA : 0;
    this.#flushEach = durable && this.#fua === 0;
    if (this.readOnly) return;
    if (options.discard !== false && has(NBD_FLAG_SEND_TRIM)) {
      this.discard = (offset, length) => this.#discard(offset, length);
    }
    if (has(NBD_FLAG_SEND_WRITE_ZEROES)) {
      this.writeZeroes = (offset, length, unmap) => this.#writeZeroes(offset, length, unmap);
    }
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.readv(offset, [target]);
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.writev(offset, [source]);
  }

  async readv(offset: number, targets: readonly Uint8Array[]): Promise<void> {
    const length = totalLength(targets);
    this.#check(offset, length, false);
    if (this.#widener?.isWhole(offset, length) === false) return this.#widener.read(offset, targets);
    await this.#transfer(NBD_CMD_READ, 0, offset, length, targets);
  }

  async writev(offset: number, sources: readonly Uint8Array[]): Promise<void> {
    const length = totalLength(sources);
    this.#check(offset, length, true);
    await this.#write(offset, length, sources);
    await this.#changed();
  }

  async flush(): Promise<void> {
    if (!this.#canFlush) return;
    const before = this.#changes;
    await this.#run(new NbdRequest(NBD_CMD_FLUSH, 0, 0, 0));
    this.#settledChanges = Math.max(this.#settledChanges, before);
  }

  /** Waits, though not long, for what is under way. */
  close(): Promise<void> {
    return this.#pool.close();
  }

  /** What was changed is durable now where each write has to be, and otherwise after the next flush. */
  async #changed(): Promise<void> {
    if (this.#fua === 0) this.#changes++;
    if (this.#flushEach) await this.flush();
  }

  /** The list is the caller's again at once. */
  async #write(offset: number, length: number, sources: readonly Uint8Array[]): Promise<void> {
    const widener = this.#widener;
    if (widener === undefined) return this.#transfer(NBD_CMD_WRITE, this.#fua, offset, length, sources);
    if (!widener.isWhole(offset, length)) return widener.write(offset, sources);
    const list = sources.slice();
    await widener.sharing(offset, length, async () =>
      this.#transfer(NBD_CMD_WRITE, this.#fua, offset, length, list),
    );
  }

  #newWidener(): BlockWidener {
    const transfer = async (command: number, flags: number, at: number, bytes: Uint8Array): Promise<void> =>
      this.#transfer(command, flags, at, bytes.length, [bytes]);
    return new BlockWidener(
      {
        read: (at, target) => transfer(NBD_CMD_READ, 0, at, target),
        write: (at, source) => transfer(NBD_CMD_WRITE, this.#fua, at, source),
        buffer: (length) => new Uint8Array(length),
      },
      this.physicalBlockSize,
    );
  }

  async #discard(offset: number, length: number): Promise<void> {
    this.#check(offset, length, true);
    // The server's blocks that are within; contents are unspecified afterwards, also when they are the old ones.
    const [start, end] = this.#blocksWithin(offset, length);
    if (start >= end) return;
    try {
      await this.#effect(NBD_CMD_TRIM, this.#fua, start, end - start);
    } catch (error) {
      if (!isCode(error, "ENOTSUP")) throw error;
    }
    await this.#changed();
  }

  #blocksWithin(offset: number, length: number): [start: number, end: number] {
    const block = this.physicalBlockSize;
    return [Math.ceil(offset / block) * block, wholeBlocks(offset + length, block)];
  }

  async #writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    this.#check(offset, length, true);
    const [start, end] = this.#blocksWithin(offset, length);
    if (start >= end) await this.#writeZeroBytes(offset, length);
    else {
      await this.#writeZeroBytes(offset, start - offset);
      await this.#zeroBlocks(start, end - start, unmap);
      await this.#writeZeroBytes(end, offset + length - end);
    }
    await this.#changed();
  }

  /** Whole blocks of the server's. */
  async #zeroBlocks(offset: number, length: number, unmap: boolean): Promise<void> {
    const flags = this.#fua | (unmap ? 0 : NBD_CMD_FLAG_NO_HOLE);
    const zero = (): Promise<void> => this.#effect(NBD_CMD_WRITE_ZEROES, flags, offset, length);
    try {
      await (this.#widener?.sharing(offset, length, zero) ?? zero());
    } catch (error) {
      if (!isCode(error, "ENOTSUP")) throw error;
      await this.#writeZeroBytes(offset, length);
    }
  }

  async #writeZeroBytes(offset: number, length: number): Promise<void> {
    const zeroes = new Uint8Array(Math.min(length, ZERO_PIECE, this.#maxPayload));
    for (let done = 0; done < length; done += zeroes.length) {
      const piece = zeroes.subarray(0, length - done);
      await this.#write(offset + done, piece.length, [piece]);
    }
  }

  /** Whether a server that forgets what was not flushed forgets something; asked once of each loss. */
  #forgetChanges(): boolean {
    const unflushed = this.#changes > this.#settledChanges;
    this.#settledChanges = this.#changes;
    return unflushed;
  }

  /** One request, or as many as it takes for what the server takes at once. The list is the caller's again. */
  #transfer(
    command: number,
    flags: number,
    offset: number,
    length: number,
    buffers: readonly Uint8Array[],
  ): Promise<void> | undefined {
    const most = this.#maxPayload;
    if (length === 0) return undefined;
    if (length <= most) return this.#run(new NbdRequest(command, flags, offset, length, buffers.slice()));
    const pieces: Promise<void>[] = [];
    for (let done = 0; done < length; done += most) {
      const size = Math.min(length - done, most);
      const piece = cut(buffers, done, size);
      pieces.push(this.#run(new NbdRequest(command, flags, offset + done, size, piece)));
    }
    return allDone(pieces);
  }

  /** Requests without data, one after the other. */
  async #effect(command: number, flags: number, offset: number, length: number): Promise<void> {
    for (let done = 0, most = MAX_EFFECT; done < length;) {
      const size = Math.min(length - done, most);
      try {
        await this.#run(new NbdRequest(command, flags, offset + done, size));
        done += size;
      } catch (error) {
        // "the server […] MAY reply with an NBD_EOVERFLOW or NBD_EINVAL error if the oversize request would require too many […]
        // resources when compared to the same command with an effect length limited to the maximum payload size"
        const oversize = isCode(error, "EOVERFLOW") || isCode(error, "EINVAL");
        if (!oversize || size <= this.#maxPayload) throw error;
        most = this.#maxPayload;
      }
    }
  }

  #run(request: NbdRequest): Promise<void> {
    this.#pool.submit(request);
    return request.done;
  }

  #check(offset: number, length: number, change: boolean): void {
    if (change && this.readOnly) throw new NbdError("EPERM", `disk '${this.name}' is read-only`);
    if (!(offset >= 0 && offset + length <= this.#size)) {
      throw new RangeError(`disk '${this.name}': ${length} bytes at ${offset} are outside of ${this.#size}`);
    }
  }

  /** A server that came back, or a further connection: what the driver was promised must still hold. */
  #accept(found: NbdExport): void {
    const lacks = (flag: number, needed: boolean): boolean => needed && (found.flags & flag) === 0;
    if (Math.max(SECTOR, found.minimumBlock) > this.physicalBlockSize) {
      throw new NbdError("EIO", `the NBD server came back with blocks of ${found.minimumBlock} bytes`);
    }
    if (found.maximumPayload < this.#maxPayload) {
      throw new NbdError(
        "EIO",
        `the NBD server came back with ${found.maximumPayload} bytes as its largest payload`,
      );
    }
    if (!this.readOnly && (found.flags & NBD_FLAG_READ_ONLY) !== 0) {
      throw new NbdError("EIO", "the NBD server came back read-only");
    }
    if (
      lacks(NBD_FLAG_SEND_FLUSH, this.#canFlush) ||
      lacks(NBD_FLAG_SEND_FUA, this.#fua !== 0) ||
      lacks(NBD_FLAG_SEND_TRIM, this.discard !== undefined) ||
      lacks(NBD_FLAG_SEND_WRITE_ZEROES, this.writeZeroes !== undefined)
    ) {
      throw new NbdError("EIO", "the NBD server came back with fewer commands");
    }
    const size = wholeBlocks(found.size, this.physicalBlockSize);
    if (size === this.#size) return;
    this.#size = size;
    this.onResize?.();
  }
}

/** Tries once, or again and again for so many milliseconds. */
async function openPatiently(pool: NbdPool, patience: number): Promise<NbdExport> {
  const deadline = performance.now() + patience;
  for (;;) {
    try {
      return await pool.open(patience === 0 ? Infinity : Math.max(1, deadline - performance.now()));
    } catch (error) {
      // What a server refuses now it refuses later.
      const over = performance.now() + OPEN_PAUSE_MS >= deadline;
      if (over || !isCode(error, "EIO") || error instanceof NbdProtocolError) throw error;
      await new Promise((resolve) => setTimeout(resolve, OPEN_PAUSE_MS));
    }
  }
}

function payloadOf(found: NbdExport, blockSize: number): number {
  return wholeBlocks(Math.min(found.maximumPayload, NBD_DEFAULT_MAX_PAYLOAD), blockSize);
}

function wholeBlocks(bytes: number, blockSize: number): number {
  return bytes - (bytes % blockSize);
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof NbdError && error.code === code;
}

/** Of an option in seconds; what a timer can wait. */
function milliseconds(name: string, seconds = 0): number {
  return numberOption(`nbd: ${name}`, seconds, 0, MAX_SECONDS) * 1000;
}
