import { VirtioFault } from "../../fault.ts";
import type { DeviceContext } from "../../device/device.ts";
import type { DeviceWatch } from "../../device/hint.ts";
import { SegmentReader } from "../../memory/cursor.ts";
import { VIRTIO_NET_HDR, VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM, VIRTIO_NET_HDR_GSO_NONE } from "../../spec/net.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import { ETHERNET_HEADER_BYTES } from "./mac.ts";

/**
 * The longest frame either way: 65535 bytes of payload behind an Ethernet header with a VLAN tag. What is longer is
 * dropped.
 */
export const MAX_FRAME_BYTES = 65553;

/** Takes frames out of transmit buffers ("Packet Transmission"). One object a life of the device. */
export class FrameReader {
  readonly #reader: SegmentReader;
  readonly #header: Uint8Array;
  readonly #maxFrame: number;
  readonly #watch: DeviceWatch | undefined;
  /** Where frames are put together that lie in several segments. */
  #gathered: Uint8Array | undefined;

  constructor(context: DeviceContext, headerBytes: number, maxFrame: number) {
    this.#reader = new SegmentReader(context.memory);
    this.#header = new Uint8Array(headerBytes);
    this.#maxFrame = maxFrame;
    this.#watch = context.watch;
  }

  /**
   * The frame, in guest memory where it lies in one piece; valid until the next call. Undefined when it has to be
   * dropped. Throws a VirtioFault when there is not even a header.
   */
  read(chain: DescriptorChain, queue: number): Uint8Array | undefined {
    const header = this.#header;
    const length = chain.readableLength - header.length;
    if (length < 0) {
      const where = { queue, descriptor: chain.token, value: chain.readableLength };
      throw new VirtioFault("drv.net.tx", "transmit buffer is smaller than struct virtio_net_hdr", where);
    }
    if (this.#watch !== undefined && chain.writable.length > 0)
      this.#watch.hint("own.direction", "a device-writable buffer in a transmitq", { queue });
    const reader = this.#reader.start(chain.readable);
    reader.copy(header);
    if (length < ETHERNET_HEADER_BYTES || length > this.#maxFrame || !acceptable(header)) {
      this.#watch?.failed(queue, this.#explain(length));
      return undefined;
    }
    const piece = reader.next(length);
    if (piece === undefined || piece.length === length) return piece;
    const frame = (this.#gathered ??= new Uint8Array(MAX_FRAME_BYTES)).subarray(0, length);
    frame.set(piece);
    reader.copy(frame.subarray(piece.length));
    return frame;
  }

  /** Why a frame of so many bytes is dropped. */
  #explain(length: number): string {
    if (length < ETHERNET_HEADER_BYTES) return `dropped: ${length} bytes are no Ethernet header`;
    if (length > this.#maxFrame)
      return `dropped: a frame of ${length} bytes is longer than ${this.#maxFrame}`;
    const type = this.#header[VIRTIO_NET_HDR.gso_type] ?? 0;
    return `dropped: gso_type ${type} or flags are of an offload that was not negotiated`;
  }
}

/**
 * Without offloads a frame must be whole: a `gso_type` is for a feature that was not offered, and for the tunnel kinds
 * the spec says "the device MUST NOT accept the packet". Other flags are ignored, and the checksum fields with them.
 */
function acceptable(header: Uint8Array): boolean {
  const flags = header[VIRTIO_NET_HDR.flags] ?? 0;
  return (
    header[VIRTIO_NET_HDR.gso_type] === VIRTIO_NET_HDR_GSO_NONE &&
    (flags & VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM) === 0
  );
}
