import { Channel } from "../channel/channel.ts";
import { closeAll } from "../native/descriptor.ts";
import type { Poller } from "@virtio/node/native/poller";
import type { UnixSocket } from "../native/unix-socket.ts";
import type { Watch } from "@virtio/node/native/poller";
import { BACKEND_CONFIG_CHANGE_MSG, BACKEND_IOTLB_MSG, IOTLB_MISS, IOTLB_READ } from "../protocol/numbers.ts";
import { encodeIotlb } from "../protocol/payloads.ts";

/** "Back-end communication": the socket on which the back-end asks the front-end. We never wait for an answer. */
export class Upcalls {
  readonly #channel: Channel;
  readonly #watch: Watch;
  /** Misses that were sent and not answered. */
  readonly #missing = new Set<number>();

  constructor(socket: UnixSocket, poller: Poller) {
    this.#channel = new Channel(socket);
    this.#watch = poller.watch(socket.fd, () => this.#drain());
  }

  configurationChanged(): void {
    this.#channel.send(BACKEND_CONFIG_CHANGE_MSG, new Uint8Array());
  }

  /** Asks for the translation of an address. */
  translationMissing(iova: number): boolean {
    if (this.#missing.has(iova)) return true;
    // With read permission asked for, the front-end answers with all that there are.
    const miss = { iova, size: 0, userAddress: 0, permissions: IOTLB_READ, type: IOTLB_MISS };
    if (!this.#channel.send(BACKEND_IOTLB_MSG, encodeIotlb(miss))) return false;
    this.#missing.add(iova);
    return true;
  }

  /** These addresses have translations now, or lost them: what is missing there is asked for again. */
  translationsChanged(iova: number, size: number): void {
    for (const missing of this.#missing)
      if (missing >= iova && missing < iova + size) this.#missing.delete(missing);
  }

  close(): void {
    this.#watch.stop();
    this.#channel.close();
  }

  /** Answers that nobody asked for, and the end. */
  #drain(): void {
    try {
      for (let i = 0; i < 64; i++) {
        const message = this.#channel.receive();
        if (message === "later") return;
        if (message === "end") return this.#watch.stop();
        closeAll(message.descriptors);
      }
    } catch {
      this.#watch.stop();
    }
  }
}
