import { clause } from "@virtio/testkit/clause";
import { fuzzDeviceQueue } from "@virtio/testkit/fuzz-queue";
import { fuzzDriverQueue } from "@virtio/testkit/fuzz-driver-queue";
import { expect, test } from "vitest";
import { createDeviceQueue, createDriverQueue } from "../../src/virtqueue/create.ts";

/** VIRTIO_FUZZ_RUNS makes it longer: `VIRTIO_FUZZ_RUNS=100000 npx vitest run packages/virtio/test/virtqueue/fuzz`. */
const runs = Number(process.env["VIRTIO_FUZZ_RUNS"] ?? 1000);

test(
  clause(
    ["dev.split.framing", "dev.packed.sg"],
    "any guest memory gives chains or faults, in bounded time and memory",
  ),
  () => {
    const outcomes = fuzzDeviceQueue(createDeviceQueue, runs);
    // The fuzzer is worth something only while it gets past the first look, and into each rule.
    expect(outcomes.get("chains")).toBeGreaterThan(runs / 50);
    for (const id of [
      "drv.split.avail",
      "drv.split.desc",
      "drv.split.framing",
      "drv.split.indirect",
      "drv.packed.sg",
      "drv.packed.indirect",
    ])
      expect(outcomes.get(id), id).toBeGreaterThan(0);
  },
);

test(
  clause(
    ["drv.split.used", "drv.packed.desc"],
    "any writes of a device give back what was offered, or a fault",
  ),
  () => {
    const outcomes = fuzzDriverQueue(createDriverQueue, runs);
    for (const outcome of ["chains", "dev.split.used", "dev.packed.desc"])
      expect(outcomes.get(outcome), outcome).toBeGreaterThan(0);
  },
);
