import { expect, test } from "vitest";
import { DeviceInstance } from "virtio/device/instance";
import { TextLog } from "virtio/device/text-log";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_VERSION_1 } from "virtio/spec/core";

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
