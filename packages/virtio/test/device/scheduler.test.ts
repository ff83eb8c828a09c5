import { schedulerCases } from "@virtio/testkit/conformance/scheduler";
import { describe, test } from "vitest";
import { immediateScheduler } from "../../src/device/scheduler.ts";

describe("immediateScheduler", () => {
  // Each with a planner of turns of its own.
  for (const { title, run } of schedulerCases(() => ({ scheduler: { ...immediateScheduler } })))
    test(title, run);
});
