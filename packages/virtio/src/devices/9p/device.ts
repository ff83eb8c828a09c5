import { partOption, textOption } from "../../check-option.ts";
import type { FileSystem } from "../../backends/file-system.ts";
import type { DeviceContext, MaybePromise, VirtioDevice } from "../../device/device.ts";
import { VirtioFault } from "../../fault.ts";
import { writeLe16 } from "../../memory/bytes.ts";
import { encodeUtf8 } from "../../memory/utf8.ts";
import { RLERROR_SIZE, VIRTIO_9P_CONFIG, VIRTIO_9P_MOUNT_TAG } from "../../protocols/9p/numbers.ts";
import { featureBits } from "../../spec/core.ts";
import { VIRTIO_ID_9P } from "../../spec/ids.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import { ChainExchange } from "./exchange.ts";
import { HANDLERS } from "./handlers.ts";
import type { SessionLimits } from "./limits.ts";
import { Session } from "./session.ts";
import { restoreSession, saveSession, type SessionState } from "./state.ts";

/** Linux puts at most this many descriptors into a chain, and needs a queue that can take them. */
const QUEUE_SIZE = 128;
/** Bytes; QEMU allows 32. */
const MAX_TAG = 255;

export interface NinePOptions {
  /** What a driver finds the share by: `mount -t 9p TAG DIRECTORY`. 1 to 255 bytes. */
  readonly tag: string;
  readonly fileSystem: FileSystem;
  readonly limits?: SessionLimits;
}

/** A device that shares a tree of files by 9P2000.L, as QEMU's `virtio-9p` does. */
export function ninePDevice(options: NinePOptions): VirtioDevice<SessionState> {
  const config = configSpace(options.tag);
  partOption("9p: fileSystem", options.fileSystem, "a FileSystem", "lookup");
  const session = new Session(options.fileSystem, HANDLERS, options.limits);
  const idle: ChainExchange[] = [];
  const busy = new Set<ChainExchange>();

  function serve(chain: DescriptorChain, { memory, watch }: DeviceContext): MaybePromise<number> {
    // No answer of the protocol fits: not even the one that says so.
    if (chain.writableLength < RLERROR_SIZE) {
      throw new VirtioFault("own.9p", "no room for a reply of 11 bytes", {
        queue: 0,
        value: chain.writableLength,
      });
    }
    session.watch = watch;
    const exchange = (idle.pop() ?? new ChainExchange()).start(memory, chain);
    const size = session.serve(exchange);
    if (!(size instanceof Promise)) return complete(exchange, size);
    busy.add(exchange);
    return size.then((later) => complete(exchange, later));
  }

  function complete(exchange: ChainExchange, size: number): number {
    exchange.complete();
    exchange.abandon();
    busy.delete(exchange);
    idle.push(exchange);
    return size;
  }

  /** The driver may use the memory of what is under way for something else from now on. */
  function abandon(): void {
    for (const exchange of busy) exchange.abandon();
  }

  return {
    id: VIRTIO_ID_9P,
    name: "9p",
    features: featureBits(VIRTIO_9P_MOUNT_TAG),
    config: {
      length: config.length,
      read: (offset, target) => target.set(config.subarray(offset, offset + target.length)),
    },
    queues: [{ name: "requests", maxSize: QUEUE_SIZE, serve, uneven: true }],
    reset() {
      abandon();
      return session.reset();
    },
    resetQueue: abandon,
    save: (lost) => saveSession(session, lost),
    restore: (state) => restoreSession(session, state),
  };
}

function configSpace(tag: string): Uint8Array {
  const bytes = encodeUtf8(textOption("9p: tag", tag));
  if (bytes.length === 0 || bytes.length > MAX_TAG || tag.includes("\0")) {
    throw new RangeError(`9p: tag must have 1 to ${MAX_TAG} bytes and no NUL, not ${JSON.stringify(tag)}`);
  }
  const config = new Uint8Array(VIRTIO_9P_CONFIG.tag + bytes.length);
  writeLe16(config, VIRTIO_9P_CONFIG.tag_len, bytes.length);
  config.set(bytes, VIRTIO_9P_CONFIG.tag);
  return config;
}
