import { partOption } from "../check-option.ts";
import type { MaybePromise } from "../device/device.ts";
import type { BlockBackend, BlockCompletion } from "./block.ts";

/** A disk whose storage is never changed through it; VIRTIO_BLK_F_RO is offered on it. */
export class ReadOnlyBlockBackend implements BlockBackend {
  readonly readOnly = true;
  readonly asynchronous: boolean;
  readonly readv?: (offset: number, targets: readonly Uint8Array[]) => MaybePromise<void>;
  readonly startRead?: (
    offset: number,
    targets: readonly Uint8Array[],
    completion: BlockCompletion,
  ) => boolean;
  readonly startWrite?: () => never;
  readonly #base: BlockBackend;

  constructor(base: BlockBackend) {
    partOption("read-only disk: base", base, "a BlockBackend", "read");
    this.#base = base;
    this.asynchronous = base.asynchronous;
    if (base.readv !== undefined) this.readv = (offset, targets) => base.readv?.(offset, targets);
    if (base.startRead === undefined) return;
    this.startRead = base.startRead.bind(base);
    this.startWrite = () => this.write();
  }

  get size(): number {
    return this.#base.size;
  }

  get blockSize(): number {
    return this.#base.blockSize ?? 512;
  }

  get physicalBlockSize(): number {
    return this.#base.physicalBlockSize ?? this.blockSize;
  }

  get onResize(): (() => void) | undefined {
    return this.#base.onResize;
  }

  set onResize(listener: (() => void) | undefined) {
    this.#base.onResize = listener;
  }

  read(offset: number, target: Uint8Array): MaybePromise<void> {
    return this.#base.read(offset, target);
  }

  write(): never {
    throw new Error("disk is read-only");
  }

  flush(): void {}

  close(): MaybePromise<void> {
    return this.#base.close?.();
  }
}
