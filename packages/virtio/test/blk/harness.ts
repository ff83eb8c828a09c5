import { BlkDevice } from "../../src/devices/blk/device.ts";
import type { BlkOptions } from "../../src/devices/blk/options.ts";
import type { BlockBackend } from "../../src/backends/block.ts";
import { type DeviceContext, LATER, type MaybePromise, type RunningQueue } from "../../src/device/device.ts";
import { writeLe32 } from "../../src/memory/bytes.ts";
import type { Segment } from "../../src/memory/guest-memory.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { VIRTIO_F_VERSION_1, featureBits } from "../../src/spec/core.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";

/** Bytes between any two segments, and what they hold; a device that writes one of them is wrong. */
const GUARD = 3;
const GUARD_BYTE = 0xee;
/** Where requests are laid out. */
const ARENA = 0x1000;

export interface Outcome {
  readonly status: number;
  /** The used length. */
  readonly written: number;
  /** The device-writable bytes before the status. */
  readonly data: Uint8Array;
}

export interface RequestParts {
  readonly type: number;
  readonly sector?: number | bigint;
  /** Device-readable data after the header. */
  readonly out?: Uint8Array;
  /** Bytes of device-writable data before the status. */
  readonly in?: number;
}

/** Where the driver cut its readable and its writable bytes into descriptors: offsets, in any order, any count. */
export interface Framing {
  readonly readable: readonly number[];
  readonly writable: readonly number[];
}

const WHOLE: Framing = { readable: [], writable: [] };

/** Memory that never moves, as vhost-user's. */
class PinnedMemory extends RegionMemory {
  readonly pinned: boolean;

  constructor(pinned: boolean, ...rest: ConstructorParameters<typeof RegionMemory>) {
    super(...rest);
    this.pinned = pinned;
  }
}

/** One block device without a ring: chains are made by hand, and guest memory around them is watched. */
export class BlkHarness {
  readonly device: BlkDevice;
  readonly memory: RegionMemory;
  readonly bytes: Uint8Array;
  readonly written: { gpa: number; length: number }[] = [];
  configChanges = 0;
  context: DeviceContext;
  /** What is wrong with what a request left in the device; thrown by default. */
  fail = (fault: unknown): void => {
    throw fault;
  };
  /** Those that the device completes by itself. */
  readonly #later = new Map<DescriptorChain, (written: number) => void>();
  #next = ARENA;

  constructor(
    backend: BlockBackend,
    options: BlkOptions = {},
    decline = 0n,
    memorySize = 1 << 22,
    pinned = false,
  ) {
    this.device = new BlkDevice(backend, options);
    this.bytes = new Uint8Array(memorySize);
    this.memory = new PinnedMemory(pinned, [{ gpa: 0, bytes: this.bytes }], (gpa, length) =>
      this.written.push({ gpa, length }),
    );
    this.context = this.start((this.device.features | featureBits(VIRTIO_F_VERSION_1)) & ~decline);
  }

  /** FEATURES_OK and DRIVER_OK with these features. */
  start(features: bigint): DeviceContext {
    if (features & featureBits(VIRTIO_F_VERSION_1)) this.device.refuse(features);
    const context: DeviceContext = {
      memory: this.memory,
      features,
      live: true,
      queue: (index) => this.#queue(index),
      // A turn for each step.
      inTurns: (step) => {
        const turn = (): void => void (step() || setImmediate(turn));
        setImmediate(turn);
      },
      configChanged: () => void this.configChanges++,
      fail: (fault) => this.fail(fault),
    };
    this.device.activate(context);
    this.context = context;
    return context;
  }

  serve(chain: DescriptorChain, queue = 0): MaybePromise<number> {
    const served = this.device.queues[queue]?.serve?.(chain, this.context);
    if (served === undefined) throw new Error(`no queue ${queue}`);
    return served === LATER ? new Promise((resolve) => this.#later.set(chain, resolve)) : served;
  }

  /** Of the ring a block device needs no more than this. */
  #queue(index: number): RunningQueue {
    const never = (): never => {
      throw new Error("a block device has no use for this");
    };
    const complete = (chain: DescriptorChain, written: number): void => {
      const resolve = this.#later.get(chain);
      if (resolve === undefined) throw new Error("a chain that is not the device's was completed");
      this.#later.delete(chain);
      resolve(written);
    };
    const rings = { popAvailable: never, addUsed: never, worked: never, unpop: never };
    return { index, size: 256, complete, ...rings, flush: never, flushLazily: never };
  }

  /** The next chain takes the place of all before. */
  rewind(): void {
    this.#next = ARENA;
  }

  /** Lays a request out in guest memory, after those before. */
  chain(parts: RequestParts, framing: Framing = WHOLE): DescriptorChain {
    const out = parts.out ?? new Uint8Array(0);
    const request = new Uint8Array(16 + out.length);
    writeLe32(request, 0, parts.type);
    new DataView(request.buffer).setBigUint64(8, BigInt(parts.sector ?? 0), true);
    request.set(out, 16);
    return this.rawChain(request, (parts.in ?? 0) + 1, framing);
  }

  /** Any readable bytes and any number of writable ones. */
  rawChain(readableBytes: Uint8Array, writableLength: number, framing: Framing = WHOLE): DescriptorChain {
    const readable = this.#place(readableBytes.length, framing.readable);
    let done = 0;
    for (const { gpa, length } of readable) {
      this.bytes.set(readableBytes.subarray(done, done + length), gpa);
      done += length;
    }
    const writable = this.#place(writableLength, framing.writable);
    for (const { gpa, length } of writable) this.bytes.fill(0xa5, gpa, gpa + length);
    return { readable, writable, readableLength: readableBytes.length, writableLength, token: 0 };
  }

  async request(parts: RequestParts, framing: Framing = WHOLE): Promise<Outcome> {
    this.rewind();
    const chain = this.chain(parts, framing);
    const written = await this.serve(chain);
    return this.outcome(chain, written);
  }

  /** What the driver sees; throws when a byte outside the writable segments changed. */
  outcome(chain: DescriptorChain, written: number): Outcome {
    const all = new Uint8Array(chain.writableLength);
    let done = 0;
    for (const { gpa, length } of chain.writable) {
      all.set(this.bytes.subarray(gpa, gpa + length), done);
      done += length;
    }
    for (const { gpa, length } of [...chain.readable, ...chain.writable])
      for (const guard of [gpa - 1, gpa + length])
        if (this.bytes[guard] !== GUARD_BYTE)
          throw new Error(`the device wrote outside its buffers, at ${guard}`);
    return { status: all[all.length - 1] ?? -1, written, data: all.subarray(0, all.length - 1) };
  }

  /** Segments with guards between them, and one empty segment now and then. */
  #place(total: number, cuts: readonly number[]): Segment[] {
    const ends = [...new Set([...cuts.map((cut) => (total === 0 ? 0 : cut % total)), total])].sort(
      (a, b) => a - b,
    );
    const segments: Segment[] = [];
    let from = 0;
    for (const end of ends) {
      if (end === from) continue;
      this.bytes.fill(GUARD_BYTE, this.#next, this.#next + GUARD);
      this.#next += GUARD;
      segments.push({ gpa: this.#next, length: end - from });
      this.#next += end - from;
      this.bytes.fill(GUARD_BYTE, this.#next, this.#next + GUARD);
      from = end;
    }
    return segments;
  }
}
