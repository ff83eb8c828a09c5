import type { Gpa, GuestMemory } from "virtio/memory/guest-memory";
import { VirtioFault } from "virtio/fault";

/** A stretch of memory that a device said it wrote. */
export interface ReportedWrite {
  readonly gpa: Gpa;
  readonly length: number;
}

interface Region {
  readonly gpa: Gpa;
  bytes: Uint8Array;
}

/**
 * Guest memory for tests: regions, a log of what was reported as written, and `move`, which does what a growing wasm
 * memory does. The test's own reads and writes go through `peek` and `poke`, so that both sides can be told apart.
 */
export class TestMemory implements GuestMemory {
  readonly #regions: Region[];
  #epoch = 1;
  /** What devices reported since the last `takeReported`. */
  #reported: ReportedWrite[] = [];

  /** Regions as [gpa, length]; they must not overlap. */
  constructor(...regions: readonly (readonly [Gpa, number])[]) {
    this.#regions = regions.map(([gpa, length]) => ({ gpa, bytes: new Uint8Array(length) }));
  }

  get epoch(): number {
    return this.#epoch;
  }

  view(gpa: Gpa, length: number): Uint8Array {
    const region = this.#find(gpa);
    if (region === undefined || gpa + length > region.gpa + region.bytes.length)
      throw new VirtioFault("memory.unbacked", `${length} bytes are not guest memory`, { value: gpa });
    return region.bytes.subarray(gpa - region.gpa, gpa - region.gpa + length);
  }

  /**
   * From here on everything counts as backed, without bytes: chains of gigabytes. Only `contiguous` knows, `view`
   * throws.
   */
  vastFrom: Gpa = Infinity;

  contiguous(gpa: Gpa, length: number): number {
    if (gpa >= this.vastFrom) return length;
    const region = this.#find(gpa);
    return region === undefined ? 0 : Math.min(length, region.gpa + region.bytes.length - gpa);
  }

  /** Called on every report: the moment at which the other side may act, in a test of a race. */
  onWrote: (() => void) | undefined;

  wrote(gpa: Gpa, length: number): void {
    this.#reported.push({ gpa, length });
    this.onWrote?.();
  }

  takeReported(): readonly ReportedWrite[] {
    const reported = this.#reported;
    this.#reported = [];
    return reported;
  }

  /** The region at `gpa` goes away; views of it are stale. */
  remove(gpa: Gpa): void {
    const at = this.#regions.findIndex((region) => region.gpa === gpa);
    this.#regions.splice(at, at < 0 ? 0 : 1);
    this.#epoch++;
  }

  /** Every region moves to a new buffer; the old one is filled with rubbish, so that a stale view shows. */
  move(): void {
    for (const region of this.#regions) {
      const old = region.bytes;
      region.bytes = old.slice();
      old.fill(0xee);
    }
    this.#epoch++;
  }

  /** A copy of the bytes; may span regions that touch. */
  peek(gpa: Gpa, length: number): Uint8Array {
    const copy = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const piece = this.contiguous(gpa + at, length - at);
      copy.set(this.view(gpa + at, piece === 0 ? length - at : piece), at);
      at += piece;
    }
    return copy;
  }

  poke(gpa: Gpa, bytes: ArrayLike<number>): void {
    for (let at = 0; at < bytes.length; at++) this.view(gpa + at, 1)[0] = bytes[at] ?? 0;
  }

  get16(gpa: Gpa): number {
    const bytes = this.view(gpa, 2);
    return (bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8);
  }

  set16(gpa: Gpa, value: number): void {
    this.view(gpa, 2).set([value & 0xff, (value >>> 8) & 0xff]);
  }

  get32(gpa: Gpa): number {
    return (this.get16(gpa) | (this.get16(gpa + 2) << 16)) >>> 0;
  }

  set32(gpa: Gpa, value: number): void {
    this.set16(gpa, value & 0xffff);
    this.set16(gpa + 2, value >>> 16);
  }

  /** Any 64-bit pattern: hostile addresses do not fit a number. */
  set64(gpa: Gpa, value: bigint): void {
    this.set32(gpa, Number(value & 0xffff_ffffn));
    this.set32(gpa + 4, Number((value >> 32n) & 0xffff_ffffn));
  }

  get64(gpa: Gpa): bigint {
    return BigInt(this.get32(gpa)) | (BigInt(this.get32(gpa + 4)) << 32n);
  }

  /** All bytes of all regions, for comparison before and after. */
  snapshot(): ReadonlyMap<Gpa, Uint8Array> {
    return new Map(this.#regions.map(({ gpa, bytes }) => [gpa, bytes.slice()]));
  }

  /** Addresses of bytes that differ from the snapshot. */
  changedSince(snapshot: ReadonlyMap<Gpa, Uint8Array>): Gpa[] {
    const changed: Gpa[] = [];
    for (const { gpa, bytes } of this.#regions) {
      const before = snapshot.get(gpa);
      bytes.forEach((byte, offset) => {
        if (byte !== before?.[offset]) changed.push(gpa + offset);
      });
    }
    return changed;
  }

  #find(gpa: Gpa): Region | undefined {
    return this.#regions.find((region) => gpa >= region.gpa && gpa < region.gpa + region.bytes.length);
  }
}

/** Hands out addresses one behind the other. */
export class Arena {
  #next: Gpa;

  constructor(start: Gpa) {
    this.#next = start;
  }

  take(length: number, alignment = 1): Gpa {
    const gpa = Math.ceil(this.#next / alignment) * alignment;
    this.#next = gpa + length;
    return gpa;
  }
}
