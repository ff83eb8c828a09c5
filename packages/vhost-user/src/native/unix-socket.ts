import { textOption } from "virtio/check-option";
import { fchmodSync } from "node:fs";
import { SOCKET_MODE } from "@virtio/node/private-files";
import { Descriptor } from "./descriptor.ts";
import { NativeError } from "@virtio/node/native/native-error";
import { check, natives } from "./libc.ts";
import {
  AF_UNIX,
  EAGAIN,
  EINTR,
  MSG_CMSG_CLOEXEC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SCM_RIGHTS,
  SO_ACCEPTCONN,
  SO_DOMAIN,
  SO_TYPE,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
} from "./linux.ts";

/** sizeof(struct sockaddr_un), and of the path in it with its NUL. */
const ADDRESS_SIZE = 110;
const PATH_SIZE = 108;
/** One memory for `msghdr`, `iovec`, control data and payload: they hold addresses of each other. */
const IOVEC = 64;
const CONTROL = 128;
const CONTROL_SIZE = 16 + 4 * 256;
const DATA = 4096;
const DATA_SIZE = 0x1_0000;
const CMSG_HEADER = 16;

interface Scratch {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly message: number;
}

let shared: Scratch | undefined;

function scratch(): Scratch {
  if (shared !== undefined) return shared;
  const buffer = new SharedArrayBuffer(DATA + DATA_SIZE);
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const message = natives().address(bytes);
  view.setBigUint64(16, BigInt(message + IOVEC), true);
  view.setBigUint64(24, 1n, true);
  view.setBigUint64(IOVEC, BigInt(message + DATA), true);
  return (shared = { bytes, view, message });
}

function socketAddress(path: string): Uint8Array {
  const bytes = new TextEncoder().encode(textOption("unix socket: path", path, 1));
  if (bytes.length >= PATH_SIZE)
    throw new RangeError(`socket path is longer than ${PATH_SIZE - 1} bytes: ${path}`);
  const address = new Uint8Array(ADDRESS_SIZE);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  return address;
}

function streamSocket(): Descriptor {
  const type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  return new Descriptor(check(natives().socket(AF_UNIX, type, 0), "socket"));
}

/** What `receive` found: bytes, nothing yet, or the end of the connection. */
export type Received = number | "later" | "end";

/** A connected stream of bytes with descriptors between them. Never blocks. */
export class UnixSocket {
  readonly descriptor: Descriptor;

  /** Takes over a connected socket. */
  constructor(descriptor: Descriptor) {
    this.descriptor = descriptor;
    descriptor.setNonBlocking();
  }

  /** Throws a NativeError: ENOENT, ECONNREFUSED when nobody listens. */
  static connect(path: string): UnixSocket {
    const address = socketAddress(path);
    const descriptor = streamSocket();
    try {
      check(natives().connect(descriptor.fd, address, ADDRESS_SIZE), `connect ${path}`);
      return new UnixSocket(descriptor);
    } catch (error) {
      descriptor.close();
      throw error;
    }
  }

  static pair(): [UnixSocket, UnixSocket] {
    const fds = new Int32Array(2);
    check(natives().socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), "socketpair");
    const [left, right] = [...fds].map((fd) => new UnixSocket(new Descriptor(fd)));
    if (left === undefined || right === undefined) throw new Error("socketpair gave no pair");
    return [left, right];
  }

  get fd(): number {
    return this.descriptor.fd;
  }

  /**
   * Fills `target` as far as bytes are there, and appends the descriptors that came with them. Ask for no more than the
   * rest of one message, and what comes belongs to it.
   */
  receive(target: Uint8Array, descriptors: Descriptor[]): Received {
    const native = natives();
    const { bytes, view, message } = scratch();
    view.setBigUint64(IOVEC + 8, BigInt(Math.min(target.length, DATA_SIZE)), true);
    view.setBigUint64(32, BigInt(message + CONTROL), true);
    view.setBigUint64(40, BigInt(CONTROL_SIZE), true);
    const count = native.recvmsg(this.fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (count < 0) {
      const errno = native.errno();
      return errno === EAGAIN || errno === EINTR ? "later" : "end";
    }
    takeDescriptors(view, descriptors);
    if (count === 0) return "end";
    target.set(bytes.subarray(DATA, DATA + count));
    return count;
  }

  /**
   * Sends all of it with the descriptors at its first byte, or throws; at most 64 KiB. A peer that does not read its
   * messages is not waited for: false, nothing or a part was sent and the connection is of no more use.
   */
  send(source: Uint8Array, descriptors: readonly Descriptor[] = []): boolean {
    const native = natives();
    const { bytes, view, message } = scratch();
    if (source.length > DATA_SIZE) throw new RangeError("message is too long");
    const control = descriptors.length === 0 ? 0 : CMSG_HEADER + 4 * descriptors.length;
    view.setBigUint64(32, BigInt(control === 0 ? 0 : message + CONTROL), true);
    view.setBigUint64(40, BigInt(control), true);
    view.setBigUint64(CONTROL, BigInt(control), true);
    view.setInt32(CONTROL + 8, SOL_SOCKET, true);
    view.setInt32(CONTROL + 12, SCM_RIGHTS, true);
    descriptors.forEach(({ fd }, i) => view.setInt32(CONTROL + CMSG_HEADER + 4 * i, fd, true));
    bytes.set(source, DATA);
    view.setBigUint64(IOVEC + 8, BigInt(source.length), true);
    return native.sendmsg(this.fd, message, MSG_DONTWAIT | MSG_NOSIGNAL) === source.length;
  }

  close(): void {
    this.descriptor.close();
  }
}

/** Every control message of SCM_RIGHTS in the control data that was received. */
function takeDescriptors(view: DataView, descriptors: Descriptor[]): void {
  const end = Number(view.getBigUint64(40, true));
  for (let at = 0; at + CMSG_HEADER <= end;) {
    const length = view.getUint32(CONTROL + at, true);
    if (length < CMSG_HEADER) return;
    const rights =
      view.getInt32(CONTROL + at + 8, true) === SOL_SOCKET &&
      view.getInt32(CONTROL + at + 12, true) === SCM_RIGHTS;
    for (let i = CMSG_HEADER; rights && i + 4 <= length && at + i + 4 <= end; i += 4)
      descriptors.push(new Descriptor(view.getInt32(CONTROL + at + i, true)));
    at += Math.ceil(length / 8) * 8;
  }
}

/** Whether somebody called listen(2) on it. Throws an Error for what is no Unix stream socket. */
export function isListening(socket: Descriptor): boolean {
  const option = (name: number): number => {
    const value = new Int32Array(1);
    const length = new Uint32Array([4]);
    check(natives().getsockopt(socket.fd, SOL_SOCKET, name, value, length), `descriptor ${socket.fd}`);
    return value[0] ?? 0;
  };
  if (option(SO_DOMAIN) !== AF_UNIX || option(SO_TYPE) !== SOCK_STREAM)
    throw new Error(`descriptor ${socket.fd} is no Unix stream socket`);
  return option(SO_ACCEPTCONN) !== 0;
}

/** A socket that front-ends (or back-ends) connect to. Never blocks. */
export class UnixListener {
  readonly descriptor: Descriptor;

  /** Takes over a listening socket. */
  constructor(descriptor: Descriptor) {
    this.descriptor = descriptor;
    descriptor.setNonBlocking();
  }

  /** The path must not be there yet. */
  static listen(path: string): UnixListener {
    const address = socketAddress(path);
    const descriptor = streamSocket();
    try {
      // The file that bind makes has this mode, without the umask's bits.
      fchmodSync(descriptor.fd, SOCKET_MODE);
      check(natives().bind(descriptor.fd, address, ADDRESS_SIZE), `bind ${path}`);
      check(natives().listen(descriptor.fd, 16), `listen ${path}`);
      return new UnixListener(descriptor);
    } catch (error) {
      descriptor.close();
      throw error;
    }
  }

  get fd(): number {
    return this.descriptor.fd;
  }

  /** The next connection, or undefined when nobody waits. */
  accept(): UnixSocket | undefined {
    const native = natives();
    const fd = native.accept4(this.fd, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) return new UnixSocket(new Descriptor(fd));
    const errno = native.errno();
    if (errno === EAGAIN || errno === EINTR) return undefined;
    throw new NativeError("accept4", errno);
  }

  close(): void {
    this.descriptor.close();
  }
}
