import { partOption, wholeOption } from "../check-option.ts";
import type { AccessSize, IoHandler, IoSpace } from "./types.ts";

interface Window {
  readonly base: number;
  /** One past the last address. */
  readonly end: number;
  readonly handler: IoHandler;
}

/**
 * An address space of this process: memory-mapped registers or ports, dispatched to the windows mapped into it.
 * Addresses are below 2^53. Where no window is, reads give all ones and writes are lost, as on a real bus.
 */
export class AddressSpace implements IoSpace {
  /** In order of their base, without overlap. */
  readonly #windows: Window[] = [];
  /** The window of the last access: registers are accessed in bursts. */
  #last: Window | undefined;

  /** Throws a RangeError on a window that overlaps another, or ends beyond 2^53; nothing is mapped then. */
  map(base: number, length: number, handler: IoHandler): () => void {
    wholeOption("address space: base of a window", base, 0, Number.MAX_SAFE_INTEGER);
    wholeOption("address space: length of a window", length, 1, Number.MAX_SAFE_INTEGER - base);
    partOption("address space: handler of a window", handler, "an IoHandler", "read");
    const end = base + length;
    const at = this.#firstAfter(base);
    const before = this.#windows[at - 1];
    const after = this.#windows[at];
    if ((before !== undefined && before.end > base) || (after !== undefined && after.base < end)) {
      throw new RangeError(`window 0x${base.toString(16)}-0x${(end - 1).toString(16)} overlaps another`);
    }
    const window = { base, end, handler };
    this.#windows.splice(at, 0, window);
    return () => this.#unmap(window);
  }

  /** Whether `map` with the same range would succeed. */
  isFree(base: number, length: number): boolean {
    const at = this.#firstAfter(base);
    const before = this.#windows[at - 1];
    const after = this.#windows[at];
    return (
      !(before !== undefined && before.end > base) && !(after !== undefined && after.base < base + length)
    );
  }

  /** The value is unsigned. An access that no single window holds is taken apart into bytes. */
  read(address: number, size: AccessSize): number {
    const window = this.#find(address);
    if (window !== undefined && address + size <= window.end) {
      return window.handler.read(address - window.base, size) >>> 0;
    }
    if (size === 1) return 0xff;
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.read(address + i, 1);
    return value;
  }

  write(address: number, size: AccessSize, value: number): void {
    const window = this.#find(address);
    if (window !== undefined && address + size <= window.end) {
      window.handler.write(address - window.base, size, value);
      return;
    }
    if (size === 1) return;
    for (let i = 0; i < size; i++) this.write(address + i, 1, (value >>> (8 * i)) & 0xff);
  }

  #find(address: number): Window | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.base && address < last.end) return last;
    const window = this.#windows[this.#firstAfter(address) - 1];
    if (window === undefined || address >= window.end) return undefined;
    this.#last = window;
    return window;
  }

  /** Index of the first window whose base is above `address`. */
  #firstAfter(address: number): number {
    let low = 0;
    let high = this.#windows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const window = this.#windows[middle];
      if (window !== undefined && window.base <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #unmap(window: Window): void {
    const at = this.#windows.indexOf(window);
    if (at >= 0) this.#windows.splice(at, 1);
    if (this.#last === window) this.#last = undefined;
  }
}
