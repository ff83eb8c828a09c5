import { VirtioFault } from "../../fault.ts";
import type { DeviceContext, RunningQueue } from "../../device/device.ts";
import { writeLe16 } from "../../memory/bytes.ts";
import { SegmentWriter } from "../../memory/cursor.ts";
import { hasFeature } from "../../spec/core.ts";
import { VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_HDR } from "../../spec/net.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";

/** What became of a frame. */
export type Placed =
  /** In the driver's buffers; not yet published. */
  | "placed"
  /** The driver has not given enough buffers; nothing was taken. */
  | "no-room"
  /** It will never fit in what this driver gives. */
  | "too-small"
  /** The driver broke a rule, and the device has failed. */
  | "failed";

/** Puts frames into receive buffers ("Processing of Incoming Packets"). One object a life of the device. */
export class FrameWriter {
  readonly #context: DeviceContext;
  readonly #writer: SegmentWriter;
  readonly #header: Uint8Array;
  readonly #mergeable: boolean;
  readonly #chains: DescriptorChain[] = [];

  /** `headerBytes`: 12, or 10 for a legacy driver without VIRTIO_NET_F_MRG_RXBUF. */
  constructor(context: DeviceContext, headerBytes: number) {
    this.#context = context;
    this.#writer = new SegmentWriter(context.memory);
    this.#header = new Uint8Array(headerBytes);
    this.#mergeable = hasFeature(context.features, VIRTIO_NET_F_MRG_RXBUF);
  }

  place(frame: Uint8Array, queue: RunningQueue): Placed {
    const chains = this.#chains;
    chains.length = 0;
    const result = this.#collect(this.#header.length + frame.length, queue);
    if (result === "placed") this.#fill(frame, queue);
    else if (result !== "failed") {
      for (let chain = chains.pop(); chain !== undefined; chain = chains.pop()) queue.unpop(chain);
    }
    return result;
  }

  /** Takes as many buffers as the frame needs: one without VIRTIO_NET_F_MRG_RXBUF. */
  #collect(needed: number, queue: RunningQueue): Placed {
    let room = 0;
    while (room < needed) {
      const chain = this.#chains.length < queue.size ? queue.popAvailable() : undefined;
      // With every buffer of the ring in hand there is nothing to wait for.
      if (chain === undefined) return this.#chains.length < queue.size ? "no-room" : "too-small";
      this.#chains.push(chain);
      if (this.#context.watch !== undefined && chain.readable.length > 0)
        this.#context.watch.hint("own.direction", "a device-readable buffer in a receiveq", {
          queue: queue.index,
        });
      room += chain.writableLength;
      if (!this.#mergeable) return room < needed ? "too-small" : "placed";
      if (chain.writableLength < this.#header.length) {
        const where = { queue: queue.index, descriptor: chain.token, value: chain.writableLength };
        const rule = "mergeable receive buffer is smaller than struct virtio_net_hdr";
        this.#context.fail(new VirtioFault("drv.net.rx-buffers", rule, where));
        return "failed";
      }
    }
    return "placed";
  }

  /**
   * "The device MUST use all buffers but the last […] completely." No offloads are offered, so all of the header but
   * `num_buffers` is zero.
   */
  #fill(frame: Uint8Array, queue: RunningQueue): void {
    const writer = this.#writer;
    const header = this.#header;
    if (header.length > VIRTIO_NET_HDR.num_buffers)
      writeLe16(header, VIRTIO_NET_HDR.num_buffers, this.#chains.length);
    let done = 0;
    for (let i = 0; i < this.#chains.length; i++) {
      const chain = this.#chains[i];
      if (chain === undefined) break;
      writer.start(chain.writable);
      if (i === 0) writer.copy(header);
      done += writer.copy(done === 0 ? frame : frame.subarray(done));
      queue.addUsed(chain, writer.written);
    }
  }
}
