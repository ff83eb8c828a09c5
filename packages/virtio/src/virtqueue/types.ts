import type { Gpa, Segment } from "../memory/guest-memory.ts";

/**
 * What a driver offered in one go. Validated when popped: every segment is backed, readable ones precede writable
 * ones, and the whole is below 2^32 bytes. Owned by the device from `popAvailable` to `addUsed`; the object is then
 * used again, so nothing of it may be kept.
 */
export interface DescriptorChain {
  /** Device-readable segments, in order. A descriptor that spans two memory regions is two segments. */
  readonly readable: readonly Segment[];
  /** Device-writable segments, in order. */
  readonly writable: readonly Segment[];
  /** Bytes. */
  readonly readableLength: number;
  /** Bytes. */
  readonly writableLength: number;
  /** The driver's name for it: the head index (split) or the buffer id (packed). */
  readonly token: number;
}

/** What a transport collected about a virtqueue, in the spec's names for its areas, ready to run. */
export interface QueueConfig {
  /** Virtqueue index. */
  readonly index: number;
  /** Queue Size: entries. */
  readonly size: number;
  readonly descriptorArea: Gpa;
  readonly driverArea: Gpa;
  readonly deviceArea: Gpa;
  /** VIRTIO_F_EVENT_IDX was negotiated. */
  readonly eventIdx?: boolean;
  /** VIRTIO_F_INDIRECT_DESC was negotiated. */
  readonly indirect?: boolean;
  /** VIRTIO_F_IN_ORDER was negotiated. */
  readonly inOrder?: boolean;
  /** Device side: descriptors of a chain with an indirect table that are accepted. Default, and at least, the size. */
  readonly longestChain?: number;
}

/** A ring at rest, as plain data: what save and restore carry. Hostile when it comes in. */
export interface QueueState {
  /** Split: the next available index. Packed: ring offset, with the wrap counter in bit 15. */
  readonly nextAvailable: number;
  /** Split: the next used index. Packed: ring offset, with the wrap counter in bit 15. */
  readonly nextUsed: number;
}

/** A descriptor as it stood in a packed ring: address in halves, length, flags. */
export interface RingDescriptor {
  readonly low: number;
  readonly high: number;
  readonly length: number;
  readonly flags: number;
}

/** A chain that was popped before and is to be popped again. */
export interface HeldChain {
  /** Split: the head index. Packed: the buffer id. */
  readonly token: number;
  /** Packed: its descriptors, for the ring may hold others there by now. */
  readonly descriptors?: readonly RingDescriptor[];
}

/**
 * Keeps a record of what a device queue holds, outside of the process, so that another one can go on after a crash. The
 * calls come in the order of the events; none may throw.
 */
export interface QueueTracker {
  /** A chain was popped. `ring` holds the descriptors in words of 32 bits; packed: `count` of them from `position` on. */
  popped(token: number, ring: Uint32Array, position: number, count: number): void;
  /** The chain popped last is given back. */
  returned(token: number): void;
  /** A chain is staged as used. */
  used(token: number): void;
  /** The used side is about to become `nextUsed` (as in `QueueState`) with one store. */
  publishing(nextUsed: number): void;
  /** It did. */
  published(nextUsed: number): void;
}

/** Where a ring is taken up that ran before: in another process, or under another transport's control. */
export interface QueueStart extends QueueState {
  /** Chains (split) or ring entries (packed) between the two positions: popped, and not used. Default 0. */
  readonly held?: number;
  /** Those of them that are to be served again, oldest first. */
  readonly again?: readonly HeldChain[];
  readonly tracker?: QueueTracker;
}

/** Device side of a virtqueue. Split and packed are two implementations of this one interface. */
export interface DeviceQueue {
  readonly config: QueueConfig;
  /** Chains popped and not yet used. */
  readonly inFlight: number;
  /** The next available chain, or undefined. Throws a VirtioFault on a malformed one. */
  popAvailable(): DescriptorChain | undefined;
  /**
   * Stages a chain for the used side; `takeNotification` publishes. `written` bytes from the first writable segment on
   * hold data. With VIRTIO_F_IN_ORDER chains that complete early wait for their turn.
   */
  addUsed(chain: DescriptorChain, written: number): void;
  /** Gives back the chain popped last, as if it had not been popped: the next `popAvailable` yields it again. */
  unpop(chain: DescriptorChain): void;
  /** Publishes what is staged; the next `takeNotification` decides on the notification for it. */
  publish(): void;
  /** Publishes what is staged, and says whether the driver must get a used buffer notification. */
  takeNotification(): boolean;
  /** Asks for available buffer notifications, or not. True: chains are there already, keep popping. */
  setNotifications(on: boolean): boolean;
  /** Where the ring stands; to be taken up from there it must be at rest (`inFlight` 0). */
  save(): QueueState;
}

/** Driver side of a virtqueue. */
export interface DriverQueue {
  readonly config: QueueConfig;
  /** Descriptors that can still be offered. */
  readonly free: number;
  /** Stages one chain; `takeNotification` publishes. Its token, or undefined when the ring is full. */
  addAvailable(readable: readonly Segment[], writable: readonly Segment[]): number | undefined;
  /**
   * The next used chain, or undefined. `written` never exceeds what was offered as writable. Throws a VirtioFault on a
   * device that lies. The object is valid until the next call.
   */
  popUsed(): { readonly token: number; readonly written: number } | undefined;
  /** Publishes what is staged, and says whether the device must get an available buffer notification. */
  takeNotification(): boolean;
  /** Asks for used buffer notifications, or not. True: used chains are there already, keep popping. */
  setNotifications(on: boolean): boolean;
  /** What VIRTIO_F_NOTIFICATION_DATA carries above the virtqueue index: next_off and, in bit 15, next_wrap. */
  readonly notificationData: number;
}
