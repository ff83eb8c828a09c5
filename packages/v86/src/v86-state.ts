/** A look at what v86 saved of itself, before v86 reads it: it trusts its own files. */
import { checkJsonLimits, type JsonLimits } from "virtio/device/json-limits";

/** First of four 32-bit words: magic, version, bytes of all, bytes of the JSON that comes then. */
const MAGIC = 0x86768676;
const HEADER_SIZE = 16;
/** Ten times what it writes with all its devices. */
const LIMITS: JsonLimits = { bytes: 1 << 20, depth: 32, elements: 1 << 16, shapes: 4096 };

/**
 * Throws an Error for what v86 did not write itself, or what would take it more than bounded time and memory. Compressed states, which
 * it reads as well, are among that: nobody can say how large they become.
 */
export function checkV86State(state: ArrayBuffer): void {
  const header = new DataView(state);
  const word = (index: number): number => header.getUint32(4 * index, true);
  if (state.byteLength < HEADER_SIZE || word(0) !== MAGIC)
    throw new Error("the saved state is damaged: the machine's own part is none");
  const json = word(3);
  if (word(2) !== state.byteLength || json > state.byteLength - HEADER_SIZE)
    throw new Error("the saved state is damaged: the machine's own part has other lengths");
  checkJsonLimits("the saved state", new Uint8Array(state, HEADER_SIZE, json), LIMITS);
}
