import { Descriptor } from "./descriptor.ts";
import { NativeError } from "@virtio/node/native/native-error";
import { check, natives } from "./libc.ts";
import {
  EINTR,
  EPOLLIN,
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_EVENT_DATA,
  EPOLL_EVENT_SIZE,
} from "./linux.ts";

const MAX_EVENTS = 64;

/**
 * Waits for descriptors, blocking the thread: for workers. A thread that blocks here cannot be ended: keep an event in
 * the set and signal it first.
 */
export class Epoll {
  readonly #epoll: Descriptor;
  readonly #events = new Uint8Array(MAX_EVENTS * EPOLL_EVENT_SIZE);
  readonly #data = new DataView(this.#events.buffer);
  readonly #event = new Uint8Array(EPOLL_EVENT_SIZE);
  readonly #eventData = new DataView(this.#event.buffer);

  constructor() {
    this.#epoll = new Descriptor(check(natives().epoll_create1(EPOLL_CLOEXEC), "epoll_create1"));
  }

  /** For another epoll set, or for `watch`: readable when something in this one is. */
  get fd(): number {
    return this.#epoll.fd;
  }

  /** `key` is what `wait` reports; 32 bits. `events` as EPOLLIN. Throws when `fd` cannot be waited for (a plain file). */
  add(fd: number, key: number, events: number = EPOLLIN): void {
    this.#eventData.setUint32(0, events, true);
    this.#eventData.setUint32(EPOLL_EVENT_DATA, key, true);
    check(natives().epoll_ctl(this.#epoll.fd, EPOLL_CTL_ADD, fd, this.#event), "epoll_ctl");
  }

  /** Before the descriptor is closed. */
  remove(fd: number): void {
    natives().epoll_ctl(this.#epoll.fd, EPOLL_CTL_DEL, fd, this.#event);
  }

  /**
   * Waits at most this many milliseconds, -1 for ever, and puts the keys of what is ready into `keys`. Returns how many;
   * 0 too when a signal came.
   */
  wait(milliseconds: number, keys: Uint32Array): number {
    const native = natives();
    const max = Math.min(MAX_EVENTS, keys.length);
    const count = native.epoll_wait(this.#epoll.fd, this.#events, max, milliseconds);
    if (count < 0) {
      const errno = native.errno();
      if (errno === EINTR) return 0;
      throw new NativeError("epoll_wait", errno);
    }
    for (let i = 0; i < count; i++)
      keys[i] = this.#data.getUint32(i * EPOLL_EVENT_SIZE + EPOLL_EVENT_DATA, true);
    return count;
  }

  close(): void {
    this.#epoll.close();
  }
}
