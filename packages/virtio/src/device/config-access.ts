import type { ConfigSpace } from "./device.ts";

/** Reads and writes of a device configuration space, of any width and at any offset a driver tries. */
export class ConfigAccess {
  readonly #space: ConfigSpace | undefined;
  readonly #scratch = new Uint8Array(4);

  constructor(space: ConfigSpace | undefined) {
    this.#space = space;
  }

  get length(): number {
    return this.#space?.length ?? 0;
  }

  /** Little-endian, unsigned; bytes beyond the end read as 0. */
  read(offset: number, size: 1 | 2 | 4): number {
    const bytes = this.#scratch;
    this.readBytes(offset, size === 4 ? bytes : bytes.subarray(0, size));
    let value = bytes[0] ?? 0;
    if (size >= 2) value |= (bytes[1] ?? 0) << 8;
    if (size === 4) value |= ((bytes[2] ?? 0) << 16) | ((bytes[3] ?? 0) << 24);
    return value >>> 0;
  }

  readBytes(offset: number, target: Uint8Array): void {
    const inside = Math.min(target.length, Math.max(0, this.length - offset));
    target.fill(0, inside);
    if (inside > 0) this.#space?.read(offset, target.subarray(0, inside));
  }

  /** As `writeBytes`. */
  write(offset: number, size: 1 | 2 | 4, value: number, features: bigint): boolean {
    for (let i = 0; i < size; i++) this.#scratch[i] = value >>> (8 * i);
    return this.writeBytes(offset, this.#scratch.subarray(0, size), features);
  }

  /** Bytes beyond the end, and the whole write when the space is read-only, are dropped. False: something was. */
  writeBytes(offset: number, source: Uint8Array, features: bigint): boolean {
    const inside = Math.min(source.length, Math.max(0, this.length - offset));
    const space = this.#space;
    if (inside === 0 || space?.write === undefined) return source.length === 0;
    const taken = space.write(offset, source.subarray(0, inside), { features });
    return taken !== false && inside === source.length;
  }
}
