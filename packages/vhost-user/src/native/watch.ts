import { isMainThread } from "node:worker_threads";
import type { Address } from "@virtio/node/native/libc";
import type { Watch } from "@virtio/node/native/poller";
import { NativeError } from "@virtio/node/native/native-error";
import { natives } from "./libc.ts";

/** `UV_READABLE` and `UV_WRITABLE`. */
export const READABLE = 1;
export const WRITABLE = 2;

interface Handle {
  readonly fd: number;
  readonly ready: (events: number) => void;
}

const handles = new Map<Address, Handle>();
let callbacks: { readonly poll: unknown; readonly close: unknown; readonly size: number } | undefined;

/**
 * Calls `ready` on Node's main loop whenever `fd` is readable (or writable, as `events` says; also on an error), until
 * stopped: libuv's own `uv_poll`, 1.6 us a turn where a stream or `fs.read` takes 10. Keeps the process alive. The
 * descriptor becomes non-blocking. Throws for a descriptor that cannot be waited for, such as a plain file. Only on the
 * main thread; a worker blocks in `Epoll`.
 */
export function watch(fd: number, ready: (events: number) => void, events: number = READABLE): Watch {
  if (!isMainThread) throw new Error("only the main thread has a loop that can be watched on; use Epoll");
  const { uv } = natives();
  callbacks ??= {
    poll: uv.registerPoll(dispatch),
    close: uv.registerClose((closed) => uv.free(closed)),
    size: uv.handleSize(),
  };
  const handle = uv.allocate(callbacks.size);
  const status = uv.init(uv.loop(), handle, fd);
  if (status < 0) {
    uv.free(handle);
    throw new NativeError("uv_poll_init", -status);
  }
  handles.set(handle, { fd, ready });
  const { close } = callbacks;
  const stop = (): void => {
    if (!handles.delete(handle)) return;
    uv.close(handle, close);
  };
  const started = uv.start(handle, events, callbacks.poll);
  if (started < 0) {
    stop();
    throw new NativeError("uv_poll_start", -started);
  }
  return { stop };
}

/** How many descriptors are watched. */
export function watchedDescriptors(): number {
  return handles.size;
}

/** An error that leaves a callback of libuv would end in C; it is thrown on the next turn instead. */
function dispatch(handle: Address, status: number, events: number): void {
  const { ready } = handles.get(handle) ?? {};
  if (ready === undefined) return;
  try {
    ready(status < 0 ? READABLE : events);
  } catch (error) {
    setImmediate(() => {
      throw error;
    });
  }
}
