import { partOption } from "../check-option.ts";
import type { MaybePromise } from "../device/device.ts";
import { allDone } from "../all-done.ts";
import type { BlockBackend } from "./block.ts";
import { MemoryBudget } from "./memory-budget.ts";
import { SectorSet } from "./sector-set.ts";
import { SparseBlockBackend } from "./sparse-block.ts";

const SECTOR = 512;

/**
 * Copy-on-write: what is written goes to `top`, all else is read from `base`, which is never changed (QEMU's
 * `snapshot=on`). Kept by the unit of I/O and not by larger clusters, so nothing is ever copied up from the base.
 */
export class OverlayBlockBackend implements BlockBackend {
  readonly size: number;
  readonly readOnly = false;
  readonly asynchronous: boolean;
  readonly blockSize: number;
  readonly physicalBlockSize: number;
  readonly readv?: (offset: number, targets: readonly Uint8Array[]) => void;
  readonly writev?: (offset: number, sources: readonly Uint8Array[]) => void;
  readonly discard?: (offset: number, length: number) => MaybePromise<void>;
  readonly writeZeroes?: (offset: number, length: number, unmap: boolean) => MaybePromise<void>;
  onResize: (() => void) | undefined;
  readonly #base: BlockBackend;
  readonly #top: BlockBackend;
  /** Sectors that are in `top`. */
  readonly #present: SectorSet;

  /**
   * @param top is writable and at least as large as `base`; what it holds at first is not looked at. Default: RAM
   * @param budget what `top` in RAM and the books take together; a write or discard that needs more fails. Default: no bound
   */
  constructor(
    base: BlockBackend,
    top?: BlockBackend,
    budget: MemoryBudget = new MemoryBudget(Infinity, "an overlay"),
  ) {
    partOption("overlay disk: base", base, "a BlockBackend", "read");
    if (top !== undefined) checkTop(top, base.size);
    partOption("overlay disk: budget", budget, "a MemoryBudget", "take");
    this.#present = new SectorSet(budget);
    top ??= new SparseBlockBackend(base.size, budget);
    this.#base = base;
    this.#top = top;
    this.size = base.size;
    this.asynchronous = base.asynchronous || top.asynchronous;
    this.blockSize = Math.max(base.blockSize ?? SECTOR, top.blockSize ?? SECTOR);
    this.physicalBlockSize = Math.max(
      this.blockSize,
      base.physicalBlockSize ?? SECTOR,
      top.physicalBlockSize ?? SECTOR,
    );
    if (!this.asynchronous && base.readv !== undefined && top.readv !== undefined)
      this.readv = (offset, targets) => this.#readv(offset, targets);
    if (!this.asynchronous && top.writev !== undefined)
      this.writev = (offset, sources) =>
        void this.#written(offset, totalLength(sources), top.writev?.(offset, sources));
    // After a discard the sectors stay with the top: old data of the base must not come back.
    if (top.discard !== undefined)
      this.discard = (offset, length) => this.#written(offset, length, top.discard?.(offset, length));
    if (top.writeZeroes !== undefined)
      this.writeZeroes = (offset, length, unmap) =>
        this.#written(offset, length, top.writeZeroes?.(offset, length, unmap));
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    const first = offset / SECTOR;
    const end = first + Math.ceil(target.length / SECTOR);
    const next = this.#present.runEnd(first, end);
    if (next === end) return this.#side(first).read(offset, target);
    const pending: Promise<void>[] = [];
    try {
      for (let from = first, to = next; from < end; from = to, to = this.#present.runEnd(from, end)) {
        const piece = target.subarray((from - first) * SECTOR, (to - first) * SECTOR);
        const done = this.#side(from).read(from * SECTOR, piece);
        if (done !== undefined) pending.push(done);
      }
    } catch (error) {
      // Those that are under way still write into `target`: the failure is told when they have ended.
      if (pending.length === 0) throw error;
      return Promise.allSettled(pending).then(() => Promise.reject(error));
    }
    if (pending.length > 0) return allDone(pending);
  }

  write(offset: number, source: Uint8Array): MaybePromise<void> {
    return this.#written(offset, source.length, this.#top.write(offset, source));
  }

  flush(): MaybePromise<void> {
    return this.#top.flush();
  }

  async close(): Promise<void> {
    await this.#top.close?.();
    await this.#base.close?.();
  }

  #readv(offset: number, targets: readonly Uint8Array[]): void {
    const first = offset / SECTOR;
    const end = first + Math.ceil(totalLength(targets) / SECTOR);
    for (let from = first, to = first; from < end; from = to) {
      to = this.#present.runEnd(from, end);
      const whole = from === first && to === end;
      const pieces = whole ? targets : slice(targets, (from - first) * SECTOR, (to - from) * SECTOR);
      void this.#side(from).readv?.(from * SECTOR, pieces);
    }
  }

  #side(sector: number): BlockBackend {
    return this.#present.has(sector) ? this.#top : this.#base;
  }

  #written(offset: number, length: number, done: MaybePromise<void>): MaybePromise<void> {
    if (done !== undefined) return done.then(() => this.#written(offset, length, undefined));
    this.#present.add(offset / SECTOR, Math.ceil((offset + length) / SECTOR));
  }
}

function checkTop(top: BlockBackend, size: number): void {
  partOption("overlay disk: top", top, "a BlockBackend", "write");
  if (top.readOnly) throw new RangeError("overlay disk: top must be writable, and is read-only");
  if (!(top.size >= size))
    throw new RangeError(
      `overlay disk: top must be at least as large as the base of ${size} bytes, not ${top.size}`,
    );
}

function totalLength(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((sum, { length }) => sum + length, 0);
}

/** The `length` bytes from `start` on of buffers that are one behind the other. */
function slice(buffers: readonly Uint8Array[], start: number, length: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const buffer of buffers) {
    const piece = buffer.subarray(Math.max(0, start - at), Math.max(0, start + length - at));
    if (piece.length > 0) pieces.push(piece);
    at += buffer.length;
  }
  return pieces;
}
