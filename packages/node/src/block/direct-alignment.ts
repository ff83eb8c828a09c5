import { readSync } from "node:fs";
import { addressOf } from "../native/address.ts";
import type { DirectAlignment } from "./direct-file-io.ts";

/** Sector sizes of disks. */
const CANDIDATES = [512, 4096] as const;

/** What O_DIRECT asks of requests to this file, found by asking; undefined: it cannot be had. */
export function directAlignment(fd: number): DirectAlignment | undefined {
  const bytes = new Uint8Array(3 * 4096);
  const start = -addressOf(bytes) & 4095;
  for (const offset of CANDIDATES) {
    if (!reads(fd, bytes.subarray(start, start + offset))) continue;
    // A buffer that lies at an odd multiple of 512 tells whether 512 is enough.
    const memory = reads(fd, bytes.subarray(start + 512, start + 512 + offset)) ? 512 : 4096;
    return { memory, offset };
  }
  return undefined;
}

function reads(fd: number, target: Uint8Array): boolean {
  try {
    readSync(fd, target, 0, target.length, 0);
    return true;
  } catch {
    return false;
  }
}
