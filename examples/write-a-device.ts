import { stateInteger, stateRecord } from "virtio/device/checked-state";
import type { DeviceContext, VirtioDevice } from "virtio/device/device";
import { VirtioFault } from "virtio/fault";
import { writeLe32 } from "virtio/memory/bytes";
import { SegmentReader, SegmentWriter } from "virtio/memory/cursor";
import type { DescriptorChain } from "virtio/virtqueue/types";

/** Longest text of one request, in bytes: what a driver can make us hold is bounded. */
const MAX_TEXT = 4096;

/** Answers each request with its text in capitals. Configuration: the longest text (le32), requests served (le32). */
export class CapitalsDevice implements VirtioDevice {
  readonly id = 63;
  readonly name = "capitals";
  readonly features = 0n;
  readonly queues: VirtioDevice["queues"] = [
    { name: "requestq", maxSize: 64, serve: (chain, context) => this.#serve(chain, context) },
  ];
  readonly config: NonNullable<VirtioDevice["config"]> = {
    length: 8,
    read: (offset, target) => target.set(this.#config().subarray(offset, offset + target.length)),
  };
  #served = 0;

  save(): { served: number } {
    return { served: this.#served };
  }

  restore(state: unknown): void {
    this.#served = stateInteger(stateRecord(state, "capitals")["served"], 0xffff_ffff, "capitals: served");
  }

  /** Returns how many bytes it wrote, from the start of the writable part on. */
  #serve(chain: DescriptorChain, { memory }: DeviceContext): number {
    if (chain.readableLength > MAX_TEXT)
      throw new VirtioFault("capitals.request", "text too long", { queue: 0, value: chain.readableLength });
    // Copied out once: the driver may change its buffer while we work.
    const text = new Uint8Array(chain.readableLength);
    new SegmentReader(memory).start(chain.readable).copy(text);
    text.forEach((byte, i) => {
      if (byte >= 0x61 && byte <= 0x7a) text[i] = byte - 0x20;
    });
    this.#served = (this.#served + 1) >>> 0;
    return new SegmentWriter(memory).start(chain.writable).copy(text);
  }

  #config(): Uint8Array {
    const bytes = new Uint8Array(8);
    writeLe32(bytes, 0, MAX_TEXT);
    writeLe32(bytes, 4, this.#served);
    return bytes;
  }
}
