import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { Socket } from "node:net";
import { check, natives } from "./libc.ts";
import { O_CLOEXEC } from "./linux.ts";

/**
 * The epoll descriptor of this thread's own Node loop: readable when something is ready there. Node does not give it out, but the
 * kernel tells which epoll set a descriptor is in, so a pipe that this thread reads shows it. Undefined where that cannot be found.
 */
export async function eventLoopDescriptor(): Promise<number | undefined> {
  const ends = new Int32Array(2);
  check(natives().pipe2(ends, O_CLOEXEC), "pipe2");
  const [reader = -1, writer = -1] = ends;
  const socket = new Socket({ fd: reader, readable: true, writable: false });
  socket.resume();
  try {
    // The descriptor joins the set when the loop next waits.
    for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
    return epollSetOf(reader);
  } finally {
    socket.destroy();
    natives().close(writer);
  }
}

function epollSetOf(fd: number): number | undefined {
  const member = new RegExp(`^tfd:\\s+${fd}\\s`, "m");
  try {
    return readdirSync("/proc/self/fd")
      .map(Number)
      .find((set) => isEpoll(set) && member.test(readFileSync(`/proc/self/fdinfo/${set}`, "latin1")));
  } catch {
    return undefined;
  }
}

function isEpoll(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === "anon_inode:[eventpoll]";
  } catch {
    return false;
  }
}
