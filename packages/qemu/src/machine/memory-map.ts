import { QemuError } from "../error.ts";

/** A piece of the machine's memory, and where it is in the memory back-end. */
export interface MemoryPiece {
  readonly gpa: number;
  /** Bytes. */
  readonly length: number;
  /** From the start of the back-end. */
  readonly offset: number;
}

/**
 * Where the memory back-end `id` is in the machine's address space, as `info mtree -f` prints it:
 * `0000000000100000-0000000007ffffff (prio 0, ram): ram @0000000000100000`. No table of machines would know what a
 * user's options do to it.
 */
export function readMemoryMap(text: string, id: string): readonly MemoryPiece[] {
  const view = text.split(/^FlatView #\d+$/m).find((part) => /^\s*AS "memory", root: system$/m.test(part));
  if (view === undefined) throw new QemuError("QEMU prints no view of the machine's memory");
  const pieces: MemoryPiece[] = [];
  const line = /^\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ram\): (\S+)(?: @([0-9a-f]{16}))?/gm;
  for (const [, first = "", last = "", name, offset = "0"] of view.matchAll(line)) {
    const gpa = Number.parseInt(first, 16);
    const length = Number.parseInt(last, 16) + 1 - gpa;
    if (name === id && gpa + length <= 2 ** 53)
      pieces.push({ gpa, length, offset: Number.parseInt(offset, 16) });
  }
  if (pieces.length === 0) throw new QemuError("the machine has no memory that can be shared");
  return pieces;
}
