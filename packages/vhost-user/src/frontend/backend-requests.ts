import { Channel } from "../channel/channel.ts";
import { closeAll, type Descriptor } from "../native/descriptor.ts";
import type { Poller } from "@virtio/node/native/poller";
import { UnixSocket } from "../native/unix-socket.ts";
import type { Watch } from "@virtio/node/native/poller";
import { BACKEND_CONFIG_CHANGE_MSG } from "../protocol/numbers.ts";
import { encodeU64 } from "../protocol/payloads.ts";

/** Messages in a row before others have their turn. */
const MESSAGES_A_TURN = 64;
const DONE = 0;
const REFUSED = 1;

/** "Back-end communication": what the back-end asks of us. Only one thing is of use here, a changed configuration. */
export class BackendRequests {
  /** For SET_BACKEND_REQ_FD; to be closed when it is sent. */
  readonly theirs: Descriptor;
  readonly #channel: Channel;
  readonly #watch: Watch;

  constructor(poller: Poller, configurationChanged: () => void) {
    const [ours, theirs] = UnixSocket.pair();
    this.#channel = new Channel(ours);
    this.theirs = theirs.descriptor;
    this.#watch = poller.watch(ours.fd, () => this.#pump(configurationChanged));
  }

  close(): void {
    this.#watch.stop();
    this.#channel.close();
    this.theirs.close();
  }

  /** A back-end that breaks the protocol here is not listened to any more; the other socket says what becomes of it. */
  #pump(configurationChanged: () => void): void {
    try {
      for (let i = 0; i < MESSAGES_A_TURN; i++) {
        const message = this.#channel.receive();
        if (message === "later") return;
        if (message === "end") return this.#watch.stop();
        closeAll(message.descriptors);
        const known = message.request === BACKEND_CONFIG_CHANGE_MSG;
        if (message.needReply)
          this.#channel.send(message.request, encodeU64(known ? DONE : REFUSED), { reply: true });
        if (known) configurationChanged();
      }
    } catch {
      this.#watch.stop();
    }
  }
}
