import { textOption, wholeOption } from "virtio/check-option";

/** The path of a socket, or the number of one that is open. Throws a RangeError or TypeError for what is neither. */
export function checkSocket(socket: string | number): void {
  if (typeof socket === "number") wholeOption("vhost-user: socket", socket, 0, 2 ** 31 - 1);
  else textOption("vhost-user: socket", socket, 1);
}
