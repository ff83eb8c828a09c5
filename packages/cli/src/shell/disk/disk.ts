import type { BlkDriver } from "virtio/drivers/blk/driver";
import type { Context } from "../command.ts";
import { CommandError } from "../errors.ts";

export const SECTOR = 512;
/** Bytes moved at a time: between two pieces Ctrl-C is heard and progress is shown. */
const PIECE = 1 << 20;

/** A disk while a command works on it. Offsets and lengths are sectors of 512 bytes. */
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

  get readOnly(): boolean {
    return this.#blk.info.readOnly;
  }

  /** Throws a CommandError when the disk ends before, or does not answer. */
  async read(sector: number, target: Uint8Array, moved?: (bytes: number) => void): Promise<void> {
    for (let at = 0; at < target.length; at += PIECE) {
      // Not into the target itself: an answer that comes after Ctrl-C must not change it.
      const piece = new Uint8Array(Math.min(PIECE, target.length - at));
      const what = `${this.#name}: reading block ${sector + at / SECTOR}`;
      await this.#context.wait(this.#blk.read(sector + at / SECTOR, piece), what);
      target.set(piece, at);
      moved?.(at + piece.length);
    }
  }

  async write(sector: number, source: Uint8Array, moved?: (bytes: number) => void): Promise<void> {
    for (let at = 0; at < source.length; at += PIECE) {
      const piece = source.slice(at, at + PIECE);
      const what = `${this.#name}: writing block ${sector + at / SECTOR}`;
      await this.#context.wait(this.#blk.write(sector + at / SECTOR, piece), what);
      moved?.(at + piece.length);
    }
  }

  async flush(): Promise<void> {
    await this.#context.wait(this.#blk.flush(), `${this.#name}: flushing`);
  }
}

/** The part of a disk that a file system is in. */
export interface Extent {
  /** Sectors. */
  readonly start: number;
  readonly sectors: number;
}

/** Throws a CommandError when a partition does not fit its disk. */
export function checkExtent(disk: Disk, { start, sectors }: Extent, what: string): void {
  if (sectors === 0 || start + sectors > disk.sectors)
    throw new CommandError(
      `** ${what}: blocks ${start} to ${start + sectors} do not fit a disk of ${disk.sectors} **`,
    );
}
