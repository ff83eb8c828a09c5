import { VirtioFault } from "../fault.ts";
import type { Gpa, GuestMemory } from "../memory/guest-memory.ts";

/**
 * The bytes of one area of a virtqueue (descriptor, driver or device area), checked for alignment and backing. Typed
 * arrays are made on them once per memory epoch.
 */
export function areaBytes(
  memory: GuestMemory,
  queue: number,
  area: { readonly name: string; readonly gpa: Gpa; readonly length: number; readonly alignment: number },
  clause: string,
): Uint8Array {
  const { name, gpa, length, alignment } = area;
  if (gpa % alignment !== 0)
    throw new VirtioFault(clause, `${name} area is not aligned to ${alignment} bytes`, { queue, value: gpa });
  if (memory.contiguous(gpa, length) < length)
    throw new VirtioFault(clause, `${name} area of ${length} bytes is not in guest memory`, {
      queue,
      value: gpa,
    });
  return memory.view(gpa, length);
}

export function halves(bytes: Uint8Array): Uint16Array {
  return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 1);
}

export function words(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
}

/** Whether moving an index from `old` to `now` passes `event`: the rule of "Available Buffer Notification Suppression". */
export function passesEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
}

/** One DataView a buffer, kept while tables keep lying in the same one: indirect tables have no alignment. */
export class BufferView {
  #view: DataView<ArrayBufferLike> = new DataView(new ArrayBuffer(0));

  /** Of the whole buffer: add `bytes.byteOffset` to every offset. */
  over(bytes: Uint8Array): DataView {
    if (this.#view.buffer !== bytes.buffer) this.#view = new DataView(bytes.buffer);
    return this.#view;
  }
}
