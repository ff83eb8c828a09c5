import { readFileSync } from "node:fs";
import { deviceCases } from "@virtio/testkit/conformance/device";
import { describe, expect, test } from "vitest";
import { CapitalsDevice } from "../../../../examples/write-a-device.ts";
import { DriverSession } from "../../src/driver/session.ts";
import { Loopback, RINGS } from "../support/loopback.ts";

const page = readFileSync(new URL("../../../../docs/write-a-device.md", import.meta.url), "utf8");
const example = readFileSync(new URL("../../../../examples/write-a-device.ts", import.meta.url), "utf8");

test("the page shows the example that is compiled here", () => {
  expect(page).toContain(example.trimEnd());
});

describe("the example is a device", () => {
  for (const { title, run } of deviceCases(() => new CapitalsDevice())) test(title, run);
});

test.each(RINGS)("the example answers, $name", async ({ ring }) => {
  const transport = new Loopback(new CapitalsDevice());
  const session = await DriverSession.open(transport, { wanted: 0n, ring });
  const queue = session.addQueue(0);
  session.ready();
  const text = Uint8Array.from("virtio!", (letter) => letter.charCodeAt(0));
  const gpa = transport.memory.allocate(64, 8);
  transport.memory.view(gpa, text.length).set(text);
  const written = await queue.request([{ gpa, length: text.length }], [{ gpa: gpa + 32, length: 32 }]);
  expect(String.fromCharCode(...transport.memory.view(gpa + 32, written))).toBe("VIRTIO!");
  expect([...session.readConfig(0, 8)]).toEqual([0, 16, 0, 0, 1, 0, 0, 0]);
  await session.close();
});
