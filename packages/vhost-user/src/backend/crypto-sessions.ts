import type { CryptoSession } from "../protocol/crypto-session.ts";
import { decodeCryptoSession, encodeSessionId } from "../protocol/crypto-session.ts";
import * as vu from "../protocol/numbers.ts";
import { decodeU64 } from "../protocol/payloads.ts";
import type { Register } from "./handlers.ts";

/**
 * A crypto device whose front-end serves the control virtqueue and hands sessions over by messages. Requests on the data virtqueues
 * name them by their ids.
 */
export interface CryptoSessionKeeper {
  /** The session's id, 0 or more; negative: it cannot be, such as -VIRTIO_CRYPTO_NOTSUPP. */
  createCryptoSession(session: CryptoSession): number | Promise<number>;
  /** A session that this device created is not used any more. */
  closeCryptoSession(id: number): void | Promise<void>;
}

export function keepsCryptoSessions(device: object): device is CryptoSessionKeeper {
  return (
    "createCryptoSession" in device &&
    typeof device.createCryptoSession === "function" &&
    "closeCryptoSession" in device &&
    typeof device.closeCryptoSession === "function"
  );
}

/** Sessions of one front-end: a guest may ask for as many as it likes. */
const MOST_SESSIONS = 4096;
/** VIRTIO_CRYPTO_ERR, negative. */
const FAILED = -1;

/** Crypto sessions of one connection; what the front-end does not close goes with it. */
export class CryptoSessions {
  readonly #device: CryptoSessionKeeper;
  readonly #open = new Set<number>();

  constructor(device: CryptoSessionKeeper) {
    this.#device = device;
  }

  register(on: Register): void {
    on(vu.CREATE_CRYPTO_SESSION, async (body) => {
      const asked = body.slice();
      const session = decodeCryptoSession(asked);
      const id = this.#open.size < MOST_SESSIONS ? await this.#device.createCryptoSession(session) : FAILED;
      if (id >= 0) this.#open.add(id);
      return { payload: encodeSessionId(asked, id) };
    });
    on(vu.CLOSE_CRYPTO_SESSION, async (body) => {
      const id = Number(decodeU64(body));
      // QEMU passes on whatever id a guest destroys: one that is none is no mistake of the front-end.
      if (this.#open.delete(id)) await this.#device.closeCryptoSession(id);
      return undefined;
    });
  }

  /** No request uses them any more. */
  async close(): Promise<void> {
    const left = [...this.#open];
    this.#open.clear();
    for (const id of left) await this.#device.closeCryptoSession(id);
  }
}
