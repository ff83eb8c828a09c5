import { clause } from "@virtio/testkit/clause";
import { driverQueueCases } from "@virtio/testkit/conformance/driver-queue";
import { describe, test } from "vitest";
import { createDriverQueue } from "../../src/virtqueue/create.ts";

describe("driver side of a virtqueue", () => {
  for (const { clauses, title, run } of driverQueueCases(createDriverQueue))
    test(clause(clauses, title), run);
});
