import { InProcessMachine } from "@virtio/testkit/machine";
import { expect } from "vitest";
import { SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import { readCapabilities } from "virtio/driver/pci-capabilities";
import { PciConfig } from "virtio/driver/pci-config";
import { openPci, type OpenPciOptions } from "virtio/driver/pci-open";
import { DRIVER_RING_FEATURES, DriverSession } from "virtio/driver/session";
import type { DriverTransport } from "virtio/driver/types";
import {
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import { WatchedPlatform, type Access } from "./driver-rules.ts";
import { echoDevice } from "./support.ts";

export const notifConfigData = (queue: number): number => 0x1230 + queue;
export const MMIO_FEATURES = SUPPORTED_CORE_FEATURES & ~featureBits(VIRTIO_F_NOTIF_CONFIG_DATA);

/** A driver's whole life: features, both virtqueues, requests, configuration, queue reset, close. */
export async function live(transport: DriverTransport, ring: bigint, interrupt: () => void): Promise<void> {
  const session = await DriverSession.open(transport, { wanted: 1n, ring });
  session.readConfig(0, 4);
  session.readConfig(8, 8);
  const queues = [session.addQueue(0, 8), session.addQueue(1, 8)];
  session.writeConfig(4, Uint8Array.of(1, 2));
  session.ready();
  const gpa = transport.memory.allocate(64, 16);
  for (const queue of queues) {
    for (let i = 0; i < 20; i++) {
      expect(await queue.request([{ gpa, length: 16 }], [{ gpa: gpa + 16, length: 16 }])).toBe(16);
    }
  }
  interrupt();
  if (session.has(VIRTIO_F_RING_RESET)) await transport.resetQueue(1);
  expect(session.failure).toBeUndefined();
  await session.close();
}

export function pciMachine(
  options: Parameters<InProcessMachine["plugPci"]>[1] = {},
  open: OpenPciOptions = {},
) {
  const machine = new InProcessMachine();
  const plugged = machine.plugPci(echoDevice(), {
    features: SUPPORTED_CORE_FEATURES,
    notifConfigData,
    ...options,
  });
  const watched = new WatchedPlatform(machine.platform);
  const { memoryWindow, ioWindow } = machine;
  const transport = openPci(watched.platform, plugged.at, { memoryWindow, ioWindow, ...open });
  const structure = (type: number): { base: number; length: number; multiplier: number } => {
    const config = new PciConfig(machine.platform.pci, plugged.at);
    const found = readCapabilities(config).structures.find((candidate) => candidate.type === type);
    if (found === undefined) throw new Error(`no structure ${type}`);
    const base = config.read(0x10 + 4 * found.bar, 4) & ~0xf;
    return { base: (base >>> 0) + found.offset, length: found.length, multiplier: found.notifyMultiplier };
  };
  const accesses = (type: number): Access[] => {
    const { base, length } = structure(type);
    return watched.within("memory", base, length);
  };
  return { machine, plugged, watched, transport, structure, accesses };
}

export const V1: bigint = featureBits(VIRTIO_F_VERSION_1);
export const rings = [
  V1,
  V1 | featureBits(VIRTIO_F_RING_PACKED),
  V1 | featureBits(VIRTIO_F_NOTIFICATION_DATA),
  V1 | featureBits(VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_RING_RESET),
  DRIVER_RING_FEATURES | featureBits(VIRTIO_F_RING_RESET),
];
