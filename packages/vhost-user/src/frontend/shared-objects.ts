import type { Descriptor } from "../native/descriptor.ts";

/** Whoever can be asked for an object. */
export interface ObjectExporter {
  /** A descriptor, the caller's; undefined when there is none of this name (any more). */
  getSharedObject(uuid: Uint8Array): Promise<Descriptor | undefined>;
}

/** Objects that one exporter may have at a time. */
const MOST_OBJECTS = 1024;

/**
 * Which back-end exports which object, for the back-ends of one front-end: what QEMU's table is for the devices of one guest. Nobody
 * takes another's name, nor removes it.
 */
export class SharedObjectTable {
  /** By UUID, in hexadecimal. */
  readonly #exporters = new Map<string, ObjectExporter>();
  readonly #counts = new Map<ObjectExporter, number>();

  /** Objects that there are. */
  get size(): number {
    return this.#exporters.size;
  }

  /** False: the name is taken, or the exporter has too many. */
  add(uuid: Uint8Array, exporter: ObjectExporter): boolean {
    const name = nameOf(uuid);
    const count = this.#counts.get(exporter) ?? 0;
    if (this.#exporters.has(name) || count >= MOST_OBJECTS) return false;
    this.#exporters.set(name, exporter);
    this.#counts.set(exporter, count + 1);
    return true;
  }

  /** False: it is not this exporter's. */
  remove(uuid: Uint8Array, exporter: ObjectExporter): boolean {
    const name = nameOf(uuid);
    if (this.#exporters.get(name) !== exporter) return false;
    this.#exporters.delete(name);
    this.#counts.set(exporter, (this.#counts.get(exporter) ?? 1) - 1);
    return true;
  }

  /** The exporter is gone, and with it what it had. */
  forget(exporter: ObjectExporter): void {
    if (!this.#counts.delete(exporter)) return;
    for (const [name, other] of this.#exporters) if (other === exporter) this.#exporters.delete(name);
  }

  /** A descriptor of an object, the caller's. Undefined: nobody exports it, or whoever does cannot say. Never rejects. */
  async lookup(uuid: Uint8Array): Promise<Descriptor | undefined> {
    try {
      return await this.#exporters.get(nameOf(uuid))?.getSharedObject(uuid);
    } catch {
      return undefined;
    }
  }
}

function nameOf(uuid: Uint8Array): string {
  return Buffer.from(uuid.buffer, uuid.byteOffset, uuid.length).toString("hex");
}
