import { closeAll, type Descriptor } from "../native/descriptor.ts";
import type { UnixSocket } from "../native/unix-socket.ts";
import { PeerError } from "../protocol/errors.ts";
import { decodeHeader, encodeMessage, type MessageHeader } from "../protocol/message.ts";
import { HEADER_SIZE, MAX_DESCRIPTORS, MAX_PAYLOAD } from "../protocol/numbers.ts";

/** A whole message. Whoever gets it owns its descriptors and closes those that it does not keep. */
export interface Message extends MessageHeader {
  /** Valid until the next message is received. */
  readonly payload: Uint8Array;
  readonly descriptors: Descriptor[];
}

/** One end of a vhost-user connection: whole messages, however the bytes arrive. Never blocks. */
export class Channel {
  readonly socket: UnixSocket;
  readonly #bytes = new Uint8Array(HEADER_SIZE + MAX_PAYLOAD);
  #filled = 0;
  #header: MessageHeader | undefined;
  #descriptors: Descriptor[] = [];

  /** Takes over the socket. */
  constructor(socket: UnixSocket) {
    this.socket = socket;
  }

  /**
   * The next message; `later` when not all of it is there, `end` when the peer is gone. Throws a PeerError for what is
   * no message; the channel is of no more use then.
   */
  receive(): Message | "later" | "end" {
    for (;;) {
      const wanted = HEADER_SIZE + (this.#header?.size ?? 0);
      if (this.#filled < wanted) {
        const got = this.socket.receive(this.#bytes.subarray(this.#filled, wanted), this.#descriptors);
        if (typeof got === "string") return got;
        this.#filled += got;
        if (this.#descriptors.length > MAX_DESCRIPTORS)
          throw new PeerError(`message with ${this.#descriptors.length} descriptors`);
        if (this.#filled < wanted) continue;
      }
      this.#header ??= decodeHeader(this.#bytes);
      if (this.#filled === HEADER_SIZE + this.#header.size) return this.#take(this.#header);
    }
  }

  /** False: the peer is gone, or does not read. */
  send(
    request: number,
    payload: Uint8Array,
    options: {
      readonly reply?: boolean;
      readonly needReply?: boolean;
      /** Stay the caller's. */
      readonly descriptors?: readonly Descriptor[];
    } = {},
  ): boolean {
    return this.socket.send(encodeMessage(request, payload, options), options.descriptors);
  }

  /** Closes the socket, and the descriptors of a message that did not come whole. */
  close(): void {
    closeAll(this.#descriptors.splice(0));
    this.socket.close();
  }

  #take(header: MessageHeader): Message {
    const descriptors = this.#descriptors;
    this.#header = undefined;
    this.#filled = 0;
    this.#descriptors = [];
    return { ...header, payload: this.#bytes.subarray(HEADER_SIZE, HEADER_SIZE + header.size), descriptors };
  }
}
