import { libc, type Address } from "./libc.ts";

const bases = new WeakMap<ArrayBufferLike, Address>();
/** Most calls are for the same buffer as the one before. */
let lastBuffer: ArrayBufferLike | undefined;
let lastBase: Address = 0;

/**
 * Where these bytes lie in this process, for system calls that take addresses. Right for as long as the buffer is reachable and not
 * detached: hold on to it while the system works on it.
 */
export function addressOf(bytes: Uint8Array): Address {
  const { buffer } = bytes;
  if (buffer !== lastBuffer) {
    let base = bases.get(buffer);
    if (base === undefined) {
      base = libc("I/O by address").address(new Uint8Array(buffer, 0, 1));
      bases.set(buffer, base);
    }
    lastBuffer = buffer;
    lastBase = base;
  }
  return lastBase + bytes.byteOffset;
}
