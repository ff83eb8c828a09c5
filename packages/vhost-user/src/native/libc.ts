import { createRequire } from "node:module";
import type * as Koffi from "koffi";
import type { Address } from "@virtio/node/native/libc";
import { NativeError } from "@virtio/node/native/native-error";
import { requireNative } from "@virtio/node/native/platform";

/**
 * Functions of the C library (and of libuv, which Node exports) under their C names. A result of -1 is a failure;
 * `errno()` must be the very next call. Bytes are handed over without a copy.
 */
export interface Natives {
  errno(): number;
  /** Where these bytes lie. Only for bytes of a SharedArrayBuffer, which never moves. */
  address(bytes: Uint8Array): Address;
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  listen(fd: number, backlog: number): number;
  accept4(fd: number, address: number, length: number, flags: number): number;
  connect(fd: number, address: Uint8Array, length: number): number;
  socketpair(domain: number, type: number, protocol: number, fds: Int32Array): number;
  getsockopt(fd: number, level: number, name: number, value: Int32Array, length: Uint32Array): number;
  sendmsg(fd: number, message: Address, flags: number): number;
  recvmsg(fd: number, message: Address, flags: number): number;
  close(fd: number): number;
  read(fd: number, target: Uint8Array, length: number): number;
  write(fd: number, source: Uint8Array, length: number): number;
  fcntl(fd: number, command: number, argument: number): number;
  eventfd(initial: number, flags: number): number;
  pipe2(fds: Int32Array, flags: number): number;
  memfd_create(name: Uint8Array, flags: number): number;
  ftruncate(fd: number, length: number): number;
  timerfd_create(clock: number, flags: number): number;
  timerfd_settime(fd: number, flags: number, time: BigInt64Array, old: null): number;
  epoll_create1(flags: number): number;
  epoll_ctl(epoll: number, operation: number, fd: number, event: Uint8Array): number;
  epoll_wait(epoll: number, events: Uint8Array, max: number, milliseconds: number): number;
  readonly uv: UvPoll;
}

/** What of libuv is needed to hear of a descriptor on Node's main loop. */
export interface UvPoll {
  loop(): Address;
  /** Bytes of a `uv_poll_t`. */
  handleSize(): number;
  allocate(length: number): Address;
  free(address: Address): void;
  init(loop: Address, handle: Address, fd: number): number;
  start(handle: Address, events: number, callback: unknown): number;
  close(handle: Address, callback: unknown): void;
  registerPoll(callback: (handle: Address, status: number, events: number) => void): unknown;
  registerClose(callback: (handle: Address) => void): unknown;
}

let bound: Natives | undefined;

/** The C library, bound when first asked for. Throws an Error where vhost-user cannot be: elsewhere than on 64-bit Linux. */
export function natives(): Natives {
  if (bound !== undefined) return bound;
  requireNative("vhost-user");
  try {
    bound = bindNatives(createRequire(import.meta.url)("koffi") as typeof Koffi);
  } catch (error) {
    throw new Error("vhost-user is not possible: koffi does not work here", { cause: error });
  }
  return bound;
}

/** Throws what `errno` says when `result` is negative. */
export function check(result: number, call: string): number {
  if (result < 0) throw new NativeError(call, natives().errno());
  return result;
}

function bindNatives(koffi: typeof Koffi): Natives {
  // No file name: the functions of the C library that node itself runs on, glibc or musl, and libuv's.
  const library = koffi.load(null);
  const c = (definition: string): ((...values: unknown[]) => never) => library.func(definition) as never;
  const prototype = (definition: string): Koffi.TypeObject => koffi.pointer(koffi.proto(definition));
  const onPoll = prototype("void vhost_user_poll(uintptr_t handle, int status, int events)");
  const onClose = prototype("void vhost_user_close(uintptr_t handle)");
  return {
    errno: () => koffi.errno(),
    address: (bytes) => Number(koffi.address(bytes)),
    socket: c("int socket(int domain, int type, int protocol)"),
    bind: c("int bind(int fd, void *address, unsigned int length)"),
    listen: c("int listen(int fd, int backlog)"),
    accept4: c("int accept4(int fd, uintptr_t address, uintptr_t length, int flags)"),
    connect: c("int connect(int fd, void *address, unsigned int length)"),
    socketpair: c("int socketpair(int domain, int type, int protocol, void *fds)"),
    getsockopt: c("int getsockopt(int fd, int level, int name, void *value, void *length)"),
    sendmsg: c("long sendmsg(int fd, uintptr_t message, int flags)"),
    recvmsg: c("long recvmsg(int fd, uintptr_t message, int flags)"),
    close: c("int close(int fd)"),
    read: c("long read(int fd, void *target, size_t length)"),
    write: c("long write(int fd, void *source, size_t length)"),
    fcntl: c("int fcntl(int fd, int command, long argument)"),
    eventfd: c("int eventfd(unsigned int initial, int flags)"),
    pipe2: c("int pipe2(void *fds, int flags)"),
    memfd_create: c("int memfd_create(void *name, unsigned int flags)"),
    ftruncate: c("int ftruncate(int fd, int64_t length)"),
    timerfd_create: c("int timerfd_create(int clock, int flags)"),
    timerfd_settime: c("int timerfd_settime(int fd, int flags, void *time, void *old)"),
    epoll_create1: c("int epoll_create1(int flags)"),
    epoll_ctl: c("int epoll_ctl(int epoll, int operation, int fd, void *event)"),
    epoll_wait: c("int epoll_wait(int epoll, void *events, int max, int milliseconds)"),
    uv: {
      loop: c("uintptr_t uv_default_loop()"),
      handleSize: () => (c("size_t uv_handle_size(int type)") as (type: number) => number)(UV_POLL),
      allocate: c("uintptr_t malloc(size_t length)"),
      free: c("void free(uintptr_t address)"),
      init: c("int uv_poll_init(uintptr_t loop, uintptr_t handle, int fd)"),
      start: c("int uv_poll_start(uintptr_t handle, int events, void *callback)"),
      close: c("void uv_close(uintptr_t handle, void *callback)"),
      registerPoll: (callback) => koffi.register(callback, onPoll),
      registerClose: (callback) => koffi.register(callback, onClose),
    },
  };
}

/** `UV_POLL` of `uv_handle_type`. */
const UV_POLL = 8;
