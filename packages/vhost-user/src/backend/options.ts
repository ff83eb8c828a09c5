import { bitsOption, choiceOption, flagOptions, MAX_TIMER_MS, wholeOptions } from "virtio/check-option";
import { checkSocket } from "../native/socket-option.ts";
import type { VirtioObserver } from "virtio/device/observer";
import type { Scheduler } from "virtio/device/scheduler";
import type { Poller } from "@virtio/node/native/poller";

/** How a device is served. */
export interface VhostUserOptions {
  /**
   * A path, or the number of a socket that is open already: connected, or listening. It is closed in the end, and left alone when an option
   * is refused.
   */
  readonly socket: string | number;
  /** Of a path: whether to wait there for a front-end (default), or to connect to one that waits there. */
  readonly mode?: "listen" | "connect";
  /** Unique in its process; names the device in logs and faults. */
  readonly label: string;
  /** Ring features to offer; default all that vhost-user carries but VIRTIO_F_IN_ORDER. */
  readonly features?: bigint;
  /** Virtqueues to offer, 1 to 65535, and never more than the device has; default all of it. */
  readonly queues?: number;
  /** Caps the size of every virtqueue; a power of two from 1 to 32768. */
  readonly queueSize?: number;
  readonly observer?: VirtioObserver;
  readonly scheduler?: Scheduler;
  /** Where the descriptors are waited for; default Node's main loop. */
  readonly poller?: Poller;
  /**
   * Refuses every file to be mapped (guest memory, dirty log, inflight region) whose pages the front-end could take away, which would
   * end this process: those without F_SEAL_SHRINK, and huge pages. Default false.
   */
  readonly sealedMemoryOnly?: boolean;
  /** Connecting again after the front-end went away, in milliseconds up to 2^31 - 1. Default 1000. */
  readonly reconnectDelay?: number;
  /**
   * A connection ended, or was ended, by a mistake of the front-end; the next one is waited for. Or something that it asked for was
   * refused, told once a connection. Or guest memory cannot be mapped, for this process is out of something: the device needs a
   * reset then.
   */
  readonly onError?: (error: Error) => void;
  readonly onConnect?: () => void;
  readonly onDisconnect?: () => void;
}

const RANGES = { queues: [1, 0xffff], reconnectDelay: [0, MAX_TIMER_MS] } as const;

/** Throws a RangeError or TypeError that names the option which cannot be. What a `DeviceInstance` takes, it checks itself. */
export function checkServeOptions(options: VhostUserOptions): void {
  const { socket, mode, features } = options;
  checkSocket(socket);
  if (mode !== undefined) choiceOption("vhost-user: mode", mode, ["listen", "connect"]);
  if (features !== undefined) bitsOption("vhost-user: features", features);
  flagOptions("vhost-user", options, ["sealedMemoryOnly"]);
  wholeOptions("vhost-user", options, RANGES);
}
