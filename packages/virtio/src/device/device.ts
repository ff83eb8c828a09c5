import type { VirtioFault } from "../fault.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import type { DescriptorChain } from "../virtqueue/types.ts";
import type { DeviceWatch } from "./hint.ts";
import type { FeatureDependency } from "./features.ts";

export type MaybePromise<T> = T | Promise<T>;

/** What `serve` says of a chain that the device will end by `RunningQueue.complete`, after `serve` has returned. */
export const LATER = -1;

/** A virtqueue as its device declares it. */
export interface QueueSpec {
  /** The spec's name: `requestq`, `receiveq1`. */
  readonly name: string;
  /** Largest Queue Size offered: a power of two, at most 32768. */
  readonly maxSize: number;
  /**
   * Serves one chain and says how many bytes it wrote from the start of the writable part. A number is done now; a
   * promise, or LATER, is done later, in any order. Absent: the device pops by itself (receive queues). A rejected promise or a
   * throw that is no VirtioFault is a bug of the host; the device is then stopped with DEVICE_NEEDS_RESET.
   */
  serve?(chain: DescriptorChain, context: DeviceContext): MaybePromise<number>;
  /**
   * What chains cost differs so much, and shows so little in their bytes, that the clock is asked after each of them: a request for
   * a system call here, for a walk through a directory there.
   */
  readonly uneven?: boolean;
  /** For a queue without `serve`: the driver announced more buffers, or there is time again to pop those that are there. */
  refilled?(context: DeviceContext): void;
}

/** Device configuration space, little-endian, read and written bytewise by the transport. */
export interface ConfigSpace {
  /** Bytes. */
  readonly length: number;
  /** Fills `target` from `offset` on; the transport has checked the bounds. */
  read(offset: number, target: Uint8Array): void;
  /**
   * The driver wrote; the transport has checked the bounds. False: there is nothing that can be written, and nothing happened.
   * Absent: all of it is read-only.
   */
  write?(offset: number, source: Uint8Array, context: ConfigContext): boolean | void;
}

/** What a configuration write may look at; it can come before DRIVER_OK. */
export interface ConfigContext {
  /** Features the driver accepted, or 0n before it wrote any. */
  readonly features: bigint;
}

/** A virtqueue that is running, as the device that drives it sees it. Faults of the driver never reach the device. */
export interface RunningQueue {
  readonly index: number;
  /** Queue Size: no more chains than this can be there at once. */
  readonly size: number;
  /**
   * The next chain, or undefined: the ring is empty, stopped, reset or broken, or the time of this turn of the event loop is used
   * up. `QueueSpec.refilled` is called when it is worth asking again. Time is never used up between two chains that are popped one
   * right after the other: whoever needs several has them all, or learns at the first one.
   */
  popAvailable(): DescriptorChain | undefined;
  /** After a reset of the queue or the device this does nothing. */
  addUsed(chain: DescriptorChain, written: number): void;
  /**
   * Ends a chain of this ring for which `serve` said LATER, once: what a promise would do, without one. After a reset too, which may
   * wait for it, but then the ring is not touched: ask the context for the ring in `serve`, for it may have another one by now.
   * Those that end together are published together.
   */
  complete(chain: DescriptorChain, written: number): void;
  /**
   * For a device that pops by itself, in the middle of a chain: it has just moved so many bytes. False: the time of this turn is used
   * up; give the chain back with `unpop`, and go on with the rest of it when `QueueSpec.refilled` is called.
   */
  worked(bytes: number): boolean;
  /** Gives back the chain popped last; the next `popAvailable` yields it again. */
  unpop(chain: DescriptorChain): void;
  /** Publishes and sends the used buffer notification that is due. Call it once a batch. */
  flush(): void;
  /**
   * Publishes at once, but looks only when the guest has nothing else to do (`Scheduler.idle`) whether the driver wants a
   * notification: one that polls for its buffers, as a console does, has said by then that it needs none.
   */
  flushLazily(): void;
}

/** What the core hands a device between DRIVER_OK and reset. */
export interface DeviceContext {
  readonly memory: GuestMemory;
  /** Negotiated features. */
  readonly features: bigint;
  /** Where to say what the driver did wrong and why a request fails; absent when nobody listens. */
  readonly watch?: DeviceWatch | undefined;
  /**
   * False after a reset, for ever: guest memory is the driver's again. Look at it after every `await` and before
   * touching memory or chains.
   */
  readonly live: boolean;
  /**
   * Calls `step` again and again, a short piece of work each, in the time that this device has in each turn of the event loop, until it
   * returns true; the first time not before this turn has ended. It must throw nothing. A reset does not end it: `step` looks at `live`.
   */
  inTurns(step: () => boolean): void;
  /** The running virtqueue with this index, or undefined when the driver did not enable it. */
  queue(index: number): RunningQueue | undefined;
  /** The configuration space changed: bumps the generation and sends a configuration change notification. */
  configChanged(): void;
  /** Sets DEVICE_NEEDS_RESET and stops every queue. */
  fail(fault: VirtioFault): void;
}

/** What the core hands a device for good when it is plugged in: what does not end with a reset. */
export interface DeviceHost {
  /** Largest Queue Size of each virtqueue; less than its `maxSize` where the machine caps it. */
  readonly queueSizes: readonly number[];
  /**
   * The configuration space changed: bumps the generation, before DRIVER_OK too, and sends a configuration change
   * notification when the driver can have one.
   */
  configChanged(): void;
}

/** A device type. Knows nothing of transports, ring layouts, interrupts or the status register. */
export interface VirtioDevice<State = unknown> {
  /** Virtio device id. */
  readonly id: number;
  /** The spec's short name: `blk`, `net`, `entropy`. */
  readonly name: string;
  /** Device-type feature bits; those of the ring and the transport belong to the core. */
  readonly features: bigint;
  /** In order of their index; the largest set the device can have (a driver enables what it negotiated). */
  readonly queues: readonly QueueSpec[];
  /** What the virtqueues are called with these features, by index; absent: always as `queues` says. */
  queueNames?(features: bigint): readonly string[];
  readonly config?: ConfigSpace;
  /** PCI class code, 24 bits (0x010000 for a disk), for transports that show one. Default 0xff0000. */
  readonly pciClass?: number;
  /** Which device-type features need which others; the core holds offer and acceptance to it. */
  readonly dependencies?: readonly FeatureDependency[];
  /** Why this subset of the offered features cannot work, or undefined when it can; asked before FEATURES_OK sticks. */
  refuse?(features: bigint): string | undefined;
  /** Once, before all else. */
  plugged?(host: DeviceHost): void;
  /** DRIVER_OK was set (or the device was restored or resumed). */
  activate?(context: DeviceContext): void;
  /**
   * Drop everything of the driver's. The context of `activate` is dead from now on: memory that is not `pinned` is never
   * touched again for what it had asked for. A promise says when the next `activate` may come, and its driver need not wait
   * for it; until it is kept there is no second call.
   */
  reset?(): MaybePromise<void>;
  /** One virtqueue was reset; chains of it are gone. */
  resetQueue?(index: number): void;
  /**
   * Called at rest: nothing is in flight. JSON-like, with Uint8Array allowed. `lost` is told, in words, what the state cannot
   * hold, so that it is known when it is saved and not only when it is missed.
   */
  save?(lost?: (what: string) => void): State;
  /** `state` is untrusted: validate, then adopt whole or throw. */
  restore?(state: unknown): void;
}
