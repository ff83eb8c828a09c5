import { watch, type Watch } from "./watch.ts";

/** How a back-end waits: on Node's main loop, or in a worker's own. */
export interface Poller {
  /** Calls `ready` whenever `fd` is readable, until stopped. Throws for what cannot be waited for. */
  watch(fd: number, ready: () => void): Watch;
  /** Calls `task` again and again, for a ring whose driver does not kick. */
  poll(task: () => void): Watch;
}

/** A ring without kicks is looked at this often, in milliseconds. */
const POLL_INTERVAL = 1;

export const mainLoopPoller: Poller = {
  watch: (fd, ready) => watch(fd, ready),
  poll: (task) => {
    const timer = setInterval(task, POLL_INTERVAL);
    return { stop: () => clearInterval(timer) };
  },
};
