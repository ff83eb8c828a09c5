import type { DmaMemory } from "../../driver/types.ts";
import type { Gpa, Segment } from "../../memory/guest-memory.ts";
import { VIRTIO_BLK_REQ_SIZE } from "../../spec/blk.ts";

const PAGE = 4096;
/** Header, status byte and padding. */
const FRAME = 32;
/** Of the status byte in a frame. */
export const STATUS_AT: number = VIRTIO_BLK_REQ_SIZE;

const NOTHING = new Uint8Array(0);

/** The DMA memory of one request in flight. What describes it is made once, for a request is to allocate nothing. */
export class Slot {
  readonly data: Gpa;
  /** Header and status byte. */
  readonly frame: Gpa;
  /** The data in one piece; the length is that of the request. */
  readonly piece: { readonly gpa: Gpa; length: number };
  readonly header: Segment;
  readonly status: Segment;
  readonly headerOnly: readonly Segment[];
  readonly headerAndData: readonly Segment[];
  readonly dataAndStatus: readonly Segment[];
  readonly statusOnly: readonly Segment[];
  readonly #memory: DmaMemory;
  readonly #size: number;
  #epoch = -1;
  #frameBytes: Uint8Array = NOTHING;
  #dataBytes: Uint8Array = NOTHING;

  constructor(memory: DmaMemory, data: Gpa, size: number, frame: Gpa) {
    this.#memory = memory;
    this.#size = size;
    this.data = data;
    this.frame = frame;
    this.piece = { gpa: data, length: 0 };
    this.header = { gpa: frame, length: VIRTIO_BLK_REQ_SIZE };
    this.status = { gpa: frame + STATUS_AT, length: 1 };
    this.headerOnly = [this.header];
    this.headerAndData = [this.header, this.piece];
    this.dataAndStatus = [this.piece, this.status];
    this.statusOnly = [this.status];
  }

  /** The bytes of the frame; not to be kept. */
  get frameBytes(): Uint8Array {
    this.#look();
    return this.#frameBytes;
  }

  /** The bytes of the data, all that there is room for; not to be kept. */
  get dataBytes(): Uint8Array {
    this.#look();
    return this.#dataBytes;
  }

  #look(): void {
    const memory = this.#memory;
    if (memory.epoch === this.#epoch) return;
    this.#frameBytes = memory.view(this.frame, FRAME);
    this.#dataBytes = memory.view(this.data, this.#size);
    this.#epoch = memory.epoch;
  }
}

/** A bounded set of slots, allocated when first needed; who finds none free waits in line. */
export class SlotPool {
  readonly #memory: DmaMemory;
  readonly #limit: number;
  readonly #dataSize: number;
  #count = 0;
  readonly #free: Slot[] = [];
  readonly #waiting: { give: (slot: Slot) => void; fail: (error: Error) => void }[] = [];
  #closed: Error | undefined;

  constructor(memory: DmaMemory, limit: number, dataSize: number) {
    this.#memory = memory;
    this.#limit = limit;
    this.#dataSize = dataSize;
  }

  /** Undefined: none is free, `wait` for one. Throws when there is no memory, and after `close`. */
  take(): Slot | undefined {
    if (this.#closed !== undefined) throw this.#closed;
    return this.#free.pop() ?? (this.#count < this.#limit ? this.#allocate() : undefined);
  }

  wait(): Promise<Slot> {
    return new Promise((give, fail) => this.#waiting.push({ give, fail }));
  }

  give(slot: Slot): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(slot);
    else next.give(slot);
  }

  /** Ends what waits, and gives out none any more; for a device that is gone. */
  close(reason: Error): void {
    this.#closed ??= reason;
    for (const { fail } of this.#waiting.splice(0)) fail(this.#closed);
  }

  #allocate(): Slot {
    const data = this.#memory.allocate(this.#dataSize, PAGE);
    const frame = this.#memory.allocate(FRAME, 16);
    this.#count++;
    return new Slot(this.#memory, data, this.#dataSize, frame);
  }
}
