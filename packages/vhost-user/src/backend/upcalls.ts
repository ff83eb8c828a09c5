import { Channel, type Message } from "../channel/channel.ts";
import { closeAll, type Descriptor } from "../native/descriptor.ts";
import type { Poller } from "@virtio/node/native/poller";
import type { UnixSocket } from "../native/unix-socket.ts";
import type { Watch } from "@virtio/node/native/poller";
import { BACKEND_CONFIG_CHANGE_MSG, BACKEND_IOTLB_MSG, IOTLB_MISS, IOTLB_READ } from "../protocol/numbers.ts";
import { encodeIotlb } from "../protocol/payloads.ts";

/** What the front-end answered. The descriptors are whoever asked's. */
export interface UpcallAnswer {
  readonly payload: Uint8Array;
  readonly descriptors: readonly Descriptor[];
}

interface Waiting {
  readonly request: number;
  readonly settle: (answer: UpcallAnswer | undefined) => void;
}

/** Addresses that are remembered as asked for. */
const MOST_MISSING = 1024;
/** Questions without an answer yet. */
const MOST_ASKED = 64;
/** Milliseconds that an answer may take. A request of the guest may wait for it, and a reset for the request. */
const TIMEOUT = 5000;

/** "Back-end communication": the socket on which the back-end asks the front-end. */
export class Upcalls {
  readonly #channel: Channel;
  readonly #watch: Watch;
  /** Misses that were sent and not answered. */
  readonly #missing = new Set<number>();
  /** In the order of their answers. */
  readonly #waiting: Waiting[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Nobody answers any more. */
  #over = false;

  constructor(socket: UnixSocket, poller: Poller) {
    this.#channel = new Channel(socket);
    this.#watch = poller.watch(socket.fd, () => this.#drain());
  }

  configurationChanged(): void {
    this.tell(BACKEND_CONFIG_CHANGE_MSG, new Uint8Array());
  }

  /** Asks for the translation of an address. */
  translationMissing(iova: number): boolean {
    if (this.#missing.has(iova)) return true;
    // With read permission asked for, the front-end answers with all that there are.
    const miss = { iova, size: 0, userAddress: 0, permissions: IOTLB_READ, type: IOTLB_MISS };
    if (!this.tell(BACKEND_IOTLB_MSG, encodeIotlb(miss))) return false;
    // Whom the front-end does not answer is asked for again when there are many: that is no harm.
    if (this.#missing.size >= MOST_MISSING) this.#missing.clear();
    this.#missing.add(iova);
    return true;
  }

  /** Translations that were asked for and did not come. */
  get missing(): number {
    return this.#missing.size;
  }

  /** These addresses have translations now, or lost them: what is missing there is asked for again. */
  translationsChanged(iova: number, size: number): void {
    for (const missing of this.#missing)
      if (missing >= iova && missing < iova + size) this.#missing.delete(missing);
  }

  /** A message that has no answer. False: it cannot be sent. */
  tell(request: number, payload: Uint8Array): boolean {
    return !this.#channel.socket.descriptor.closed && this.#channel.send(request, payload);
  }

  /**
   * One that has: of its own, or because `needReply` asks for it. Undefined: there is none, for the front-end is gone, takes too
   * long or has too many questions to answer already.
   */
  ask(request: number, payload: Uint8Array, needReply: boolean): Promise<UpcallAnswer | undefined> {
    if (this.#over || this.#waiting.length >= MOST_ASKED) return Promise.resolve(undefined);
    if (!this.#channel.send(request, payload, { needReply })) {
      this.abandon();
      return Promise.resolve(undefined);
    }
    return new Promise((settle) => {
      this.#waiting.push({ request, settle });
      if (this.#waiting.length === 1) this.#startTimer();
    });
  }

  /** Whoever waits for an answer waits no longer, and nobody will: an answer that comes later would be taken for another one's. */
  abandon(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    for (const { settle } of this.#waiting.splice(0)) settle(undefined);
  }

  close(): void {
    this.abandon();
    this.#watch.stop();
    this.#channel.close();
  }

  #startTimer(): void {
    clearTimeout(this.#timer);
    if (this.#waiting.length > 0) this.#timer = setTimeout(() => this.abandon(), TIMEOUT);
  }

  /** Answers, and the end. */
  #drain(): void {
    try {
      for (let i = 0; i < 64; i++) {
        const message = this.#channel.receive();
        if (message === "later") return;
        if (message === "end") return this.#deaf();
        this.#answered(message);
      }
    } catch {
      this.#deaf();
    }
  }

  #answered({ request, reply, payload, descriptors }: Message): void {
    const [first] = this.#waiting;
    // An answer that nobody asked for.
    if (!reply || first?.request !== request) return closeAll(descriptors);
    this.#waiting.shift();
    this.#startTimer();
    first.settle({ payload: payload.slice(), descriptors });
  }

  /** Nothing of the front-end's comes any more; what is sent may still arrive. */
  #deaf(): void {
    this.#watch.stop();
    this.abandon();
  }
}
