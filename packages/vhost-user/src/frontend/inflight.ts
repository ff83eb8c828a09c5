import { type Descriptor, closeAll } from "../native/descriptor.ts";
import { PeerError } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import { type InflightDescription, decodeInflight, encodeInflight } from "../protocol/payloads.ts";
import type { Connection } from "./connection.ts";

/** QEMU's structure is packed: without the padding that a C compiler would put behind it. */
const PACKED_SIZE = 20;

/** The back-end's record of the requests that it holds, in our keeping while one back-end follows another. */
export class KeptInflight {
  readonly #descriptor: Descriptor;
  readonly #description: InflightDescription;

  private constructor(descriptor: Descriptor, description: InflightDescription) {
    this.#descriptor = descriptor;
    this.#description = description;
  }

  /** A fresh one, made by the back-end. */
  static async get(connection: Connection, queues: number, queueSize: number): Promise<KeptInflight> {
    const asked = encodeInflight({ size: 0, offset: 0, queues, queueSize }).subarray(0, PACKED_SIZE);
    const { payload, descriptors } = await connection.ask(vu.GET_INFLIGHT_FD, asked);
    const [descriptor, ...others] = descriptors;
    closeAll(others);
    if (descriptor === undefined) throw new PeerError("GET_INFLIGHT_FD: no descriptor came with the answer");
    try {
      return new KeptInflight(descriptor, decodeInflight(payload));
    } catch (error) {
      descriptor.close();
      throw error;
    }
  }

  give(connection: Connection): void {
    const body = encodeInflight(this.#description).subarray(0, PACKED_SIZE);
    connection.tell(vu.SET_INFLIGHT_FD, body, [this.#descriptor]);
  }

  close(): void {
    this.#descriptor.close();
  }
}
