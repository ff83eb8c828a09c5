import { schedulerCases } from "@virtio/testkit/conformance/scheduler";
import { describe, test } from "vitest";
import { host } from "../src/globals.ts";
import { schedulerOf } from "../src/scheduler.ts";

describe("in Node.js", () => {
  for (const { title, run } of schedulerCases(() => ({ scheduler: { ...schedulerOf(host) } })))
    test(title, run);
});

/** As browsers have it: each message is a task of its own. Node.js delivers up to a thousand before a timer comes. */
class MessageChannel {
  readonly port1: { onmessage: (() => void) | null } = { onmessage: null };
  readonly port2 = { postMessage: (): void => void setImmediate(() => this.port1.onmessage?.()) };
}

describe("in a browser, whose setTimeout would wait 4 ms", () => {
  for (const { title, run } of schedulerCases(() => ({ scheduler: schedulerOf({ MessageChannel }) })))
    test(title, run);
});
