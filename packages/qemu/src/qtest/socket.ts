import { EAGAIN, EINTR, EPOLLIN, EPOLLOUT } from "@virtio/vhost-user/native/linux";
import { Epoll } from "@virtio/vhost-user/native/epoll";
import { natives } from "@virtio/vhost-user/native/libc";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watch } from "@virtio/vhost-user/native/watch";
import { QemuError } from "../error.ts";

/**
 * A connected stream socket whose owner waits for answers: reading and writing block this thread, up to a deadline,
 * because a register access of a driver is no promise.
 */
export class BlockingSocket {
  readonly #socket: UnixSocket;
  readonly #readable = new Epoll();
  readonly #either = new Epoll();
  readonly #keys = new Uint32Array(1);

  /** Takes over a socket. */
  constructor(socket: UnixSocket) {
    this.#socket = socket;
    this.#readable.add(socket.fd, 0, EPOLLIN);
    this.#either.add(socket.fd, 0, EPOLLIN | EPOLLOUT);
  }

  /** Throws a NativeError when nobody listens. */
  static connect(path: string): BlockingSocket {
    return new BlockingSocket(UnixSocket.connect(path));
  }

  /** Bytes that are there, at most as many as `target` holds; 0: none now. Throws a QemuError at the end of the stream. */
  read(target: Uint8Array): number {
    const native = natives();
    const count = native.read(this.#socket.fd, target, target.length);
    if (count > 0) return count;
    const errno = count < 0 ? native.errno() : 0;
    if (errno === EAGAIN || errno === EINTR) return 0;
    throw new QemuError("the connection has ended");
  }

  /** How many bytes of it could be sent. Throws a QemuError when the peer is gone. */
  write(source: Uint8Array): number {
    const native = natives();
    const count = native.write(this.#socket.fd, source, source.length);
    if (count >= 0) return count;
    const errno = native.errno();
    if (errno === EAGAIN || errno === EINTR) return 0;
    throw new QemuError("the connection has ended");
  }

  /** Blocks until there is something to read, or room to write too when that is asked for, or for some milliseconds. */
  wait(milliseconds: number, room: boolean): void {
    (room ? this.#either : this.#readable).wait(Math.max(0, Math.ceil(milliseconds)), this.#keys);
  }

  /** Calls `ready` from the event loop whenever there is something to read. */
  watch(ready: () => void): { stop(): void } {
    return watch(this.#socket.fd, ready);
  }

  close(): void {
    this.#readable.close();
    this.#either.close();
    this.#socket.close();
  }
}
