import type { VirtioDevice } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import { NativeError } from "@virtio/node/native/native-error";
import { VIRTQ_MAX_SIZE } from "virtio/spec/virtqueue";
import { MemoryTable } from "../memory/memory-table.ts";
import { PeerFiles } from "../memory/peer-file.ts";
import { Descriptor } from "../native/descriptor.ts";
import { ECONNREFUSED, ENOENT } from "../native/linux.ts";
import { mainLoopPoller } from "../native/poller.ts";
import { SocketFile } from "../native/socket-file.ts";
import { UnixListener, UnixSocket, isListening } from "../native/unix-socket.ts";
import type { Watch } from "@virtio/node/native/poller";
import { asError } from "../protocol/errors.ts";
import { ringFeatures } from "./features.ts";
import { DeviceLife } from "./life.ts";
import { checkServeOptions, type VhostUserOptions } from "./options.ts";
import { Refusals } from "./refusals.ts";
import { BackendSession, type ServedDevice } from "./session.ts";

/** A device that is being served. */
export interface VhostUserServer {
  readonly label: string;
  readonly instance: DeviceInstance;
  /** A front-end is connected. */
  readonly connected: boolean;
  /** Resolves when no front-end will be served any more: after `close`, or when the only connection ended. */
  readonly closed: Promise<void>;
  /** Takes no more requests, waits for those that are being worked on, and ends. The device's back-end stays open. */
  close(): Promise<void>;
}

const RECONNECT_DELAY = 1000;

/**
 * Serves a device to one front-end after the other. The promise resolves when the socket is there (or, connecting, at
 * once). Rejects with an Error when the socket cannot be made, or where vhost-user is not possible, and with a RangeError or
 * TypeError that names the option when one cannot be.
 */
export async function serveVhostUser(
  device: VirtioDevice,
  options: VhostUserOptions,
): Promise<VhostUserServer> {
  checkServeOptions(options);
  const server = new Server(device, options);
  try {
    server.open();
  } catch (error) {
    await server.close();
    throw error;
  }
  return server;
}

/** No message says a largest size: drivers hear of one from the front-end, and QEMU's virtio-mmio says 1024 whatever is behind it. */
function anySize(instance: DeviceInstance): void {
  for (let index = 0; index < instance.queueCount; index++) {
    const queue = instance.queue(index);
    if (queue !== undefined) queue.maxSize = VIRTQ_MAX_SIZE;
  }
}

class Server implements VhostUserServer {
  readonly label: string;
  readonly instance: DeviceInstance;
  readonly closed: Promise<void>;
  readonly #options: VhostUserOptions;
  readonly #served: ServedDevice;
  #resolveClosed: () => void = () => undefined;
  /** Ours to make and to remove. */
  #file: SocketFile | undefined;
  #listener: UnixListener | undefined;
  #watch: Watch | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #session: BackendSession | undefined;
  /** The end of a session that is under way. */
  #ending: Promise<void> | undefined;
  #closing = false;

  constructor(device: VirtioDevice, options: VhostUserOptions) {
    const { label, queueSize, observer, scheduler } = options;
    this.label = label;
    this.#options = options;
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    const files = new PeerFiles(options.sealedMemoryOnly ?? false);
    const memory = new MemoryTable({ files });
    memory.onUnmappable = (error) => options.onError?.(error);
    this.instance = new DeviceInstance(device, {
      label,
      memory,
      features: ringFeatures(options.features),
      ...(queueSize === undefined ? {} : { queueSize }),
      ...(observer === undefined ? {} : { observer }),
      ...(scheduler === undefined ? {} : { scheduler }),
    });
    if (queueSize === undefined) anySize(this.instance);
    const queues = Math.min(options.queues ?? Infinity, device.queues.length);
    this.#served = {
      instance: this.instance,
      life: new DeviceLife(this.instance),
      memory,
      files,
      refusals: new Refusals((error) => this.#report(error)),
      poller: options.poller ?? mainLoopPoller,
      // Of network devices front-ends count pairs.
      queueCount: device.name === "net" ? Math.max(1, queues >> 1) : queues,
    };
  }

  get connected(): boolean {
    return this.#session !== undefined;
  }

  open(): void {
    const { socket, mode = "listen" } = this.#options;
    if (typeof socket === "number") {
      const connected = this.#adopt(new Descriptor(socket));
      if (connected !== undefined) return this.#begin(connected);
    } else if (mode === "listen") {
      this.#file = SocketFile.listen(socket);
      this.#listener = this.#file.listener;
    }
    this.#wait();
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#stopWaiting();
    this.#end();
    await this.#ending;
    this.#file?.close();
    // One that was handed over.
    if (this.#listener?.descriptor.closed === false) this.#listener.close();
    this.#listener = undefined;
    this.#resolveClosed();
  }

  /** A socket that was handed over: listened at from now on, or given back because it is connected. */
  #adopt(descriptor: Descriptor): UnixSocket | undefined {
    try {
      if (!isListening(descriptor)) return new UnixSocket(descriptor);
      this.#listener = new UnixListener(descriptor);
      return undefined;
    } catch (error) {
      descriptor.close();
      throw error;
    }
  }

  /** For the next front-end. */
  #wait(): void {
    if (this.#closing) return;
    if (this.#listener !== undefined) {
      const listener = this.#listener;
      this.#watch = this.#served.poller.watch(listener.fd, () => this.#accept(listener));
    } else if (typeof this.#options.socket === "string") this.#connect(this.#options.socket);
    else this.#resolveClosed();
  }

  #accept(listener: UnixListener): void {
    try {
      const socket = listener.accept();
      if (socket === undefined) return;
      this.#stopWaiting();
      this.#begin(socket);
    } catch (error) {
      // Out of descriptors, or of memory; whoever connects waits until that is over.
      this.#report(error);
      this.#stopWaiting();
      this.#waitLater();
    }
  }

  #waitLater(): void {
    this.#timer = setTimeout(() => this.#wait(), this.#options.reconnectDelay ?? RECONNECT_DELAY);
  }

  #report(error: unknown): void {
    this.#options.onError?.(asError(error));
  }

  #connect(path: string): void {
    try {
      this.#begin(UnixSocket.connect(path));
    } catch (error) {
      const nobody = error instanceof NativeError && (error.errno === ENOENT || error.errno === ECONNREFUSED);
      if (!nobody) this.#report(error);
      this.#waitLater();
    }
  }

  #stopWaiting(): void {
    this.#watch?.stop();
    this.#watch = undefined;
    clearTimeout(this.#timer);
  }

  #begin(socket: UnixSocket): void {
    this.#served.refusals.begin();
    this.#session = new BackendSession(this.#served, socket, (error) => {
      if (error !== undefined) this.#options.onError?.(error);
      this.#end();
    });
    this.#options.onConnect?.();
    this.#session.begin();
  }

  #end(): void {
    const session = this.#session;
    if (session === undefined || this.#ending !== undefined) return;
    const ended = session.close().catch((error: unknown) => this.#report(error));
    this.#ending = ended.then(() => {
      this.#session = undefined;
      this.#ending = undefined;
      this.#options.onDisconnect?.();
      if (this.#options.mode === "connect" && !this.#closing) this.#waitLater();
      else this.#wait();
    });
  }
}
