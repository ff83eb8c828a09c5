import { choiceOption, wholeOptions } from "../check-option.ts";
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_MSIX_ENTRY_SIZE } from "../bus/pci/registers.ts";
import {
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_COMMON_CFG,
} from "../spec/pci.ts";
import { assignBars, type BarInfo, type WindowAllocator } from "./pci-bars.ts";
import { readCapabilities, type VirtioCapabilities, type VirtioStructure } from "./pci-capabilities.ts";
import { PciConfig } from "./pci-config.ts";
import { PciConfigWindow } from "./pci-config-window.ts";
import { identify, type FoundPciFunction } from "./pci-discovery.ts";
import { connectIntx, connectMsix, type PciInterruptParts, type PciInterrupts } from "./pci-interrupts.ts";
import { PciLegacyDriverTransport } from "./pci-legacy-transport.ts";
import { PciDriverTransport, type PciStructures } from "./pci-transport.ts";
import { pciAddressText, type PciAddress, type PciPlatform, type SharedMemoryRegion } from "./platform.ts";
import { BusWindow, type RegisterWindow } from "./register-window.ts";

export interface OpenPciOptions {
  /** `modern` refuses a legacy device, `legacy` prefers the legacy interface. Default: modern where there is one. */
  readonly interface?: "modern" | "legacy";
  /** Default MSI-X where device and machine have it. */
  readonly interrupts?: "msix" | "intx";
  /** `config` reaches every structure through the PCI configuration access capability. Default `bar`. */
  readonly access?: "bar" | "config";
  /** Where BARs without an address go; firmware may have given all of them one. */
  readonly memoryWindow?: WindowAllocator;
  readonly ioWindow?: WindowAllocator;
}

/** As much of the common configuration as every device has: the fields after it depend on features. */
const COMMON_LENGTH = VIRTIO_PCI_COMMON_CFG.queue_notif_config_data;
/** "driver MAY limit the mapped structure size to e.g. 4KBytes"; notify structures can be larger. */
const MAX_STRUCTURE = 4096;
const MAX_NOTIFY = 2 ** 20;
/** Legacy devices do not say how many virtqueues they have. */
const MAX_LEGACY_QUEUES = 64;

const ADDRESS_RANGES = { bus: [0, 255], device: [0, 31], function: [0, 7] } as const;

/** A function that is ready to be driven, before it is decided how. */
interface Opened {
  readonly platform: PciPlatform;
  readonly config: PciConfig;
  readonly found: FoundPciFunction;
  readonly bars: readonly BarInfo[];
  readonly capabilities: VirtioCapabilities;
  readonly options: OpenPciOptions;
}

/**
 * Opens the virtio function at an address. Throws an Error that says why it cannot be driven; on an option that cannot be it is a
 * RangeError that names the option, and no register was accessed.
 */
export function openPci(
  platform: PciPlatform,
  at: PciAddress,
  options: OpenPciOptions = {},
): PciDriverTransport | PciLegacyDriverTransport {
  checkOptions(at, options);
  const config = new PciConfig(platform.pci, at);
  const found = identify(config);
  if (found === undefined) throw new Error(`pci ${pciAddressText(at)} is no virtio function`);
  const bars = assignBars(config, options.memoryWindow, options.ioWindow);
  config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) | PCI_COMMAND_MASTER);
  const opened: Opened = { platform, config, found, bars, capabilities: readCapabilities(config), options };
  const structures = options.interface === "legacy" ? undefined : findStructures(opened);
  if (structures !== undefined) return openModern(opened, structures);
  // "If these are not present, driver MUST assume a legacy device"; a non-transitional driver fails gracefully.
  if (options.interface === "modern") throw new Error(`${nameOf(opened)}: a legacy device, or a broken one`);
  return openLegacy(opened);
}

function checkOptions(at: PciAddress, options: OpenPciOptions): void {
  wholeOptions("PCI address", at, ADDRESS_RANGES);
  if (options.interface !== undefined)
    choiceOption("PCI: interface", options.interface, ["modern", "legacy"]);
  if (options.interrupts !== undefined) choiceOption("PCI: interrupts", options.interrupts, ["msix", "intx"]);
  if (options.access !== undefined) choiceOption("PCI: access", options.access, ["bar", "config"]);
}

/** Shared memory regions that lie inside a BAR with an address. */
function sharedMemory({ capabilities, bars }: Opened): readonly SharedMemoryRegion[] {
  return capabilities.structures.flatMap((structure) => {
    const { type, id, offset, length } = structure;
    const bar = bars.find(({ index }) => index === structure.bar);
    const inside = bar !== undefined && bar.address !== 0 && offset + length <= bar.size;
    if (type !== VIRTIO_PCI_CAP_SHARED_MEMORY_CFG || !inside) return [];
    return [{ id, address: bar.address + offset, length }];
  });
}

function nameOf({ found }: Opened): string {
  return `pci ${pciAddressText(found.at)}`;
}

/** "The driver SHOULD use the first instance of each virtio structure type they can support." */
function findStructures(opened: Opened): PciStructures | undefined {
  const first = (type: number, smallest: number, largest: number) => {
    for (const structure of opened.capabilities.structures) {
      if (structure.type !== type || structure.length < smallest) continue;
      const window = windowOf(opened, structure, Math.min(structure.length, largest));
      if (window !== undefined) return { window, structure };
    }
    return undefined;
  };
  const common = first(VIRTIO_PCI_CAP_COMMON_CFG, COMMON_LENGTH, MAX_STRUCTURE);
  const notify = first(VIRTIO_PCI_CAP_NOTIFY_CFG, 2, MAX_NOTIFY);
  const isr = first(VIRTIO_PCI_CAP_ISR_CFG, 1, MAX_STRUCTURE);
  if (common === undefined || notify === undefined || isr === undefined) return undefined;
  return {
    common: common.window,
    notify: notify.window,
    notifyMultiplier: notify.structure.notifyMultiplier,
    isr: isr.window,
    device: first(VIRTIO_PCI_CAP_DEVICE_CFG, 1, MAX_STRUCTURE)?.window,
  };
}

/** Undefined when the structure is not inside a BAR that can be reached. */
function windowOf(opened: Opened, structure: VirtioStructure, length: number): RegisterWindow | undefined {
  const { offset } = structure;
  const bar = opened.bars.find(({ index }) => index === structure.bar);
  if (bar === undefined || offset + structure.length > bar.size) return undefined;
  if (opened.options.access === "config") {
    const access = opened.capabilities.structures.find(({ type }) => type === VIRTIO_PCI_CAP_PCI_CFG);
    if (access === undefined) return undefined;
    return new PciConfigWindow(opened.config, access.capability, { bar: bar.index, offset, length });
  }
  if (bar.address === 0) return undefined;
  return new BusWindow(opened.platform.bus, bar.space, bar.address + offset, length);
}

function openModern(opened: Opened, structures: PciStructures): PciDriverTransport {
  return new PciDriverTransport({
    name: nameOf(opened),
    deviceId: opened.found.deviceId,
    platform: opened.platform,
    structures,
    sharedMemory: sharedMemory(opened),
    connect: (transport) => connect(opened, transport, transport.queueCount),
  });
}

function openLegacy(opened: Opened): PciLegacyDriverTransport {
  const bar = opened.bars.find(({ index }) => index === 0);
  if (!opened.found.transitional || bar === undefined || bar.space !== "io" || bar.address === 0) {
    throw new Error(`${nameOf(opened)}: neither virtio structures nor a legacy interface can be reached`);
  }
  return new PciLegacyDriverTransport({
    name: nameOf(opened),
    deviceId: opened.found.deviceId,
    platform: opened.platform,
    header: new BusWindow(opened.platform.bus, "io", bar.address, bar.size),
    connect: (transport) => connect(opened, transport, legacyQueueCount(transport)),
  });
}

/** One more than the last virtqueue that is there. */
function legacyQueueCount(transport: PciLegacyDriverTransport): number {
  let count = 0;
  for (let index = 0; index < MAX_LEGACY_QUEUES; index++)
    if (transport.queueMaxSize(index) > 0) count = index + 1;
  return count;
}

function connect(
  opened: Opened,
  transport: PciDriverTransport | PciLegacyDriverTransport,
  queues: number,
): PciInterrupts {
  const parts: PciInterruptParts = {
    config: opened.config,
    interrupts: opened.platform.interrupts,
    readIsr: () => transport.readIsr(),
    notify: (notification) => transport.onNotification?.(notification),
  };
  const { msix } = opened.capabilities;
  const bar = opened.bars.find(({ index }) => index === msix?.bar);
  if (opened.options.interrupts !== "intx" && msix !== undefined && bar !== undefined && bar.address !== 0) {
    const length = msix.size * PCI_MSIX_ENTRY_SIZE;
    if (msix.offset + length <= bar.size) {
      const table = new BusWindow(opened.platform.bus, bar.space, bar.address + msix.offset, length);
      const connected = connectMsix(parts, msix, table, queues);
      if (connected !== undefined) return connected;
    }
  }
  return connectIntx(parts);
}
