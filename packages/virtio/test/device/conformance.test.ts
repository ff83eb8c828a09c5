import { clause } from "@virtio/testkit/clause";
import { deviceCases } from "@virtio/testkit/conformance/device";
import { describe, test } from "vitest";
import type { NetBackend } from "../../src/backends/net.ts";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import type { VirtioDevice } from "../../src/device/device.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { entropyDevice } from "../../src/devices/entropy/device.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { ninePDevice } from "../../src/devices/9p/device.ts";
import { FakeHost } from "../support/ends.ts";

/** Swallows frames, and sends one back for each. */
function echoCable(): NetBackend {
  let port: Parameters<NetBackend["attach"]>[0];
  return {
    send: (frame) => {
      const copy = frame.slice();
      queueMicrotask(() => port?.receive(copy));
      return true;
    },
    attach: (to) => (port = to),
  };
}

const TYPES: Record<string, () => VirtioDevice> = {
  entropy: () => entropyDevice((target) => void target.fill(7)),
  "entropy, asynchronous": () =>
    entropyDevice(async (target) => {
      await Promise.resolve();
      target.fill(7);
    }),
  blk: () => new BlkDevice(new MemoryBlockBackend(64 * 1024)),
  console: () =>
    new ConsoleDevice({
      ports: [
        { kind: "console", backend: new FakeHost() },
        { kind: "serial", name: "agent", backend: new FakeHost() },
      ],
    }),
  net: () => new NetDevice({ mac: Uint8Array.of(2, 0, 0, 0, 0, 1), backend: echoCable() }),
  "9p": () => ninePDevice({ tag: "share", fileSystem: new MemoryFileSystem() }),
};

describe.each(Object.entries(TYPES))("%s is a device", (_name, create) => {
  for (const { clauses, title, run } of deviceCases(create)) test(clause(clauses, title), run);
});
