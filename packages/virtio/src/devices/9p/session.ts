import type { MaybePromise } from "../../device/device.ts";
import type { DeviceWatch } from "../../device/hint.ts";
import { wholeOptions } from "../../check-option.ts";
import { Errno, errnoOf, ERRNO } from "../../backends/errno.ts";
import type { FileHandle, FileLock, FileNode, FileSystem } from "../../backends/file-system.ts";
import {
  MalformedMessage,
  MessageReader,
  MessageWriter,
  messageSize,
  messageTag,
  messageType,
} from "../../protocols/9p/message.ts";
import * as numbers from "../../protocols/9p/numbers.ts";
import { HEADER_SIZE, IO_HEADER_ROOM, NOTAG, RLERROR, TVERSION } from "../../protocols/9p/numbers.ts";
import type { Exchange } from "./exchange.ts";
import {
  MAX_FID_BYTES,
  MAX_FIDS,
  MAX_MSIZE,
  MAX_OPEN_FILES,
  MAX_READDIR,
  MAX_XATTR_BYTES,
  MIN_MSIZE,
  type SessionLimits,
} from "./limits.ts";
import { after, type Fid, FidIsDormant, FidTable, settle } from "./fids.ts";
import { walkPath, type Way } from "./way.ts";

/**
 * Serves one type of message. Takes what it needs of the session's fids before anything else, for it is run again when
 * one was dormant. Returns how many bytes of data follow behind `exchange.reply`, or minus the number of an error.
 */
export type Handler = (session: Session, exchange: Exchange, reader: MessageReader) => MaybePromise<number>;

export interface HandlerEntry {
  readonly handle: Handler;
  /** Bytes of the reply that must fit, or nothing is done (EMSGSIZE). */
  readonly reply: number;
}

/** More than the session can have is taken for all it can have. */
const RANGES = {
  msize: [0, Number.MAX_SAFE_INTEGER],
  fids: [0, Number.MAX_SAFE_INTEGER],
  fidBytes: [0, Number.MAX_SAFE_INTEGER],
  openFiles: [0, Number.MAX_SAFE_INTEGER],
  xattrBytes: [0, Number.MAX_SAFE_INTEGER],
} as const;

/** One client's conversation in 9P2000.L with a file system. Knows nothing of what carries it. */
export class Session {
  readonly fs: FileSystem;
  readonly fids: FidTable;
  /** Entries of one Rreaddir, for a synchronous file system. */
  readonly scratch: MessageWriter = new MessageWriter(new Uint8Array(MAX_READDIR));
  readonly maxMsize: number;
  readonly maxFids: number;
  readonly maxXattrBytes: number;
  /** Negotiated; 0 before Tversion. */
  msize = 0;
  /** A new life begins with each Tversion and each reset. */
  epoch = 0;
  /** Where to say why a request fails; the device sets it with each request. */
  watch: DeviceWatch | undefined;
  /** Requests under way, by their tag. */
  readonly pending: Map<number, Promise<number>> = new Map();
  readonly #handlers: readonly (HandlerEntry | undefined)[];
  readonly #reader = new MessageReader();
  #touched: Fid[] = [];

  constructor(fs: FileSystem, handlers: readonly (HandlerEntry | undefined)[], limits: SessionLimits = {}) {
    wholeOptions("9p", limits, RANGES);
    this.fs = fs;
    this.#handlers = handlers;
    this.maxMsize = Math.min(MAX_MSIZE, Math.max(MIN_MSIZE, limits.msize ?? MAX_MSIZE));
    this.maxFids = limits.fids ?? MAX_FIDS;
    this.maxXattrBytes = limits.xattrBytes ?? MAX_XATTR_BYTES;
    this.fids = new FidTable(fs, {
      fids: this.maxFids,
      fidBytes: limits.fidBytes ?? MAX_FID_BYTES,
      openFiles: limits.openFiles ?? MAX_OPEN_FILES,
      xattrBytes: this.maxXattrBytes,
    });
  }

  /** The largest read or write that fits a message, as Ropen tells it. */
  get ioUnit(): number {
    return this.msize - IO_HEADER_ROOM;
  }

  /**
   * Serves the message and fills in `exchange.reply`. Returns the size of the whole reply. Needs room for Rlerror; never
   * throws or rejects.
   */
  serve(exchange: Exchange): MaybePromise<number> {
    exchange.epoch = this.epoch;
    const touched = this.#touched;
    touched.length = 0;
    let result: MaybePromise<number>;
    try {
      result = this.#dispatch(exchange);
    } catch (error) {
      if (!(error instanceof FidIsDormant)) return this.#fail(exchange, error);
      result = settle(
        () => this.#wake(error.fid),
        () => this.serve(exchange),
        (failure) => this.#fail(exchange, failure),
      );
      // The second run answers by itself.
      return result instanceof Promise ? this.#track(exchange, result) : result;
    }
    if (result instanceof Promise) return this.#later(exchange, result);
    return this.#finish(exchange, result);
  }

  /** The fid with this number, ready for use. EBADF; a dormant one makes the request run again. */
  fid(number: number): Fid & { readonly node: FileNode } {
    const fid = this.fids.get(number);
    if (fid === undefined) throw Errno.of("EBADF");
    if (!isAwake(fid)) throw new FidIsDormant(fid);
    this.#touched.push(fid);
    return fid;
  }

  /** As `fid`, and not one of an attribute. */
  file(number: number): Fid & { readonly node: FileNode } {
    const fid = this.fid(number);
    if (fid.value !== undefined || fid.pending !== undefined) throw Errno.of("EINVAL");
    return fid;
  }

  /** The session this request belongs to may be over by now: then what it got is given back and the request fails. */
  install(exchange: Exchange, fid: Fid): void {
    if (exchange.epoch !== this.epoch) {
      void this.fids.dispose(fid);
      throw Errno.of("ECANCELED");
    }
    this.fids.add(fid);
  }

  /**
   * Everything of the client is dropped; it must begin with Tversion. Waits until what is under way has ended, so that
   * no old write lands on top of a new one.
   */
  reset(): MaybePromise<void> {
    this.epoch++;
    this.msize = 0;
    const ending = [...this.pending.values()];
    this.pending.clear();
    const cleared = this.fids.clear();
    return ending.length === 0 ? cleared : Promise.allSettled(ending).then(() => cleared);
  }

  #dispatch(exchange: Exchange): MaybePromise<number> {
    const { message, copied } = exchange;
    if (copied < HEADER_SIZE) throw new MalformedMessage("shorter than a header");
    const size = messageSize(message);
    const type = messageType(message);
    if (size < HEADER_SIZE || size > exchange.available) throw new MalformedMessage("a size that lies");
    const entry = this.#handlers[type];
    if (entry === undefined) throw Errno.of("EOPNOTSUPP");
    if (this.msize === 0 && type !== TVERSION) throw Errno.of("EPROTO");
    if (size > (this.msize === 0 ? this.maxMsize : this.msize)) throw Errno.of("EMSGSIZE");
    if (exchange.room < entry.reply) throw Errno.of("EMSGSIZE");
    exchange.reply.start();
    return entry.handle(this, exchange, this.#reader.start(message, Math.min(size, copied)));
  }

  #finish(exchange: Exchange, payload: number): number {
    const { reply, message } = exchange;
    if (payload < 0) return this.#refuse(exchange, -payload);
    if (reply.length + payload > exchange.room) return this.#fail(exchange, Errno.of("EMSGSIZE"));
    return reply.finish(messageType(message) + 1, messageTag(message), payload);
  }

  #fail(exchange: Exchange, error: unknown): number {
    const errno = error instanceof MalformedMessage ? ERRNO.EINVAL : errnoOf(error);
    return this.#refuse(exchange, errno, error instanceof Error ? error.message : undefined);
  }

  #refuse(exchange: Exchange, errno: number, reason?: string): number {
    this.watch?.failed(0, explainRefusal(exchange, errno, reason));
    const tag = exchange.copied < HEADER_SIZE ? NOTAG : messageTag(exchange.message);
    return exchange.reply.start().u32(errno).finish(RLERROR, tag);
  }

  #later(exchange: Exchange, result: Promise<number>): Promise<number> {
    const used = this.#touched;
    this.#touched = [];
    for (const fid of used) this.fids.pin(fid);
    const release = (): void => used.forEach((fid) => this.fids.unpin(fid));
    const answered = result.then(
      (payload) => {
        release();
        return this.#finish(exchange, payload);
      },
      (error: unknown) => {
        release();
        return this.#fail(exchange, error);
      },
    );
    return this.#track(exchange, answered);
  }

  /** Keeps the request findable for Tflush until it is answered. */
  #track(exchange: Exchange, answered: Promise<number>): Promise<number> {
    const tag = messageTag(exchange.message);
    const tracked: Promise<number> = answered.finally(() => {
      if (this.pending.get(tag) === tracked) this.pending.delete(tag);
    });
    this.pending.set(tag, tracked);
    return tracked;
  }

  /** Walks to a fid of restored state again, opens what was open and takes its locks. */
  #wake(fid: Fid): MaybePromise<void> {
    const { dormant } = fid;
    if (dormant === undefined || dormant.waking !== undefined) return dormant?.waking;
    const { path, flags } = dormant;
    if (path === undefined) throw Errno.of("ESTALE");
    const epoch = this.epoch;
    const woken = after(walkPath(this.fs, path), (way) =>
      settle(
        () => (flags === undefined ? undefined : this.fs.open(way.node, flags)),
        (handle) => this.#rouse(fid, epoch, way, handle, flags ?? 0),
        (error) => {
          way.leave();
          throw error;
        },
      ),
    );
    if (woken instanceof Promise) dormant.waking = woken.finally(() => delete dormant.waking);
    return woken;
  }

  #rouse(
    fid: Fid,
    epoch: number,
    way: Way,
    handle: FileHandle | undefined,
    flags: number,
  ): MaybePromise<void> {
    const { locks = [], position } = fid.dormant ?? {};
    fid.node = way.node;
    fid.directory = way.directory;
    fid.name = way.name;
    fid.dormant = undefined;
    if (handle !== undefined) this.fids.opens(fid, handle, flags);
    if (this.epoch !== epoch || fid.clunked) return this.fids.dispose(fid);
    if (handle === undefined) return undefined;
    if (position !== undefined) this.fs.restoreDirectoryPosition?.(handle, position);
    return this.#relockAll(handle, locks);
  }

  #relockAll(handle: FileHandle, locks: readonly FileLock[], from = 0): MaybePromise<void> {
    for (let i = from; i < locks.length; i++) {
      const lock = locks[i];
      const done = lock === undefined ? undefined : this.#relock(handle, lock);
      if (done instanceof Promise) return done.then(() => this.#relockAll(handle, locks, i + 1));
    }
  }

  /** A lock that somebody else took meanwhile is lost, as after a server's restart. */
  #relock(handle: FileHandle, lock: FileLock): MaybePromise<void> {
    return settle(
      () => this.fs.lock(handle, lock),
      (granted) => void (granted && this.fids.locks.lock(handle, lock)),
      () => undefined,
    );
  }
}

function messageName(type: number): string {
  const name = Object.entries(numbers).find(([key, value]) => value === type && /^T[A-Z]+$/.test(key))?.[0];
  return name === undefined ? `message type ${type}` : `T${name.slice(1).toLowerCase()}`;
}

/** "Twalk: ENOENT", with what more is known. */
function explainRefusal({ message, copied }: Exchange, errno: number, reason: string | undefined): string {
  const name = Object.entries(ERRNO).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`;
  const known = reason === undefined || reason === name ? "" : `, ${reason}`;
  return `${copied < HEADER_SIZE ? "no message" : messageName(messageType(message))}: ${name}${known}`;
}

function isAwake(fid: Fid): fid is Fid & { readonly node: FileNode } {
  return fid.node !== undefined;
}
