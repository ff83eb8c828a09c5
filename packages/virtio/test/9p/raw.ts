import type { FileSystem } from "../../src/backends/file-system.ts";
import type { DeviceContext, MaybePromise, VirtioDevice } from "../../src/device/device.ts";
import { ninePDevice } from "../../src/devices/9p/device.ts";
import type { SessionLimits } from "../../src/devices/9p/limits.ts";
import type { SessionState } from "../../src/devices/9p/state.ts";
import { readLe32, writeLe32 } from "../../src/memory/bytes.ts";
import type { Segment } from "../../src/memory/guest-memory.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { MessageReader, MessageWriter } from "../../src/protocols/9p/message.ts";
import * as P from "../../src/protocols/9p/numbers.ts";
import * as T from "../../src/protocols/9p/requests.ts";

/** Bytes between any two segments, and what they hold; a device that writes one of them is wrong. */
const GUARD = 5;
const GUARD_BYTE = 0xee;
const ARENA = 0x1000;
/** Two regions of memory meet here: neighbours by their addresses only. */
const BORDER = ARENA + 500;

export interface Reply {
  readonly type: number;
  readonly tag: number;
  /** Of an Rlerror, else 0. */
  readonly errno: number;
  /** The used length. */
  readonly written: number;
  /** All of it. */
  readonly bytes: Uint8Array;
  /** Behind the header. */
  readonly reader: MessageReader;
}

export interface SendOptions {
  readonly tag?: number;
  /** Data behind the fields. */
  readonly data?: Uint8Array;
  /** Device-writable bytes. Default 8,192 and the room of the data of a reply. */
  readonly room?: number;
  /** What the size field says instead of the truth. */
  readonly size?: number;
  /** Where the message and the room for its reply are cut. */
  readonly cuts?: readonly number[];
  /** Leaves no gap between segments: they are neighbours in memory. */
  readonly close?: boolean;
}

/** A 9p device without a ring: messages are made by hand, and guest memory around them is watched. */
export class RawClient {
  readonly device: VirtioDevice<SessionState>;
  readonly bytes: Uint8Array;
  readonly memory: RegionMemory;
  readonly #context: DeviceContext;
  readonly #writer = new MessageWriter(new Uint8Array(20_000));
  #at = ARENA;

  /** `memorySize`: bytes for all messages at one time. */
  constructor(fs: FileSystem, limits: SessionLimits = {}, memorySize: number = 1 << 19) {
    this.bytes = new Uint8Array(memorySize);
    this.device = ninePDevice({ tag: "raw", fileSystem: fs, limits });
    this.memory = new RegionMemory([
      { gpa: 0, bytes: this.bytes.subarray(0, BORDER) },
      { gpa: BORDER, bytes: this.bytes.subarray(BORDER) },
    ]);
    this.#context = {
      memory: this.memory,
      features: 0n,
      live: true,
      queue: () => undefined,
      inTurns: () => undefined,
      configChanged: () => {},
      fail: (fault) => {
        throw fault;
      },
    };
    this.bytes.fill(GUARD_BYTE);
  }

  /** Sends a message and gives its reply, which must obey the rules that hold for every reply. */
  send(type: number, fields: (w: MessageWriter) => void, options: SendOptions = {}): MaybePromise<Reply> {
    const { data = new Uint8Array(0), tag = 7 } = options;
    const writer = this.#writer.start();
    fields(writer);
    const size = writer.finish(type, tag, data.length);
    const message = new Uint8Array(size);
    message.set(writer.bytes.subarray(0, writer.length));
    message.set(data, writer.length);
    if (options.size !== undefined) writeLe32(message, 0, options.size);
    return this.sendBytes(message, options);
  }

  sendBytes(message: Uint8Array, options: SendOptions = {}): MaybePromise<Reply> {
    const { room = 8192, cuts = [], close = false } = options;
    const start = this.#at;
    const readable = this.#place(message.length, cuts, close);
    this.#scatter(readable, message);
    const writable = this.#place(room, cuts, close);
    for (const { gpa, length } of writable) this.bytes.fill(0xdd, gpa, gpa + length);
    const end = this.#at;
    const chain = { readable, writable, readableLength: message.length, writableLength: room, token: 0 };
    let served: MaybePromise<number> | undefined;
    try {
      served = this.device.queues[0]?.serve?.(chain, this.#context);
    } finally {
      if (served === undefined) this.#reuse(start, end);
    }
    if (served === undefined) throw new Error("no queue");
    const finish = (written: number): Reply => {
      this.#checkGuards(start, end, [...readable, ...writable]);
      const reply = this.gather(writable, written);
      // Used again when nothing else is under way.
      if (end === this.#at) this.#reuse(start, end);
      return this.#reply(message, reply, room);
    };
    return served instanceof Promise ? served.then(finish) : finish(served);
  }

  /** As `send`, for a synchronous file system. */
  now(type: number, fields: (w: MessageWriter) => void, options: SendOptions = {}): Reply {
    const reply = this.send(type, fields, options);
    if (reply instanceof Promise) throw new Error("the reply takes its time");
    return reply;
  }

  version(msize = 65_536): Reply {
    return this.now(P.TVERSION, (w) => T.writeTversion(w, { msize, version: P.VERSION_9P2000_L }), {
      tag: P.NOTAG,
    });
  }

  attach(fid: number, aname = "", uid = 0): Reply {
    return this.now(P.TATTACH, (w) =>
      T.writeTattach(w, { fid, afid: P.NOFID, uname: "", aname, n_uname: uid }),
    );
  }

  walk(fid: number, newFid: number, ...names: readonly string[]): Reply {
    return this.now(P.TWALK, (w) => T.writeTwalk(w, { fid, newFid, names }));
  }

  open(fid: number, flags = 0): Reply {
    return this.now(P.TLOPEN, (w) => T.writeTlopen(w, { fid, flags }));
  }

  clunk(fid: number): Reply {
    return this.now(P.TCLUNK, (w) => void w.u32(fid));
  }

  /** Version and attach: fid 0 is the root. */
  ready(): this {
    this.version();
    this.attach(0);
    return this;
  }

  gather(segments: readonly Segment[], length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    let done = 0;
    for (const segment of segments) {
      const step = Math.min(segment.length, length - done);
      bytes.set(this.bytes.subarray(segment.gpa, segment.gpa + step), done);
      done += step;
    }
    return bytes;
  }

  #place(length: number, cuts: readonly number[], close: boolean): Segment[] {
    const inside = [...new Set(cuts.filter((cut) => cut > 0 && cut < length))].sort((a, b) => a - b);
    const edges = [0, ...inside, length];
    const segments: Segment[] = [];
    for (let i = 0; i + 1 < edges.length; i++) {
      const from = edges[i] ?? 0;
      const size = (edges[i + 1] ?? 0) - from;
      // A segment lies in one region.
      const first = this.#at < BORDER ? Math.min(size, BORDER - this.#at) : size;
      segments.push({ gpa: this.#at, length: first });
      if (first < size) segments.push({ gpa: BORDER, length: size - first });
      this.#at += size + (close ? 0 : GUARD);
    }
    this.#at += GUARD;
    return segments.filter((segment) => segment.length > 0);
  }

  #scatter(segments: readonly Segment[], bytes: Uint8Array): void {
    let done = 0;
    for (const { gpa, length } of segments) {
      this.bytes.set(bytes.subarray(done, done + length), gpa);
      done += length;
    }
  }

  #checkGuards(start: number, end: number, segments: readonly Segment[]): void {
    const used = new Uint8Array(end - start);
    for (const { gpa, length } of segments) used.fill(1, gpa - start, gpa - start + length);
    for (let i = 0; i < used.length; i++) {
      if (used[i] === 0 && this.bytes[start + i] !== GUARD_BYTE) {
        throw new Error(`the device wrote outside its buffers, at ${start + i}`);
      }
    }
  }

  #reuse(start: number, end: number): void {
    this.bytes.fill(GUARD_BYTE, start, end);
    this.#at = start;
  }

  /** What holds for any reply to any message. */
  #reply(message: Uint8Array, bytes: Uint8Array, room: number): Reply {
    if (bytes.length < P.HEADER_SIZE || bytes.length > room) throw new Error(`a reply of ${bytes.length}`);
    if (readLe32(bytes, 0) !== bytes.length) throw new Error("the size of a reply is not its length");
    const type = bytes[4] ?? 0;
    const tag = (bytes[5] ?? 0) | ((bytes[6] ?? 0) << 8);
    const wanted = message.length < P.HEADER_SIZE ? P.NOTAG : (message[5] ?? 0) | ((message[6] ?? 0) << 8);
    if (tag !== wanted) throw new Error(`a reply with tag ${tag} to ${wanted}`);
    if (type !== P.RLERROR && type !== (message[4] ?? 0) + 1) throw new Error(`a reply of type ${type}`);
    if (type === P.RLERROR && bytes.length !== P.RLERROR_SIZE) throw new Error("an Rlerror of odd size");
    const errno = type === P.RLERROR ? readLe32(bytes, P.HEADER_SIZE) : 0;
    if (type === P.RLERROR && (errno === 0 || errno > 4095)) throw new Error(`error ${errno}`);
    const reader = new MessageReader().start(bytes, bytes.length);
    return { type, tag, errno, written: bytes.length, bytes, reader };
  }
}
