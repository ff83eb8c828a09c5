import {
  bitsOption,
  bytesOption,
  flagOptions,
  MAX_TIMER_MS,
  multipleOption,
  textOption,
  wholeOption,
  wholeOptions,
} from "virtio/check-option";
import { VIRTQ_MAX_SIZE } from "virtio/spec/virtqueue";
import { checkSocket } from "../native/socket-option.ts";
import type { Poller } from "@virtio/node/native/poller";
import type { SharedObjectTable } from "./shared-objects.ts";

/** Where a device is, and what the protocol does not say about it. */
export interface FrontendOptions {
  /** The path where the back-end listens, or the number of a socket that is connected to it; it is closed in the end. */
  readonly socket: string | number;
  /** Virtio device id, 32 bits: a back-end does not tell what it is. */
  readonly deviceId: number;
  /** For people; default the socket. */
  readonly name?: string;
  /** Bytes to share with the device, a multiple of 4096 up to 1 TiB. Default 64 MiB; what is not used takes no memory. */
  readonly memory?: number;
  /** The largest virtqueue that is made, 1 to 32768, or that by index (0: there is no such virtqueue); a back-end does not say which sizes it takes. Default 128. */
  readonly queueSize?: number | ((index: number) => number);
  /** Virtqueues that there are, 1 to 256, for back-ends that do not say it. Default 1, of a network or console device 2. */
  readonly queues?: number;
  /**
   * Features that the driver does not see. Default, for a network device: the control virtqueue, which back-ends offer
   * for the hypervisor to serve. `0n` for one that serves it itself, such as ours.
   */
  readonly withhold?: bigint;
  /** The configuration space, for a back-end that has none. */
  readonly config?: Uint8Array;
  /** Its length in bytes, up to 4096, for a device type whose configuration space is not known here. */
  readonly configLength?: number;
  /** Nobody waits for the device's notifications: the caller looks with `poll`. Default false. */
  readonly polling?: boolean;
  /**
   * After used buffers were found: nanoseconds in which turns of Node's loop look for more before a call is waited for, at most. How
   * long it really is follows from how long it was quiet before. Default 65536; with a `poller` never.
   */
  readonly pollMaxNs?: number;
  /** Milliseconds that an answer may take, 1 to 2^31 - 1; then the back-end counts as dead. Default 5000. */
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
  /** Milliseconds between attempts, up to 2^31 - 1. Default 100. */
  readonly delay?: number;
  /** Milliseconds until it is given up, up to 2^31 - 1. Default 10000. */
  readonly giveUp?: number;
}

/** Bytes. */
const PAGE = 4096;
const MAX_MEMORY = 2 ** 40;
/** Messages about descriptors have 8 bits for the index of a virtqueue. */
const MAX_QUEUES = 256;
const MAX_CONFIG = 4096;
const RANGES = {
  queues: [1, MAX_QUEUES],
  configLength: [0, MAX_CONFIG],
  pollMaxNs: [0, Number.MAX_SAFE_INTEGER],
  timeout: [1, MAX_TIMER_MS],
} as const;

/** Throws a RangeError or TypeError that names the option which cannot be. Sizes that a function gives are checked when it does. */
export function checkFrontendOptions(options: FrontendOptions): void {
  const { socket, deviceId, name, memory, queueSize, withhold, config, reconnect } = options;
  checkSocket(socket);
  wholeOption("vhost-user: deviceId", deviceId, 0, 0xffff_ffff);
  if (name !== undefined) textOption("vhost-user: name", name, 1);
  if (memory !== undefined) multipleOption("vhost-user: memory", memory, PAGE, PAGE, MAX_MEMORY);
  if (queueSize !== undefined && typeof queueSize !== "function") checkQueueSize(queueSize, 1);
  if (withhold !== undefined) bitsOption("vhost-user: withhold", withhold);
  if (config !== undefined) bytesOption("vhost-user: config", config);
  flagOptions("vhost-user", options, ["polling"]);
  wholeOptions("vhost-user", options, RANGES);
  if (reconnect === undefined) return;
  wholeOptions("vhost-user: reconnect", reconnect, { delay: [0, MAX_TIMER_MS], giveUp: [0, MAX_TIMER_MS] });
}

/** `least` 0: a function may say that there is no such virtqueue. */
export function checkQueueSize(size: number, least: 0 | 1): number {
  return wholeOption("vhost-user: queueSize", size, least, VIRTQ_MAX_SIZE);
}
