import { VIRTIO_STATUS_DEVICE_NEEDS_RESET } from "../spec/core.ts";
import { nextTurn } from "./turn.ts";
import type { DriverTransport } from "./types.ts";

/** Most devices are done at once; one that waits for its disk or network needs the event loop. */
const QUICK_POLLS = 20;

/**
 * Resolves when `done` says so, and lets other work run in between. There is no limit: how long a device takes for a disk or a
 * network nobody knows. Rejects with what `stop` returns when that is an error, and with what either of them throws.
 */
export async function untilDone(done: () => boolean, stop: () => Error | undefined): Promise<void> {
  for (let polls = 0; !done(); polls++) {
    const reason = stop();
    if (reason !== undefined) throw reason;
    await (polls < QUICK_POLLS ? Promise.resolve() : nextTurn());
  }
}

/** Throws when the device can do nothing more before a reset. One that is not there any more reads as all ones. */
export function checkAlive(transport: Pick<DriverTransport, "name" | "readStatus" | "failure">): void {
  if ((transport.readStatus() & VIRTIO_STATUS_DEVICE_NEEDS_RESET) !== 0)
    throw transport.failure ?? new Error(`${transport.name}: the device needs a reset`);
}
