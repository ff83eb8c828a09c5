import { Descriptor } from "./descriptor.ts";
import { check, natives } from "./libc.ts";
import { EAGAIN, EFD_CLOEXEC, EFD_NONBLOCK, EINTR } from "./linux.ts";

const ONE = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]);
const scratch = new Uint8Array(8);

/** A new eventfd that does not block: kick, call and stop. */
export function createEvent(): Descriptor {
  return new Descriptor(check(natives().eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"));
}

/**
 * Makes `fd` readable for the other side. Its counter being full means that it is readable already, and a peer that is
 * gone needs no notification: failures are nobody's concern.
 */
export function signalEvent(fd: number): void {
  natives().write(fd, ONE, 8);
}

/** Takes the signal away. False: this descriptor will never signal again (end of file, an error), stop watching it. */
export function clearEvent(fd: number): boolean {
  const native = natives();
  const count = native.read(fd, scratch, 8);
  if (count >= 0) return count > 0;
  const errno = native.errno();
  return errno === EAGAIN || errno === EINTR;
}
