import type { FileEntry } from "./types.ts";

/** What a worker does: one thing, on one file system. */
export type FileWork =
  | { readonly kind: "list"; readonly path: string }
  | { readonly kind: "size"; readonly path: string }
  | { readonly kind: "read"; readonly path: string; readonly position: number; readonly length: number }
  | { readonly kind: "write"; readonly path: string; readonly position: number; readonly source: Uint8Array };

export interface FileWorkerData {
  readonly type: "ext4" | "fat";
  readonly channel: SharedArrayBuffer;
  /** Sectors of the file system. */
  readonly sectors: number;
  readonly work: FileWork;
}

/** What a worker says. */
export type FileReport =
  | { readonly kind: "disk" }
  | { readonly kind: "mounted" }
  | { readonly kind: "piece"; readonly bytes: Uint8Array }
  | { readonly kind: "wrote"; readonly bytes: number }
  | { readonly kind: "entries"; readonly entries: readonly FileEntry[] }
  | { readonly kind: "done"; readonly value: number }
  | { readonly kind: "failed"; readonly message: string };

/**
 * How a worker gets at the disk that the main thread drives: it writes what it wants into shared memory, says so, and
 * sleeps until the words say that it was done. When the disk fails it is ended in its sleep.
 */
export const CHANNEL = {
  /** Words: 0 while the main thread works, else a RESULT. */
  result: 0,
  /** 0 read, 1 write, 2 flush. */
  operation: 1,
  /** 64 bits, the low half first: 32 would reach 2 TiB. */
  sector: 2,
  count: 4,
} as const;
export const RESULT = { pending: 0, done: 1 } as const;
export const CHANNEL_WORDS = 5;
/** Bytes of a transfer at most. */
export const CHANNEL_DATA = 65_536;
/** Bytes of a whole channel. */
export const CHANNEL_BYTES: number = CHANNEL_WORDS * 4 + CHANNEL_DATA;
/** Both ends' way to the sector in a channel's words. */
export function setSector(words: Int32Array, sector: number): void {
  words[CHANNEL.sector] = sector;
  words[CHANNEL.sector + 1] = Math.floor(sector / 2 ** 32);
}

export function sectorOf(words: Int32Array): number {
  const [low = 0, high = 0] = words.subarray(CHANNEL.sector, CHANNEL.sector + 2);
  return (low >>> 0) + (high >>> 0) * 2 ** 32;
}
/** Bytes of a file in one report. */
export const PIECE: number = 1 << 20;
/** Entries of a directory: beyond it is broken, or of no use to somebody who reads. */
export const MAX_ENTRIES = 100_000;
