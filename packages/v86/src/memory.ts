import { VirtioFault } from "virtio/fault";
import type { Gpa, GuestMemory } from "virtio/memory/guest-memory";
import type { V86Core } from "./internals.ts";

/** Where the VGA's window hides the RAM; a device that wrote there would write what the processor never sees. */
const VGA_WINDOW = { from: 0xa0000, to: 0xc0000 };

/** The guest's RAM, which moves whenever the WebAssembly memory grows (about 30 times while a guest boots). */
export class V86Memory implements GuestMemory {
  readonly #core: V86Core;
  readonly #size: number;
  #bytes: Uint8Array;
  #epoch = 0;

  constructor(core: V86Core) {
    this.#core = core;
    this.#size = core.memorySize;
    this.#bytes = new Uint8Array(core.buffer, core.ramOffset, this.#size);
  }

  get epoch(): number {
    this.#current();
    return this.#epoch;
  }

  view(gpa: Gpa, length: number): Uint8Array {
    if (this.contiguous(gpa, length) < length || length < 0)
      throw new VirtioFault("memory.unbacked", `${length} bytes at this address are not guest memory`, {
        value: gpa,
      });
    return this.#current().subarray(gpa, gpa + length);
  }

  contiguous(gpa: Gpa, length: number): number {
    if (!(gpa >= 0 && gpa < this.#size)) return 0;
    if (gpa >= VGA_WINDOW.to) return Math.min(length, this.#size - gpa);
    return gpa < VGA_WINDOW.from ? Math.min(length, VGA_WINDOW.from - gpa) : 0;
  }

  wrote(gpa: Gpa, length: number): void {
    if (length > 0) this.#core.dirty(gpa, gpa + length);
  }

  #current(): Uint8Array {
    const { buffer } = this.#core;
    if (this.#bytes.buffer !== buffer) {
      this.#bytes = new Uint8Array(buffer, this.#core.ramOffset, this.#size);
      this.#epoch++;
    }
    return this.#bytes;
  }
}
