import { clause } from "@virtio/testkit/clause";
import { deviceQueueCases } from "@virtio/testkit/conformance/device-queue";
import { describe, test } from "vitest";
import { createDeviceQueue } from "../../src/virtqueue/create.ts";

describe("device side of a virtqueue", () => {
  for (const { clauses, title, run } of deviceQueueCases(createDeviceQueue))
    test(clause(clauses, title), run);
});
