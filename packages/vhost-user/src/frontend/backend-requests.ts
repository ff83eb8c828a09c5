import { Channel, type Message } from "../channel/channel.ts";
import { closeAll, type Descriptor } from "../native/descriptor.ts";
import type { Poller } from "@virtio/node/native/poller";
import { UnixSocket } from "../native/unix-socket.ts";
import type { Watch } from "@virtio/node/native/poller";
import { reject } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import { UUID_SIZE, encodeU64 } from "../protocol/payloads.ts";
import type { ObjectExporter, SharedObjectTable } from "./shared-objects.ts";

/** Messages in a row before others have their turn. */
const MESSAGES_A_TURN = 64;
const DONE = 0;
const REFUSED = 1;

/** What a back-end may ask for. */
export interface BackendRequestHost extends ObjectExporter {
  configurationChanged(): void;
  /** Where it exports objects, and finds those of others; undefined: SHARED_OBJECT was not negotiated. */
  readonly objects: SharedObjectTable | undefined;
}

/** "Back-end communication": what the back-end asks of us. Answers come in the order of the questions. */
export class BackendRequests {
  /** For SET_BACKEND_REQ_FD; to be closed when it is sent. */
  readonly theirs: Descriptor;
  readonly #channel: Channel;
  readonly #poller: Poller;
  readonly #host: BackendRequestHost;
  #watch: Watch | undefined;
  /** An answer is looked for; the next questions stay in the socket. */
  #busy = false;
  #over = false;

  constructor(poller: Poller, host: BackendRequestHost) {
    const [ours, theirs] = UnixSocket.pair();
    this.#channel = new Channel(ours);
    this.theirs = theirs.descriptor;
    this.#poller = poller;
    this.#host = host;
    try {
      this.#listen();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    this.#end();
    this.#channel.close();
    this.theirs.close();
  }

  #listen(): void {
    if (!this.#over) this.#watch = this.#poller.watch(this.#channel.socket.fd, () => this.#pump());
  }

  /** Nothing is listened to any more; what becomes of the back-end is said by the other socket. */
  #end(): void {
    this.#over = true;
    this.#watch?.stop();
  }

  #pump(): void {
    try {
      for (let i = 0; i < MESSAGES_A_TURN && !this.#busy && !this.#over; i++) {
        const message = this.#channel.receive();
        if (message === "later") return;
        if (message === "end") return this.#end();
        this.#work(message);
      }
    } catch {
      this.#end();
    }
  }

  /** Throws a PeerError for what breaks the protocol. */
  #work({ request, reply, needReply, payload, descriptors }: Message): void {
    const strange = descriptors.length > 0;
    closeAll(descriptors);
    if (reply) reject("an answer that nobody asked for");
    const { objects } = this.#host;
    if (request === vu.BACKEND_SHARED_OBJECT_LOOKUP) {
      if (objects === undefined || strange) return this.#answer(request, REFUSED);
      return this.#look(objects, uuidOf(payload));
    }
    let done = false;
    if (request === vu.BACKEND_CONFIG_CHANGE_MSG) done = true;
    else if (objects === undefined || strange) done = false;
    else if (request === vu.BACKEND_SHARED_OBJECT_ADD) done = objects.add(uuidOf(payload), this.#host);
    else if (request === vu.BACKEND_SHARED_OBJECT_REMOVE) done = objects.remove(uuidOf(payload), this.#host);
    if (needReply) this.#answer(request, done ? DONE : REFUSED);
    if (request === vu.BACKEND_CONFIG_CHANGE_MSG) this.#host.configurationChanged();
  }

  #look(objects: SharedObjectTable, uuid: Uint8Array): void {
    this.#busy = true;
    this.#watch?.stop();
    void objects.lookup(uuid).then((found) => {
      this.#busy = false;
      try {
        const descriptors = found === undefined ? [] : [found];
        if (!this.#over)
          this.#answer(vu.BACKEND_SHARED_OBJECT_LOOKUP, found === undefined ? REFUSED : DONE, descriptors);
        this.#listen();
      } catch {
        this.#end();
      } finally {
        found?.close();
      }
    });
  }

  #answer(request: number, value: number, descriptors: readonly Descriptor[] = []): void {
    if (!this.#channel.send(request, encodeU64(value), { reply: true, descriptors })) this.#end();
  }
}

/** A copy: the message goes. */
function uuidOf(payload: Uint8Array): Uint8Array {
  if (payload.length !== UUID_SIZE) reject(`a UUID of ${payload.length} bytes`);
  return payload.slice();
}
