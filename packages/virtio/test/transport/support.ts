import type { VirtioDevice } from "virtio/device/device";
import { SegmentReader, SegmentWriter } from "virtio/memory/cursor";

export interface EchoDevice extends VirtioDevice {
  readonly bytes: Uint8Array;
  /** Bytes that the driver wrote into configuration space: offset and values. */
  readonly configWrites: { offset: number; bytes: number[] }[];
}

interface EchoOptions {
  readonly id?: number;
  readonly queues?: number;
  readonly configLength?: number;
  readonly maxSize?: number;
  /** Completes after this many microtasks. Default: at once. */
  readonly delay?: number;
  readonly reset?: () => void | Promise<void>;
}

/** A device whose requests come back: what is readable is copied to what is writable. */
export function echoDevice(options: EchoOptions = {}): EchoDevice {
  const { id = 4, queues = 2, configLength = 24, maxSize = 64, delay = 0 } = options;
  const bytes = Uint8Array.from({ length: configLength }, (_, i) => i + 1);
  const configWrites: { offset: number; bytes: number[] }[] = [];
  const serve: VirtioDevice["queues"][number]["serve"] = (chain, { memory }) => {
    const data = new Uint8Array(chain.readableLength);
    new SegmentReader(memory).start(chain.readable).copy(data);
    const copy = (): number => new SegmentWriter(memory).start(chain.writable).copy(data);
    return delay === 0 ? copy() : wait(delay).then(copy);
  };
  const device: EchoDevice = {
    id,
    name: "echo",
    features: 0b11n,
    bytes,
    configWrites,
    queues: Array.from({ length: queues }, (_, i) => ({ name: `queue${i}`, maxSize, serve })),
    config: {
      length: configLength,
      read: (offset, target) => target.set(bytes.subarray(offset, offset + target.length)),
      write: (offset, source) => {
        bytes.set(source, offset);
        configWrites.push({ offset, bytes: Array.from(source) });
      },
    },
    ...(options.reset === undefined ? {} : { reset: options.reset }),
  };
  return device;
}

async function wait(turns: number): Promise<void> {
  for (let i = 0; i < turns; i++) await Promise.resolve();
}
