import { bound } from "@virtio/testkit/bound";
import { BusyQueues, waitsBeside } from "@virtio/testkit/busy-queues";
import { test } from "vitest";
import { immediateScheduler } from "../../src/device/scheduler.ts";

/** docs/embedding.md, "Your event loop". */
const LIMIT = 20;

/** Drivers that never stop, on Node's main loop. */
test.each([
  ["served", false],
  ["popped by the device", true],
] as const)("64 virtqueues that are always full, %s, and notify unasked", async (how, pops) => {
  const scheduler = { ...immediateScheduler };
  const busy = new BusyQueues(scheduler, { queues: 64, chainMs: 0.1, pops });
  // The first ones are the compiler's.
  await waitsBeside(busy, scheduler, 60);
  busy.stopped = false;
  const waits = await waitsBeside(busy, scheduler, 100);
  const what = `64 virtqueues, always full, ${how}: processor time that`;
  bound({ what: `${what} a timer of 1 ms waits`, measured: waits.timer, limit: LIMIT, unit: "ms" });
  bound({ what: `${what} another device waits`, measured: waits.device, limit: LIMIT, unit: "ms" });
});
