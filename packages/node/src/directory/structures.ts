import { Errno } from "virtio/backends/errno";
import { type FileSystemStatistics, NAME_MAX, type Timestamp } from "virtio/backends/file-system";
import * as linux from "../native/linux.ts";

/** What goes to system calls and comes from them in memory, beside statx. */

/** Bytes of struct statfs on 64-bit machines. */
export const STATFS_SIZE = 120;

export function statisticsOf(bytes: Uint8Array): FileSystemStatistics {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const word = (index: number): number => Number(view.getBigUint64(8 * index, true));
  return {
    type: view.getUint32(0, true),
    blockSize: word(1),
    blocks: word(2),
    blocksFree: word(3),
    blocksAvailable: word(4),
    files: word(5),
    filesFree: word(6),
    id: view.getUint32(56, true) + (view.getUint32(60, true) & 0x1fffff) * 2 ** 32,
    nameMax: Math.min(word(8), NAME_MAX),
  };
}

/** A time as utimensat(2) takes it: seconds and nanoseconds. */
export function timespec(time: Timestamp | "now" | undefined): [bigint, bigint] {
  if (time === undefined) return [0n, BigInt(linux.UTIME_OMIT)];
  if (time === "now") return [0n, BigInt(linux.UTIME_NOW)];
  const { seconds, nanoseconds } = time;
  if (!Number.isSafeInteger(seconds) || !(nanoseconds >= 0 && nanoseconds < 1e9)) throw Errno.of("EINVAL");
  return [BigInt(seconds), BigInt(Math.trunc(nanoseconds))];
}
