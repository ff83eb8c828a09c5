import type { Poller } from "@virtio/node/native/poller";
import { watch } from "./watch.ts";

/** A ring without kicks is looked at this often, in milliseconds. */
const POLL_INTERVAL = 1;

/** Node's main loop: a thread that sleeps whenever it can. */
export const mainLoopPoller: Poller = {
  watch: (fd, ready) => watch(fd, ready),
  poll: (task) => {
    const timer = setInterval(task, POLL_INTERVAL);
    return { stop: () => clearInterval(timer) };
  },
};
