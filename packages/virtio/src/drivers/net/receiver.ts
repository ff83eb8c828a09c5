import type { Mailbox } from "../../driver/mailbox.ts";
import { ReceiveBuffers } from "../../driver/receive-buffers.ts";
import type { ReceiveBuffer } from "../../driver/receive-buffers.ts";
import type { DmaMemory } from "../../driver/types.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import { readLe16 } from "../../memory/bytes.ts";
import { VIRTIO_NET_HDR } from "../../spec/net.ts";

/** How a receive queue is laid out. */
export interface ReceiverOptions {
  readonly count: number;
  readonly size: number;
  readonly headerBytes: number;
  /** VIRTIO_NET_F_MRG_RXBUF was negotiated. */
  readonly mergeable: boolean;
  /** Frames that may wait for a reader; beyond that the device gets no buffers back. */
  readonly maxWaiting: number;
}

/** One receive queue of a network device: puts merged buffers together ("Processing of Incoming Packets"). */
export class FrameReceiver {
  readonly #queue: number;
  readonly #buffers: ReceiveBuffers;
  readonly #frames: Mailbox<Uint8Array>;
  readonly #options: ReceiverOptions;
  readonly #fail: (error: Error) => void;
  /** Pieces of the frame that is being put together, and how many buffers are still to come. */
  #pieces: Uint8Array[] = [];
  #missing = 0;
  /** Buffers that the device gets back when somebody reads. */
  readonly #withheld: ReceiveBuffer[] = [];

  constructor(
    queue: DriverVirtqueue,
    memory: DmaMemory,
    frames: Mailbox<Uint8Array>,
    options: ReceiverOptions,
    fail: (error: Error) => void,
  ) {
    this.#queue = queue.index;
    this.#frames = frames;
    this.#options = options;
    this.#fail = fail;
    this.#buffers = new ReceiveBuffers(queue, memory, options.count, options.size, (buffer, written) =>
      this.#used(buffer, written),
    );
  }

  kick(): void {
    this.#buffers.kick();
  }

  /** A frame was read: the device gets its buffers back. */
  replenish(): void {
    if (this.#withheld.length === 0 || this.#frames.length >= this.#options.maxWaiting) return;
    for (const buffer of this.#withheld.splice(0)) this.#buffers.give(buffer);
    this.#buffers.kick();
  }

  #used(buffer: ReceiveBuffer, written: number): void {
    const bytes = this.#buffers.copy(buffer, written);
    if (this.#missing > 0) {
      this.#pieces.push(bytes);
      this.#missing--;
    } else if (!this.#first(bytes)) return;
    if (this.#missing === 0) this.#deliver();
    if (this.#frames.length >= this.#options.maxWaiting) this.#withheld.push(buffer);
    else {
      this.#buffers.give(buffer);
      this.#buffers.kick();
    }
  }

  /** The first buffer of a frame. All of its flags are ignored: no offload was accepted. False: the device lied. */
  #first(bytes: Uint8Array): boolean {
    const { headerBytes, mergeable } = this.#options;
    const count = mergeable ? readLe16(bytes, VIRTIO_NET_HDR.num_buffers) : 1;
    if (bytes.length < headerBytes || count === 0 || count > this.#buffers.count) {
      const value = bytes.length < headerBytes ? bytes.length : count;
      this.#fail(new VirtioFault("dev.net.rx", "impossible receive header", { queue: this.#queue, value }));
      return false;
    }
    this.#pieces = [bytes.subarray(headerBytes)];
    this.#missing = count - 1;
    return true;
  }

  #deliver(): void {
    const [first] = this.#pieces;
    if (first === undefined) return;
    if (this.#pieces.length === 1) return this.#frames.put(first);
    const frame = new Uint8Array(this.#pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of this.#pieces) {
      frame.set(piece, at);
      at += piece.length;
    }
    this.#frames.put(frame);
  }
}
