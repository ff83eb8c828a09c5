import { schedulerCases } from "@virtio/testkit/conformance/scheduler";
import { BlockingLoop } from "@virtio/vhost-user/native/blocking-loop";
import { describe, test } from "vitest";

describe("the scheduler of a BlockingLoop", () => {
  const open = (): { scheduler: BlockingLoop["scheduler"]; close(): Promise<void> } => {
    const loop = new BlockingLoop();
    const running = loop.run();
    return {
      scheduler: loop.scheduler,
      close: async () => {
        loop.stop();
        await running;
        loop.close();
      },
    };
  };
  for (const { title, run } of schedulerCases(open)) test(title, run);
});
