import { InProcessMachine } from "@virtio/testkit/machine";
import type { VirtioDevice } from "../../src/device/device.ts";
import { DEFAULT_CORE_FEATURES } from "../../src/device/features.ts";
import type { DriverTransport } from "../../src/driver/types.ts";
import { VIRTIO_F_RING_PACKED, featureBits } from "../../src/spec/core.ts";

/** One way from a driver to a device, through the real registers. */
export interface Way {
  readonly name: string;
  readonly legacy: boolean;
  readonly connect: (device: VirtioDevice) => DriverTransport;
}

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);
const machine = (): InProcessMachine => new InProcessMachine({ ramSize: 8 << 20 });

/** The transports, each with both rings where its interface has them. */
export const WAYS: readonly Way[] = [
  { name: "PCI", legacy: false, connect: (device) => machine().plugPci(device).open() },
  {
    name: "PCI, packed",
    legacy: false,
    connect: (device) => machine().plugPci(device, { features: PACKED }).open(),
  },
  {
    name: "PCI, INTx",
    legacy: false,
    connect: (device) => machine().plugPci(device, { msixVectors: 0 }).open(),
  },
  {
    name: "PCI, legacy",
    legacy: true,
    connect: (device) => machine().plugPci(device, { mode: "legacy" }).open(),
  },
  {
    name: "PCI, transitional with a legacy driver",
    legacy: true,
    connect: (device) => machine().plugPci(device, { mode: "transitional" }).open({ interface: "legacy" }),
  },
  { name: "MMIO", legacy: false, connect: (device) => machine().plugMmio(device).open() },
  {
    name: "MMIO, packed",
    legacy: false,
    connect: (device) => machine().plugMmio(device, { features: PACKED }).open(),
  },
  {
    name: "MMIO, legacy",
    legacy: true,
    connect: (device) => machine().plugMmio(device, { version: 1 }).open(),
  },
];
