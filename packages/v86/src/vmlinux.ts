import { decompressXz, isXz } from "./decompress/xz.ts";
import { host } from "./globals.ts";

const HEADER_MAGIC_AT = 0x202;
const HEADER_MAGIC = 0x53726448;
const VERSION_AT = 0x206;
/** Boot protocol 2.08 brought the payload fields. */
const VERSION_WITH_PAYLOAD = 0x208;
const SETUP_SECTS_AT = 0x1f1;
const PAYLOAD_OFFSET_AT = 0x248;
const PAYLOAD_LENGTH_AT = 0x24c;
/** No kernel is larger; a damaged size must not make us allocate more. */
const LARGEST_KERNEL = 256 << 20;

/**
 * The ELF `vmlinux` inside a `bzImage`, decompressed: it boots two seconds faster than the guest can decompress it. Takes
 * the formats gzip and xz. Throws an Error when the file is no bzImage, is damaged, or is compressed otherwise.
 */
export async function extractVmlinux(bzImage: Uint8Array): Promise<Uint8Array> {
  const view = new DataView(bzImage.buffer, bzImage.byteOffset, bzImage.length);
  if (bzImage.length < 0x1000 || view.getUint32(HEADER_MAGIC_AT, true) !== HEADER_MAGIC)
    throw new Error("the kernel is no bzImage");
  if (view.getUint16(VERSION_AT, true) < VERSION_WITH_PAYLOAD)
    throw new Error("the bzImage is older than 2008");
  const setupSectors = view.getUint8(SETUP_SECTS_AT) === 0 ? 4 : view.getUint8(SETUP_SECTS_AT);
  const start = (setupSectors + 1) * 512 + view.getUint32(PAYLOAD_OFFSET_AT, true);
  const length = view.getUint32(PAYLOAD_LENGTH_AT, true);
  if (length < 16 || start + length > bzImage.length) throw new Error("the bzImage is not whole");
  const payload = bzImage.subarray(start, start + length);
  const size = view.getUint32(start + length - 4, true);
  if (size > LARGEST_KERNEL) throw new Error("the bzImage is damaged");
  if (isXz(payload)) return decompressXz(payload, size);
  if (payload[0] === 0x1f && payload[1] === 0x8b) return await gunzip(payload, size);
  const magic = Array.from(payload.subarray(0, 4), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  throw new Error(`the kernel is compressed in a way that is not supported (it starts with ${magic})`);
}

/** The payload of gzip ends with its size, which here is the size of the kernel too. */
async function gunzip(payload: Uint8Array, size: number): Promise<Uint8Array> {
  const out = new Uint8Array(size);
  const stream = new host.Blob([payload]).stream().pipeThrough(new host.DecompressionStream("gzip"));
  const reader = stream.getReader();
  let filled = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done || value === undefined) break;
    if (value.length > size - filled) throw new Error("the bzImage is damaged");
    out.set(value, filled);
    filled += value.length;
  }
  if (filled !== size) throw new Error("the bzImage is damaged");
  return out;
}
