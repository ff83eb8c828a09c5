import { VIRTIO_F_VERSION_1, featureBits } from "virtio/spec/core";
import { VIRTIO_ID_BLK } from "virtio/spec/ids";
import { Channel } from "@virtio/vhost-user/channel/channel";
import type { FrontendOptions } from "@virtio/vhost-user/frontend/options";
import { closeAll } from "@virtio/vhost-user/native/descriptor";
import { createEvent } from "@virtio/vhost-user/native/event";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watch } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeConfig, encodeU64, encodeVringState } from "@virtio/vhost-user/protocol/payloads";

export type Answers = Readonly<Record<number, Uint8Array | "silence" | "hang up">>;

export const PROTOCOL: bigint = featureBits(vu.PROTOCOL_F_REPLY_ACK, vu.PROTOCOL_F_CONFIG);
export const GOOD: Answers = {
  [vu.GET_FEATURES]: encodeU64(featureBits(VIRTIO_F_VERSION_1, vu.VHOST_USER_F_PROTOCOL_FEATURES)),
  [vu.GET_PROTOCOL_FEATURES]: encodeU64(PROTOCOL),
  [vu.GET_CONFIG]: encodeConfig({ offset: 0, flags: 0, bytes: new Uint8Array(60).fill(1) }),
  [vu.GET_VRING_BASE]: encodeVringState({ index: 0, value: 0 }),
};

/** A back-end that answers what it is told to, and success to everything else. */
export class FakeBackend {
  readonly heard: number[] = [];
  readonly #channel: Channel;
  readonly #watch: { stop(): void };
  /** The next answers come with a descriptor that nobody asked for, */
  extra = false;
  /** or with so many. */
  descriptors = 1;
  /** What SET_BACKEND_REQ_FD brought, to ask the front-end. */
  upcalls: Channel | undefined;

  constructor(socket: UnixSocket, answers: Answers) {
    this.#channel = new Channel(socket);
    this.#watch = watch(socket.fd, () => {
      for (let got = this.#channel.receive(); typeof got !== "string"; got = this.#channel.receive()) {
        const [first] = got.descriptors;
        if (got.request === vu.SET_BACKEND_REQ_FD && first !== undefined)
          this.upcalls = new Channel(new UnixSocket(first));
        else closeAll(got.descriptors);
        this.heard.push(got.request);
        const answer = answers[got.request] ?? (got.needReply ? encodeU64(0) : "silence");
        if (answer === "hang up") return this.close();
        if (answer !== "silence") this.answer(got.request, answer);
      }
    });
  }

  answer(request: number, payload: Uint8Array): void {
    const descriptors = Array.from({ length: this.extra ? this.descriptors : 0 }, () => createEvent());
    this.#channel.send(request, payload, { reply: true, descriptors });
    closeAll(descriptors);
  }

  raw(bytes: Uint8Array): void {
    this.#channel.socket.send(bytes);
  }

  close(): void {
    this.#watch.stop();
    this.upcalls?.close();
    this.upcalls = undefined;
    if (!this.#channel.socket.descriptor.closed) this.#channel.close();
  }
}

export function pair(
  answers: Answers,
  options: Partial<FrontendOptions> = {},
): [FakeBackend, FrontendOptions] {
  const [ours, theirs] = UnixSocket.pair();
  const socket = ours.descriptor.release();
  return [new FakeBackend(theirs, answers), { socket, deviceId: VIRTIO_ID_BLK, timeout: 50, ...options }];
}
