import type { BlkDriver } from "virtio/drivers/blk/driver";
import type { Context } from "../command.ts";
import { CommandError } from "../errors.ts";

export const SECTOR = 512;
/** Bytes moved at a time: between two pieces Ctrl-C is heard and progress is shown. */
const PIECE = 1 << 20;

/** Logical blocks that are taken at their word; a device that says another size gets requests of sectors. */
const LARGEST_BLOCK = 65_536;

/**
 * A disk while a command works on it. Offsets and lengths are sectors of 512 bytes; requests are whole logical blocks, as QEMU's
 * devices demand.
 */
export class Disk {
  readonly #blk: BlkDriver;
  readonly #context: Pick<Context, "wait">;
  readonly #name: string;

  constructor(blk: BlkDriver, name: string, context: Pick<Context, "wait">) {
    this.#blk = blk;
    this.#name = name;
    this.#context = context;
  }

  get sectors(): number {
    return this.#blk.info.capacity;
  }

  /** Bytes of a logical block: what partition tables and `virtio read` count in. */
  get blockSize(): number {
    const { blkSize } = this.#blk.info;
    const power = blkSize >= SECTOR && blkSize <= LARGEST_BLOCK && Number.isInteger(Math.log2(blkSize));
    return power ? blkSize : SECTOR;
  }

  /** Sectors in a logical block. */
  get unit(): number {
    return this.blockSize / SECTOR;
  }

  /** Logical blocks. */
  get blocks(): number {
    return Math.floor(this.sectors / this.unit);
  }

  get readOnly(): boolean {
    return this.#blk.info.readOnly;
  }

  /** Throws a CommandError when the disk does not answer, and what the driver throws when it ends before. */
  async read(sector: number, target: Uint8Array, moved?: (bytes: number) => void): Promise<void> {
    for (let at = 0; at < target.length; at += PIECE) {
      const length = Math.min(PIECE, target.length - at);
      target.set(await this.#readPiece(sector + at / SECTOR, length), at);
      moved?.(at + length);
    }
  }

  async write(sector: number, source: Uint8Array, moved?: (bytes: number) => void): Promise<void> {
    for (let at = 0; at < source.length; at += PIECE) {
      const piece = source.slice(at, at + PIECE);
      await this.#writePiece(sector + at / SECTOR, piece);
      moved?.(at + piece.length);
    }
  }

  async flush(): Promise<void> {
    await this.#context.wait(this.#blk.flush(), `${this.#name}: flushing`);
  }

  /** Not into the target itself: an answer that comes after Ctrl-C must not change it. */
  async #readPiece(sector: number, length: number): Promise<Uint8Array> {
    const before = sector % this.unit;
    const bytes = new Uint8Array(Math.ceil((before * SECTOR + length) / this.blockSize) * this.blockSize);
    const what = `${this.#name}: reading block ${sector}`;
    await this.#context.wait(this.#blk.read(sector - before, bytes), what);
    return bytes.subarray(before * SECTOR, before * SECTOR + length);
  }

  /** Parts of logical blocks are read first. */
  async #writePiece(sector: number, piece: Uint8Array): Promise<void> {
    const before = sector % this.unit;
    const length = Math.ceil((before * SECTOR + piece.length) / this.blockSize) * this.blockSize;
    let bytes = piece;
    if (length !== piece.length) {
      bytes = await this.#readPiece(sector - before, length);
      bytes.set(piece, before * SECTOR);
    }
    const what = `${this.#name}: writing block ${sector}`;
    await this.#context.wait(this.#blk.write(sector - before, bytes), what);
  }
}

/** The part of a disk that a file system is in. */
export interface Extent {
  /** Sectors. */
  readonly start: number;
  readonly sectors: number;
}

/** Where a partition is, which counts in logical blocks. Throws a CommandError when it does not fit its disk. */
export function extentOf(
  disk: Disk,
  {
    number,
    start,
    sectors: blocks,
  }: { readonly number: number; readonly start: number; readonly sectors: number },
): Extent {
  if (blocks === 0 || start + blocks > disk.blocks)
    throw new CommandError(
      `** partition ${number}: blocks ${start} to ${start + blocks} do not fit a disk of ${disk.blocks} **`,
    );
  return { start: start * disk.unit, sectors: blocks * disk.unit };
}
