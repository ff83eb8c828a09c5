import { Descriptor } from "@virtio/vhost-user/native/descriptor";
import { check, natives } from "@virtio/vhost-user/native/libc";
import { AF_UNIX, SOCK_CLOEXEC } from "@virtio/vhost-user/native/linux";

const SOCK_DGRAM = 2;
/** Room for a path in struct sockaddr_un. */
const PATH_SIZE = 108;

/**
 * Tells the service manager, as sd_notify(3) does; nothing when there is none. Node.js has no Unix datagram sockets.
 * @param state such as `READY=1`
 */
export function notifyManager(state: string, environment: NodeJS.ProcessEnv = process.env): void {
  const path = environment["NOTIFY_SOCKET"];
  if (path === undefined || path === "") return;
  const name = new TextEncoder().encode(path);
  if ((path[0] !== "/" && path[0] !== "@") || name.length >= PATH_SIZE) {
    throw new Error(`NOTIFY_SOCKET=${path} is no address of a Unix socket`);
  }
  const address = new Uint8Array(2 + name.length);
  address[0] = AF_UNIX;
  address.set(name, 2);
  // An abstract address has a NUL there.
  if (path[0] === "@") address[2] = 0;
  const native = natives();
  const socket = new Descriptor(check(native.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket"));
  try {
    check(native.connect(socket.fd, address, address.length), `NOTIFY_SOCKET=${path}: connect`);
    const message = new TextEncoder().encode(state);
    check(native.write(socket.fd, message, message.length), `NOTIFY_SOCKET=${path}: write`);
  } finally {
    socket.close();
  }
}
