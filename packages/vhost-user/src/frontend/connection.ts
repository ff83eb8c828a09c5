import { Channel, type Message } from "../channel/channel.ts";
import { closeAll, type Descriptor } from "../native/descriptor.ts";
import type { Poller } from "@virtio/node/native/poller";
import type { UnixSocket } from "../native/unix-socket.ts";
import type { Watch } from "@virtio/node/native/poller";
import { PeerError } from "../protocol/errors.ts";
import { decodeU64 } from "../protocol/payloads.ts";
import { requestName } from "../protocol/requests.ts";

/** What a back-end answered. The descriptors are whoever asked's. */
export interface Answer {
  readonly payload: Uint8Array;
  readonly descriptors: readonly Descriptor[];
}

interface Waiting {
  readonly request: number;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

/** Messages in a row before others have their turn. */
const MESSAGES_A_TURN = 64;

/** A front-end's end of the socket: requests, and the answers in their order. It ends once, with the reason. */
export class Connection {
  /** REPLY_ACK was negotiated: the back-end says of every request whether it was done. */
  acknowledged = false;
  readonly #channel: Channel;
  readonly #watch: Watch;
  readonly #timeout: number;
  readonly #ended: (error: Error) => void;
  readonly #waiting: Waiting[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #error: Error | undefined;

  /** Takes over the socket. `ended` is called unless `close` came first; an answer may take `timeout` milliseconds. */
  constructor(socket: UnixSocket, poller: Poller, timeout: number, ended: (error: Error) => void) {
    this.#channel = new Channel(socket);
    this.#timeout = timeout;
    this.#ended = ended;
    try {
      this.#watch = poller.watch(socket.fd, () => this.#pump());
    } catch (error) {
      this.#channel.close();
      throw error;
    }
  }

  /** A request that has an answer of its own. Rejects when the connection ends before. */
  ask(request: number, payload?: Uint8Array, descriptors?: readonly Descriptor[]): Promise<Answer> {
    return new Promise((resolve, reject) =>
      this.#send(request, payload, descriptors, false, { request, resolve, reject }),
    );
  }

  async askU64(request: number): Promise<bigint> {
    const { payload, descriptors } = await this.ask(request);
    closeAll(descriptors);
    return decodeU64(payload);
  }

  /** A request without. When the back-end says that it was not done, the connection ends. */
  tell(request: number, payload?: Uint8Array, descriptors?: readonly Descriptor[]): void {
    if (!this.acknowledged) return this.#send(request, payload, descriptors, false, undefined);
    const resolve = ({ payload: answer, descriptors: strange }: Answer): void => {
      closeAll(strange);
      if (decodeU64(answer) !== 0n) throw new PeerError(`the back-end refuses ${requestName(request)}`);
    };
    this.#send(request, payload, descriptors, true, { request, resolve, reject: () => undefined });
  }

  /** Ends it from our side; who still waits is told so. */
  close(reason: Error = new Error("the connection was closed")): void {
    if (this.#error !== undefined) return;
    this.#error = reason;
    clearTimeout(this.#timer);
    this.#watch.stop();
    this.#channel.close();
    for (const { reject } of this.#waiting.splice(0)) reject(reason);
  }

  /** Ends it because of what the back-end did. */
  fail(error: unknown): void {
    this.#end(error instanceof Error ? error : new Error(String(error)));
  }

  #send(
    request: number,
    payload: Uint8Array = new Uint8Array(),
    descriptors: readonly Descriptor[] = [],
    needReply: boolean,
    waiting: Waiting | undefined,
  ): void {
    if (this.#error !== undefined) return waiting?.reject(this.#error);
    if (waiting !== undefined) {
      this.#waiting.push(waiting);
      if (this.#waiting.length === 1) this.#startTimer();
    }
    if (!this.#channel.send(request, payload, { needReply, descriptors })) {
      // Not from within: the caller is in the middle of something.
      setImmediate(() => this.#end(new Error(`the back-end does not take ${requestName(request)}`)));
    }
  }

  #startTimer(): void {
    clearTimeout(this.#timer);
    const [first] = this.#waiting;
    if (first === undefined) return;
    this.#timer = setTimeout(() => {
      this.#end(new Error(`no answer to ${requestName(first.request)} in ${this.#timeout} ms`));
    }, this.#timeout);
  }

  #pump(): void {
    try {
      for (let i = 0; i < MESSAGES_A_TURN && this.#error === undefined; i++) {
        const message = this.#channel.receive();
        if (message === "later") return;
        if (message === "end") return this.#end(new Error("the back-end is gone"));
        this.#answered(message);
      }
    } catch (error) {
      this.fail(error);
    }
  }

  #answered({ request, reply, payload, descriptors }: Message): void {
    const first = this.#waiting[0];
    if (!reply || first?.request !== request) {
      closeAll(descriptors);
      throw new PeerError(`an answer to ${requestName(request)} that nobody asked for`);
    }
    this.#waiting.shift();
    this.#startTimer();
    first.resolve({ payload: payload.slice(), descriptors });
  }

  #end(error: Error): void {
    if (this.#error !== undefined) return;
    this.close(error);
    this.#ended(error);
  }
}
