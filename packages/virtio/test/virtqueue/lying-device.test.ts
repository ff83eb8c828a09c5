import { clause } from "@virtio/testkit/clause";
import { checkLie, LYING_DEVICES } from "@virtio/testkit/lying-device";
import { describe, expect, test } from "vitest";
import { createDriverQueue } from "../../src/virtqueue/create.ts";

describe("a lying device ends in a fault, and never in more bytes than were offered", () => {
  test.each(LYING_DEVICES.map((lying) => [lying.name, lying] as const))("%s", (_name, lying) => {
    checkLie(lying, createDriverQueue);
  });

  test("the catalogue knows its clauses", () => {
    for (const { outcome, name } of LYING_DEVICES)
      if (typeof outcome === "object" && "clause" in outcome)
        expect(clause(outcome.clause, name)).toContain(name);
  });
});
