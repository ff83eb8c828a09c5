import { statusText } from "virtio/device/status";
import { PCI_MSIX_CONTROL, PCI_SUBSYSTEM_VENDOR_ID } from "virtio/bus/pci/registers";
import { readCapabilities, type VirtioStructure } from "virtio/driver/pci-capabilities";
import { readBars, type BarInfo } from "virtio/driver/pci-bars";
import { PciConfig } from "virtio/driver/pci-config";
import {
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_COMMON_CFG as COMMON,
  VIRTIO_PCI_LEGACY as LEGACY,
} from "virtio/spec/pci";
import {
  VIRTIO_MMIO as MMIO,
  VIRTIO_MMIO_LEGACY as MMIO_LEGACY,
  VIRTIO_MMIO_VERSION_LEGACY,
} from "virtio/spec/mmio";
import type { Context } from "../command.ts";
import { dumpLine } from "../commands/memory.ts";
import type { ShellDevice } from "../devices.ts";
import type { Place, TargetDevice } from "../target/types.ts";
import { findDevices, heading } from "./find.ts";
import { hexOf, row } from "./words.ts";

type PciPlace = Extract<Place, { bus: "pci" }>;
type MmioPlace = Extract<Place, { bus: "mmio" }>;

/** Bytes of the common configuration without what came after VIRTIO 1.0, and of the legacy one with MSI-X. */
const COMMON_LENGTH = 56;
const LEGACY_LENGTH = 24;
const QEMU_VENDOR = 0x554d4551;
const NAMES: ReadonlyMap<number, string> = new Map([
  [VIRTIO_PCI_CAP_COMMON_CFG, "common configuration"],
  [VIRTIO_PCI_CAP_NOTIFY_CFG, "notification"],
  [VIRTIO_PCI_CAP_ISR_CFG, "ISR status"],
  [VIRTIO_PCI_CAP_DEVICE_CFG, "device-specific configuration"],
  [VIRTIO_PCI_CAP_PCI_CFG, "PCI configuration access"],
  [VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, "shared memory"],
]);
/** Bytes of configuration that are shown: transports reach more than a device type has. */
const MAX_CONFIG = 64;

/** Whose device it is, as U-Boot prints it: QEMU by name, others by number. */
export function vendorOf({ place }: TargetDevice): string {
  if (place.bus === "vhost-user") return "vhost-user";
  const vendor =
    place.bus === "mmio"
      ? place.platform.bus.read("memory", place.base + MMIO.VendorID, 4)
      : new PciConfig(place.platform.pci, place.at).read(PCI_SUBSYSTEM_VENDOR_ID, 2);
  return vendor === QEMU_VENDOR ? "QEMU" : vendor.toString(16).padStart(8, "0");
}

/** `virtio regs`: every register that can be read without changing something. */
export async function showRegisters(context: Context, text: string | undefined): Promise<number> {
  for (const device of await findDevices(context, text)) {
    context.out.write(`${heading(device)}\n`);
    const { place } = device.device;
    if (place.bus === "pci") context.out.write(pciText(place));
    else if (place.bus === "mmio") context.out.write(mmioText(place));
    else context.out.write(vhostUserText(device));
    context.out.write(configText(device));
  }
  return 0;
}

function pciText(place: PciPlace): string {
  const config = new PciConfig(place.platform.pci, place.at);
  const { structures, msix } = readCapabilities(config);
  let text = "";
  for (const structure of structures) {
    const { type, bar, offset, length, capability } = structure;
    const name = NAMES.get(type) ?? `type ${type}`;
    text += `  capability ${hexOf(capability, 1)}: ${name}, BAR ${bar} + ${hexOf(offset, 2)}, ${length} bytes\n`;
  }
  if (msix !== undefined) {
    const on = (config.read(msix.capability + PCI_MSIX_CONTROL, 2) & 0x8000) !== 0;
    text += `  MSI-X: ${msix.size} vectors, ${on ? "enabled" : "disabled"}\n`;
  }
  const common = structures.find(({ type }) => type === VIRTIO_PCI_CAP_COMMON_CFG);
  const index = common?.bar ?? 0;
  const bar = readBars(config).find((each) => each.index === index && each.address !== 0);
  if (bar === undefined) return `${text}  BAR ${index} has no address\n`;
  if (common === undefined) return text + legacyText(place, bar, msix !== undefined);
  // Selectors are written there: what is beyond the BAR is somebody else's.
  if (common.length < COMMON_LENGTH || common.offset + common.length > bar.size)
    return `${text}  the common configuration is not inside BAR ${index}, which has ${bar.size} bytes\n`;
  return text + commonText(place, bar, common);
}

function commonText(
  { platform }: PciPlace,
  { space, address }: BarInfo,
  { offset, length }: VirtioStructure,
): string {
  const read = (at: number, size: 1 | 2 | 4): number => platform.bus.read(space, address + offset + at, size);
  const select = (at: number, value: number, size: 2 | 4): void =>
    platform.bus.write(space, address + offset + at, size, value);
  const features = (selector: number, at: number): string =>
    [1, 0]
      .map((half) => {
        select(selector, half, 4);
        return read(at, 4).toString(16).padStart(8, "0");
      })
      .join("");
  const vector = (at: number): string => {
    const value = read(at, 2);
    return value === 0xffff ? "none" : String(value);
  };
  const queues = read(COMMON.num_queues, 2);
  let text =
    row(
      COMMON.device_feature,
      "device_feature",
      `0x${features(COMMON.device_feature_select, COMMON.device_feature)}`,
    ) +
    row(
      COMMON.driver_feature,
      "driver_feature",
      `0x${features(COMMON.driver_feature_select, COMMON.driver_feature)}`,
    ) +
    row(COMMON.config_msix_vector, "config_msix_vector", vector(COMMON.config_msix_vector)) +
    row(COMMON.num_queues, "num_queues", String(queues)) +
    row(
      COMMON.device_status,
      "device_status",
      hexOf(read(COMMON.device_status, 1), 1),
      statusText(read(COMMON.device_status, 1)),
    ) +
    row(COMMON.config_generation, "config_generation", String(read(COMMON.config_generation, 1)));
  const wide = (at: number): string => hexOf(read(at, 4) + read(at + 4, 4) * 2 ** 32, 8);
  for (let queue = 0; queue < Math.min(queues, MAX_QUEUES); queue++) {
    select(COMMON.queue_select, queue, 2);
    text += `  queue_select ${queue}\n`;
    text += row(COMMON.queue_size, "queue_size", String(read(COMMON.queue_size, 2)));
    text += row(COMMON.queue_msix_vector, "queue_msix_vector", vector(COMMON.queue_msix_vector));
    text += row(COMMON.queue_enable, "queue_enable", String(read(COMMON.queue_enable, 2)));
    text += row(COMMON.queue_notify_off, "queue_notify_off", String(read(COMMON.queue_notify_off, 2)));
    text += row(COMMON.queue_desc, "queue_desc", wide(COMMON.queue_desc));
    text += row(COMMON.queue_driver, "queue_driver", wide(COMMON.queue_driver));
    text += row(COMMON.queue_device, "queue_device", wide(COMMON.queue_device));
    if (length >= COMMON.queue_reset + 2)
      text += row(COMMON.queue_reset, "queue_reset", String(read(COMMON.queue_reset, 2)));
  }
  return text;
}

/** Virtqueues whose registers are shown. */
const MAX_QUEUES = 16;

/** ISR status is left out: reading it clears it. */
function legacyText({ platform }: PciPlace, bar: BarInfo, msix: boolean): string {
  if (bar.size < LEGACY_LENGTH) return `  BAR 0 has ${bar.size} bytes: too few for the legacy interface\n`;
  const { space, address } = bar;
  const read = (at: number, size: 1 | 2 | 4): number => platform.bus.read(space, address + at, size);
  let text =
    `  legacy interface at ${space === "io" ? "port" : "address"} ${hexOf(address, 2)}\n` +
    row(LEGACY.device_features, "device_features", hexOf(read(LEGACY.device_features, 4), 4)) +
    row(LEGACY.driver_features, "driver_features", hexOf(read(LEGACY.driver_features, 4), 4)) +
    row(
      LEGACY.device_status,
      "device_status",
      hexOf(read(LEGACY.device_status, 1), 1),
      statusText(read(LEGACY.device_status, 1)),
    );
  for (let queue = 0; queue < MAX_QUEUES; queue++) {
    platform.bus.write(space, address + LEGACY.queue_select, 2, queue);
    const queueSize = read(LEGACY.queue_size, 2);
    if (queueSize === 0) break;
    const page = read(LEGACY.queue_address, 4);
    text += `  queue_select ${queue}\n`;
    text += row(LEGACY.queue_size, "queue_size", String(queueSize));
    text += row(
      LEGACY.queue_address,
      "queue_address",
      hexOf(page, 4),
      `pages: address ${hexOf(page * 4096, 8)}`,
    );
    if (msix)
      text += row(LEGACY.queue_msix_vector, "queue_msix_vector", hexOf(read(LEGACY.queue_msix_vector, 2), 2));
  }
  return text;
}

const WRITE_ONLY: ReadonlySet<string> = new Set([
  "QueueNotify",
  "InterruptACK",
  "SHMSel",
  "QueueReset",
  "Config",
]);
const SELECTORS = /Sel$|^QueueNotify$|^GuestPageSize$|^QueueAlign$/;

function mmioText({ platform, base }: MmioPlace): string {
  const read = (at: number): number => platform.bus.read("memory", base + at, 4);
  const write = (at: number, value: number): void => platform.bus.write("memory", base + at, 4, value);
  const legacy = read(MMIO.Version) === VIRTIO_MMIO_VERSION_LEGACY;
  let text = "";
  for (const [name, at] of Object.entries(legacy ? MMIO_LEGACY : MMIO)) {
    if (WRITE_ONLY.has(name) || SELECTORS.test(name) || /^(Queue|SHM|DriverF|GuestF)/.test(name)) continue;
    if (/^(Device|Host)Features$/.test(name)) {
      const selector = legacy ? MMIO_LEGACY.HostFeaturesSel : MMIO.DeviceFeaturesSel;
      for (const half of legacy ? [0] : [0, 1]) {
        write(selector, half);
        text += row(at, name, hexOf(read(at), 4), `bits ${32 * half} to ${32 * half + 31}`);
      }
    } else
      text += row(
        at,
        name,
        hexOf(read(at), 4),
        name === "Status" ? statusText(read(at)) : meaningOf(name, read(at)),
      );
  }
  for (let queue = 0; queue < MAX_QUEUES; queue++) {
    write(MMIO.QueueSel, queue);
    const most = read(MMIO.QueueSizeMax);
    if (most === 0) break;
    text += `  QueueSel ${queue}\n${row(MMIO.QueueSizeMax, "QueueSizeMax", String(most))}`;
    // The addresses cannot be read back: `virtio queue` knows them.
    text += legacy
      ? row(MMIO_LEGACY.QueuePFN, "QueuePFN", hexOf(read(MMIO_LEGACY.QueuePFN), 4))
      : row(MMIO.QueueReady, "QueueReady", String(read(MMIO.QueueReady)));
  }
  return text;
}

function meaningOf(name: string, value: number): string {
  if (name === "MagicValue") return value === 0x74726976 ? '"virt"' : "no virtio";
  if (name === "Version") return value === 1 ? "legacy" : "";
  return name === "VendorID" && value === QEMU_VENDOR ? '"QEMU"' : "";
}

function vhostUserText({ transport }: ShellDevice): string {
  if (transport === undefined) return "";
  return `  vhost-user has no registers; device status ${statusText(transport.readStatus())}\n`;
}

/** The device-specific configuration, as the driver's transport reads it. */
function configText({ transport }: ShellDevice): string {
  if (transport === undefined) return "";
  const length = Math.min(transport.configLength ?? MAX_CONFIG, MAX_CONFIG);
  if (length === 0) return "";
  const bytes = new Uint8Array(length);
  transport.readConfig(0, bytes);
  let text = "  device-specific configuration\n";
  for (let at = 0; at < length; at += 16) text += `  ${dumpLine(at, bytes.subarray(at, at + 16), 1)}\n`;
  return text;
}
