import { Descriptor, closeAll } from "../native/descriptor.ts";
import { reject } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import { UUID_SIZE, decodeU64 } from "../protocol/payloads.ts";
import type { Register } from "./handlers.ts";
import type { Upcalls } from "./upcalls.ts";

/** What a device asks the front-end for; never rejects. UUIDs have 16 bytes. */
export interface SharedObjectExchange {
  /** This device exports the object from now on. False: the front-end does not take it, such as one that another exports. */
  add(uuid: Uint8Array): Promise<boolean>;
  /** It does no more. False: it did not. */
  remove(uuid: Uint8Array): Promise<boolean>;
  /** A descriptor of an object, whoever exports it; the caller closes it. Undefined: there is none of this name. */
  lookup(uuid: Uint8Array): Promise<number | undefined>;
}

/** A device that exports objects with descriptors (dma-bufs) to other devices of its guest, or imports theirs. */
export interface ObjectSharer {
  /** The descriptor of an object that this device exports; it stays the device's. Undefined: it is none. */
  exportedObject(uuid: Uint8Array): number | undefined;
  /** A front-end that passes objects on is there, and knows of none yet; or, undefined, it is gone. */
  shareWith(exchange: SharedObjectExchange | undefined): void;
}

export function sharesObjects(device: object): device is ObjectSharer {
  return (
    "exportedObject" in device &&
    typeof device.exportedObject === "function" &&
    "shareWith" in device &&
    typeof device.shareWith === "function"
  );
}

/** Requests that may wait for a virtqueue to run; what a device asks for beyond is refused. */
const MOST_WAITING = 64;

/** Shared objects of one session: between a device that shares them and the front-end. */
export class SharedObjects implements SharedObjectExchange {
  readonly #device: ObjectSharer;
  /** "While all vrings are stopped … not send any messages to the front-end". */
  readonly #suspended: () => boolean;
  #upcalls: Upcalls | undefined;
  #acknowledged = false;
  /** Told whether they may ask. */
  readonly #waiting: ((may: boolean) => void)[] = [];

  constructor(device: ObjectSharer, suspended: () => boolean) {
    this.#device = device;
    this.#suspended = suspended;
  }

  register(on: Register): void {
    on(vu.GET_SHARED_OBJECT, (body) => {
      // QEMU 8.2 and later forget the length of their request, and with it the UUID.
      if (body.length !== UUID_SIZE && body.length !== 0) reject(`GET_SHARED_OBJECT of ${body.length} bytes`);
      const payload = body.slice();
      const fd = payload.length === 0 ? undefined : this.#device.exportedObject(payload.slice());
      return { payload, descriptors: fd === undefined ? [] : [Descriptor.duplicateOf(fd)] };
    });
  }

  /** There is a way to the front-end. `acknowledged`: it says whether it did what it was asked for (REPLY_ACK). */
  attach(upcalls: Upcalls, acknowledged: boolean): void {
    this.detach();
    this.#upcalls = upcalls;
    this.#acknowledged = acknowledged;
    this.#device.shareWith(this);
  }

  /** There is none any more. */
  detach(): void {
    if (this.#upcalls === undefined) return;
    this.#upcalls = undefined;
    for (const resolve of this.#waiting.splice(0)) resolve(false);
    this.#device.shareWith(undefined);
  }

  /** A virtqueue runs. */
  started(): void {
    for (const resolve of this.#waiting.splice(0)) resolve(true);
  }

  add(uuid: Uint8Array): Promise<boolean> {
    return this.#tell(vu.BACKEND_SHARED_OBJECT_ADD, uuid);
  }

  remove(uuid: Uint8Array): Promise<boolean> {
    return this.#tell(vu.BACKEND_SHARED_OBJECT_REMOVE, uuid);
  }

  async lookup(uuid: Uint8Array): Promise<number | undefined> {
    const name = named(uuid);
    if (!(await this.#mayAsk())) return undefined;
    const answer = await this.#upcalls?.ask(vu.BACKEND_SHARED_OBJECT_LOOKUP, name, false);
    if (answer === undefined) return undefined;
    const [first, ...others] = answer.descriptors;
    // "Note that if the operation fails, no fd is sent to the backend."
    const found = answer.payload.length === 8 && decodeU64(answer.payload) === 0n && others.length === 0;
    if (found && first !== undefined) return first.release();
    closeAll(answer.descriptors);
    return undefined;
  }

  async #tell(request: number, uuid: Uint8Array): Promise<boolean> {
    const name = named(uuid);
    if (!(await this.#mayAsk())) return false;
    if (!this.#acknowledged) return this.#upcalls?.tell(request, name) ?? false;
    const answer = await this.#upcalls?.ask(request, name, true);
    if (answer === undefined) return false;
    closeAll(answer.descriptors);
    return answer.payload.length === 8 && decodeU64(answer.payload) === 0n;
  }

  /** Resolves when messages may be sent; false: they never will. */
  #mayAsk(): Promise<boolean> | boolean {
    if (this.#upcalls === undefined) return false;
    if (!this.#suspended()) return true;
    if (this.#waiting.length >= MOST_WAITING) return false;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

/** A copy, for it is sent later. */
function named(uuid: Uint8Array): Uint8Array {
  if (uuid.length !== UUID_SIZE) throw new RangeError(`a UUID of ${uuid.length} bytes`);
  return uuid.slice();
}
