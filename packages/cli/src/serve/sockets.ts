import type { GivenOption } from "../options/arguments.ts";
import { UserError } from "../user-error.ts";
import type { PassedSocket } from "./socket-activation.ts";
import { socketOptions } from "./table.ts";

/** A device word and what was given behind it. */
export interface SocketUser {
  readonly word: string;
  readonly options: readonly GivenOption[];
}

/**
 * Where each device's front-end is met: a path, or the number of a descriptor. A device that does not say takes the next socket that
 * the service manager passed. Throws a UserError when one has none, two have the same, or one that was passed is nobody's.
 * @param why for the message when sockets were passed to somebody else
 */
export function assignSockets(
  users: readonly SocketUser[],
  passed: readonly PassedSocket[],
  why = "",
): (string | number)[] {
  const left = [...passed];
  const chosen = users.map((user) => chosenSocket(user, left));
  const all = chosen.map((socket, i) => {
    const found = socket ?? left.shift()?.fd;
    if (found !== undefined) return found;
    const none = passed.length > 0 ? `: ${passed.length} were passed, and all are taken` : why;
    throw new UserError(`${users[i]?.word ?? ""} needs --socket PATH or --socket-fd N${none}`);
  });
  all.forEach((socket, i) => {
    const first = all.indexOf(socket);
    if (first === i) return;
    const what = typeof socket === "number" ? `descriptor ${socket}` : socket;
    throw new UserError(`${users[first]?.word ?? ""} and ${users[i]?.word ?? ""} are both at ${what}`);
  });
  if (left.length > 0) {
    const names = left.map(({ fd, name }) => `${fd} (${name})`).join(", ");
    throw new UserError(`${passed.length} sockets were passed, and no device is at ${names}`);
  }
  return all;
}

/** What a device says; a socket that was passed is taken out of `left`. Undefined: nothing. */
function chosenSocket({ word, options }: SocketUser, left: PassedSocket[]): string | number | undefined {
  const [socket, other] = options.filter(({ name }) => socketOptions.includes(name));
  if (socket === undefined) return undefined;
  if (other !== undefined) throw new UserError(`${word}: --${socket.name} and --${other.name}`);
  if (socket.name !== "socket-fd" && socket.name !== "fd") return socket.value;
  const number = /^\d{1,9}$/.test(socket.value) ? Number(socket.value) : undefined;
  const at = left.findIndex(({ fd, name }) => (number === undefined ? name === socket.value : fd === number));
  if (at >= 0) return left.splice(at, 1)[0]?.fd;
  if (number !== undefined) return number;
  const names = left.length > 0 ? `, or one of ${left.map(({ name }) => name).join(", ")}` : "";
  throw new UserError(`--${socket.name} is the number of a descriptor${names}, not "${socket.value}"`);
}
