import { closeAll, type Descriptor } from "../native/descriptor.ts";
import { reject } from "../protocol/errors.ts";
import { encodeU64 } from "../protocol/payloads.ts";

/** A reply: its payload, and descriptors that are closed once they are sent. */
export interface Reply {
  readonly payload: Uint8Array;
  readonly descriptors?: readonly Descriptor[];
}
export type Handled = Reply | undefined;

/** Descriptors of a message, until somebody takes them. */
export class Luggage {
  readonly #descriptors: Descriptor[];

  constructor(descriptors: Descriptor[]) {
    this.#descriptors = descriptors;
  }

  get count(): number {
    return this.#descriptors.length;
  }

  take(): Descriptor | undefined {
    return this.#descriptors.shift();
  }

  /** The one that must be there. */
  one(): Descriptor {
    return this.take() ?? reject("a descriptor is missing");
  }

  /** They stay in the luggage. */
  get all(): readonly Descriptor[] {
    return this.#descriptors;
  }

  close(): void {
    closeAll(this.#descriptors.splice(0));
  }
}

/** Throws a PeerError for what cannot be done; nothing of it is done then. */
export type Handler = (body: Uint8Array, luggage: Luggage) => Handled | Promise<Handled>;

export type Register = (request: number, handler: Handler) => void;

export const u64 = (value: bigint | number): Reply => ({ payload: encodeU64(value) });
