import type { BlockBackend } from "../../backends/block.ts";
import type { GuestMemory } from "../../memory/guest-memory.ts";
import { VIRTIO_BLK_REQ_SIZE, VIRTIO_BLK_SECTOR_SIZE as SECTOR } from "../../spec/blk.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import type { Alive, BounceTransfer } from "./bounce-transfer.ts";
import { DISCARD_PIECE, LONG_BYTES, PIECE, type Pieces } from "./long-requests.ts";
import { zeroPart } from "./ranges.ts";
import type { BlkRange } from "./request.ts";
import type { DirectTransfer } from "./transfer.ts";

/** A part of the data of a read or write; through buffers where there is `bounce`. */
export function movePart(
  chain: DescriptorChain,
  direct: DirectTransfer,
  bounce: BounceTransfer | undefined,
  memory: GuestMemory,
  write: boolean,
  alive: Alive,
): Pieces["move"] {
  const { readable, writable } = chain;
  const header = VIRTIO_BLK_REQ_SIZE;
  if (bounce === undefined)
    return write
      ? (offset, length, at) => direct.write(offset, length, readable, header + at)
      : (offset, length, at) => direct.read(offset, length, writable, at);
  return write
    ? (offset, length, at) => bounce.write(offset, length, memory, readable, header + at, alive)
    : (offset, length, at) => bounce.read(offset, length, memory, writable, at, alive);
}

/** Undefined: it does not take long. */
export function discardPieces(backend: BlockBackend, ranges: readonly BlkRange[]): Pieces | undefined {
  if (backend.asynchronous || lengthOf(ranges) <= DISCARD_PIECE) return undefined;
  return { ranges, piece: DISCARD_PIECE, move: (offset, length) => backend.discard?.(offset, length) };
}

/** Undefined: it does not take long. */
export function zeroPieces(backend: BlockBackend, ranges: readonly BlkRange[]): Pieces | undefined {
  if (backend.asynchronous || lengthOf(ranges) <= LONG_BYTES) return undefined;
  const move: Pieces["move"] = (offset, length, _, range) => zeroPart(backend, range, offset, length);
  return { ranges, piece: PIECE, move };
}

/** Bytes. */
function lengthOf(ranges: readonly BlkRange[]): number {
  return ranges.reduce((sum, { sectors }) => sum + sectors * SECTOR, 0);
}
