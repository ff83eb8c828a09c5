import type { Gpa } from "virtio/memory/guest-memory";
import type { QueueConfig } from "virtio/virtqueue/types";

/**
 * Both sides of a virtqueue once more, written naively after the spec's text and straight onto memory, to test the
 * real ones against. They keep no caches and take no short cuts, and they can do what a correct side never does.
 */

/** One descriptor as its writer wants it, right or wrong. */
export interface RawDescriptor {
  readonly addr: bigint;
  readonly len: number;
  readonly flags: number;
  /** Split: `next`. Packed: `id`. */
  readonly next: number;
}

/** One buffer element. */
export interface Element {
  readonly gpa: Gpa;
  readonly length: number;
  readonly writable: boolean;
}

export interface OfferOptions {
  /** This many elements in direct descriptors, the rest in an indirect table. Absent: all direct. */
  readonly directBefore?: number;
  /** The reserved or ignored WRITE flag in the descriptor that refers to the table. */
  readonly writeFlagOnTable?: boolean;
}

/** What the driver learns of a used buffer; `written` is undefined when an in-order device skipped its element. */
export interface RawUsed {
  readonly token: number;
  readonly written: number | undefined;
}

export interface RawDriver {
  readonly config: QueueConfig;
  /** Descriptors not in use. */
  readonly free: number;
  /** Descriptors that an offer takes. */
  cost(elements: readonly Element[], options?: OfferOptions): number;
  /** Writes descriptors without making them available. Its token, or undefined when there is no room. */
  offer(elements: readonly Element[], options?: OfferOptions): number | undefined;
  /** Makes available what was offered. True: the spec demands an available buffer notification. */
  publish(): boolean;
  /** Used buffers since the last call. */
  collect(): RawUsed[];
  /** What the device is told about used buffer notifications; `at` counts buffers from now on (event index only). */
  wantNotifications(want: boolean, at?: number): void;
  /** Whether the spec demands a used buffer notification for the buffers that the device used just now. */
  notificationDue(tokens: readonly number[]): boolean;
}

/** What the device finds in the ring. */
export interface RawChain {
  readonly token: number;
  readonly elements: readonly Element[];
}

export interface RawDevice {
  readonly config: QueueConfig;
  /** Every chain made available since the last call. Throws when the driver broke a rule of the format. */
  take(): RawChain[];
  /**
   * Marks chains as used, visible at once. `once`: one element for the whole batch, as VIRTIO_F_IN_ORDER allows. True:
   * the spec demands a used buffer notification.
   */
  use(used: readonly { readonly token: number; readonly written: number }[], once?: boolean): boolean;
  /** What the driver is told about available buffer notifications. */
  wantNotifications(want: boolean): void;
  /** Whether the spec demands an available buffer notification for the chains that `take` yielded last. */
  notificationDue(chains: readonly RawChain[]): boolean;
}
