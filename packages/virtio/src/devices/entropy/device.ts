import type { EntropySource } from "../../backends/entropy.ts";
import type { VirtioDevice } from "../../device/device.ts";
import { VirtioFault } from "../../fault.ts";
import { SegmentWriter } from "../../memory/cursor.ts";
import type { GuestMemory } from "../../memory/guest-memory.ts";
import { VIRTIO_ID_ENTROPY } from "../../spec/ids.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";

/** Bytes given for one request, whatever the driver asks for: the spec lets a device use less than the buffer. */
const MAX_BYTES = 65_536;
/** Requests at a time, and with that how much an asynchronous source makes us hold. */
const QUEUE_SIZE = 8;

/** The entropy device ("Entropy Device"): fills what the driver offers with bytes of `source`. */
export function entropyDevice(source: EntropySource): VirtioDevice {
  let idle: Uint8Array | undefined;
  let life = 0;
  const forget = (): void => void life++;

  // Never straight into guest memory: it may move under an asynchronous source, and Web Crypto refuses shared memory.
  function deliver(memory: GuestMemory, chain: DescriptorChain, bytes: Uint8Array): number {
    const written = new SegmentWriter(memory).start(chain.writable).copy(bytes);
    idle = new Uint8Array(bytes.buffer);
    return written;
  }

  return {
    id: VIRTIO_ID_ENTROPY,
    name: "entropy",
    features: 0n,
    reset: forget,
    resetQueue: forget,
    queues: [
      {
        name: "requestq",
        maxSize: QUEUE_SIZE,
        serve(chain, { memory, watch }) {
          if (chain.readable.length > 0)
            throw new VirtioFault("drv.entropy.operation", "device-readable buffer in the request queue", {
              value: chain.readableLength,
            });
          if (chain.writableLength === 0) {
            watch?.hint("own.direction", "a request without a device-writable buffer", { queue: 0 });
            return 0;
          }
          const bytes = (idle ?? new Uint8Array(MAX_BYTES)).subarray(0, chain.writableLength);
          idle = undefined;
          const born = life;
          const ready = source(bytes);
          if (ready === undefined) return deliver(memory, chain, bytes);
          return ready.then(() => (born === life ? deliver(memory, chain, bytes) : 0));
        },
      },
    ],
  };
}
