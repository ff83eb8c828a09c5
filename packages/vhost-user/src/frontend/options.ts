import type { Poller } from "@virtio/node/native/poller";
import type { SharedObjectTable } from "./shared-objects.ts";

/** Where a device is, and what the protocol does not say about it. */
export interface FrontendOptions {
  /** The path where the back-end listens, or the number of a socket that is connected to it; it is closed in the end. */
  readonly socket: string | number;
  /** Virtio device id: a back-end does not tell what it is. */
  readonly deviceId: number;
  /** For people; default the socket. */
  readonly name?: string;
  /** Bytes to share with the device, a multiple of 4096. Default 64 MiB; what is not used takes no memory. */
  readonly memory?: number;
  /** The largest virtqueue that is made, or that by index; a back-end does not say which sizes it takes. Default 128. */
  readonly queueSize?: number | ((index: number) => number);
  /** Virtqueues that there are, for back-ends that do not say it. Default 1, of a network or console device 2. */
  readonly queues?: number;
  /**
   * Features that the driver does not see. Default, for a network device: the control virtqueue, which back-ends offer
   * for the hypervisor to serve. `0n` for one that serves it itself, such as ours.
   */
  readonly withhold?: bigint;
  /** The configuration space, for a back-end that has none. */
  readonly config?: Uint8Array;
  /** Its length, for a device type whose configuration space is not known here. */
  readonly configLength?: number;
  /** Nobody waits for the device's notifications: the caller looks with `poll`. Default false. */
  readonly polling?: boolean;
  /**
   * After used buffers were found: nanoseconds in which turns of Node's loop look for more before a call is waited for, at most. How
   * long it really is follows from how long it was quiet before. Default 65536; with a `poller` never.
   */
  readonly pollMaxNs?: number;
  /** Milliseconds that an answer may take; then the back-end counts as dead. Default 5000. */
  readonly timeout?: number;
  /**
   * When the back-end dies, connect to the next one at the same path and go on: requests stay outstanding, and none is
   * lost or done twice. Only with back-ends that can (INFLIGHT_SHMFD); with others their death is an error as it is
   * without this. VIRTIO_F_RING_RESET is not used then.
   */
  readonly reconnect?: ReconnectOptions;
  /**
   * Objects (dma-bufs) that back-ends with the same table pass to each other. Default: there is no such table, and none are passed.
   */
  readonly sharedObjects?: SharedObjectTable;
  /** Where descriptors are waited for; default Node's main loop. */
  readonly poller?: Poller;
}

export interface ReconnectOptions {
  /** Milliseconds between attempts. Default 100. */
  readonly delay?: number;
  /** Milliseconds until it is given up. Default 10000. */
  readonly giveUp?: number;
}
