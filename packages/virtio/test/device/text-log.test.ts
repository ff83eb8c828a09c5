import { loadClauses } from "@virtio/testkit/oracles";
import { expect, test } from "vitest";
import { DeviceInstance } from "virtio/device/instance";
import { MAX_DIFFERENT_HINTS, TextLog, type TextLogOptions } from "virtio/device/text-log";
import { VirtioFault } from "virtio/fault";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_VERSION_1 } from "virtio/spec/core";
import { sectionOf } from "virtio/spec/sections";

test("a text log tells negotiation, status and faults in the spec's words", () => {
  const lines: string[] = [];
  const instance = new DeviceInstance(
    { id: 4, name: "entropy", features: 0n, queues: [{ name: "requestq", maxSize: 8 }] },
    {
      label: "rng0",
      memory: new RegionMemory([{ gpa: 0, bytes: new Uint8Array(4096) }]),
      features: 1n << BigInt(VIRTIO_F_VERSION_1),
      observer: new TextLog((line) => lines.push(line)),
    },
  );
  instance.writeStatus(3);
  instance.writeStatus(3 | 8);
  instance.writeDriverFeatures(1, 1);
  instance.writeStatus(3 | 8);
  instance.writeStatus(3 | 8 | 4);
  instance.writeStatus(1 | 8 | 4);
  expect(lines).toEqual([
    "rng0: status reset -> ACKNOWLEDGE DRIVER",
    "rng0: offered  VERSION_1",
    "rng0: accepted ",
    "rng0: FEATURES_OK refused: VIRTIO_F_VERSION_1 was not accepted",
    "rng0: offered  VERSION_1",
    "rng0: accepted VERSION_1",
    "rng0: status ACKNOWLEDGE DRIVER -> ACKNOWLEDGE DRIVER FEATURES_OK",
    "rng0: status ACKNOWLEDGE DRIVER FEATURES_OK -> ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK",
    "rng0: status ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK -> ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK DEVICE_NEEDS_RESET",
    "rng0: FAULT drv.core.status: status bits cleared [found 2 (0x2)]",
    "rng0: configuration notification",
  ]);
});

const device = { label: "rng0", id: 4, queueNames: ["requestq"] };

function logged(options: TextLogOptions = {}): { log: TextLog; lines: string[] } {
  const lines: string[] = [];
  return { log: new TextLog((line) => lines.push(line), options), lines };
}

test("faults, hints and failures name the virtqueue and, where sections are given, end with the section", () => {
  const { log, lines } = logged({ sectionOf });
  log.fault(
    device,
    new VirtioFault("drv.split.desc", "descriptor chain loops", { queue: 0, descriptor: 3, value: 9 }),
  );
  log.hint(device, { clause: "drv.core.init", rule: "notification before DRIVER_OK", queue: 0 });
  log.hint(device, {
    clause: "own.notify",
    rule: "notification of a virtqueue that does not exist",
    value: 9,
  });
  log.failed(device, 0, "IOERR: sector 8192 is beyond the end");
  expect(lines).toEqual([
    "rng0: FAULT drv.split.desc: descriptor chain loops [virtqueue 0 (requestq), descriptor 3, found 9 (0x9)] (2.7.5.2 Basic Facilities of a Virtio Device / Split Virtqueues / The Virtqueue Descriptor Table)",
    "rng0: HINT drv.core.init: notification before DRIVER_OK [virtqueue 0 (requestq)] (3.1.1 General Initialization And Device Operation / Device Initialization)",
    "rng0: HINT own.notify: notification of a virtqueue that does not exist [found 9 (0x9)]",
    "rng0: virtqueue 0 (requestq): IOERR: sector 8192 is beyond the end",
  ]);
});

test("a hint that repeats is written the 1st, 10th, 100th time, however its value changes", () => {
  const { log, lines } = logged();
  for (let value = 0; value < 5000; value++)
    log.hint(device, { clause: "own.notify", rule: "no queue", value });
  expect(lines).toEqual([
    "rng0: HINT own.notify: no queue [found 0 (0x0)]",
    "rng0: HINT own.notify: no queue [found 9 (0x9)], 10 times by now",
    "rng0: HINT own.notify: no queue [found 99 (0x63)], 100 times by now",
    "rng0: HINT own.notify: no queue [found 999 (0x3e7)], 1000 times by now",
  ]);
});

test("a log tells so many hints apart and no more, and says so once", () => {
  const { log, lines } = logged();
  for (let round = 0; round < 2; round++)
    for (let i = 0; i < 3000; i++) log.hint(device, { clause: "own.notify", rule: `rule ${i}` });
  expect(lines).toHaveLength(MAX_DIFFERENT_HINTS + 1);
  expect(lines.at(-1)).toBe("rng0: HINT more different hints than a log tells apart; no more are shown");
});

test("every clause has a section, and nothing else does", () => {
  for (const { id } of loadClauses()) expect(sectionOf(id), id).toMatch(/^[2-7](\.\d+)+ \S/);
  expect(sectionOf("own.notify")).toBeUndefined();
  expect(sectionOf("toString")).toBeUndefined();
});
