import type { DmaMemory } from "../../driver/types.ts";
import type { Gpa, Segment } from "../../memory/guest-memory.ts";
import { VIRTIO_BLK_REQ_SIZE } from "../../spec/blk.ts";

const PAGE = 4096;
/** Header, status byte and padding. */
const FRAME = 32;

/** The DMA memory of one request in flight. */
export interface Slot {
  readonly header: Segment;
  readonly status: Segment;
  readonly data: Gpa;
}

/** A bounded set of slots, allocated when first needed; who finds none free waits in line. */
export class SlotPool {
  readonly #memory: DmaMemory;
  readonly #limit: number;
  readonly #dataSize: number;
  readonly #all: Slot[] = [];
  readonly #free: Slot[] = [];
  readonly #waiting: { give: (slot: Slot) => void; fail: (error: Error) => void }[] = [];
  #closed: Error | undefined;

  constructor(memory: DmaMemory, limit: number, dataSize: number) {
    this.#memory = memory;
    this.#limit = limit;
    this.#dataSize = dataSize;
  }

  async take(): Promise<Slot> {
    if (this.#closed !== undefined) throw this.#closed;
    const slot = this.#free.pop();
    if (slot !== undefined) return slot;
    if (this.#all.length < this.#limit) return this.#allocate();
    return new Promise((give, fail) => this.#waiting.push({ give, fail }));
  }

  give(slot: Slot): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(slot);
    else next.give(slot);
  }

  /** Only when the device has let go of every slot, which a reset makes sure of. */
  close(reason: Error): void {
    this.#closed = reason;
    for (const { fail } of this.#waiting.splice(0)) fail(reason);
    for (const { data, header } of this.#all.splice(0)) {
      this.#memory.free(data, this.#dataSize);
      this.#memory.free(header.gpa, FRAME);
    }
  }

  #allocate(): Slot {
    const data = this.#memory.allocate(this.#dataSize, PAGE);
    const frame = this.#memory.allocate(FRAME, 16);
    const slot: Slot = {
      data,
      header: { gpa: frame, length: VIRTIO_BLK_REQ_SIZE },
      status: { gpa: frame + VIRTIO_BLK_REQ_SIZE, length: 1 },
    };
    this.#all.push(slot);
    return slot;
  }
}
