import { wholeOption } from "../check-option.ts";
import {
  PCI_HEADER_TYPE,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_VENDOR_ID,
  PCI_COMMAND,
} from "../bus/pci/registers.ts";
import { PCI_COMMAND_IO, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from "../bus/pci/registers.ts";
import { WindowAllocator } from "./pci-bars.ts";
import { PciConfig } from "./pci-config.ts";
import type { PciConfigAccess } from "./platform.ts";

export interface PciFirmwareOptions {
  /** Number of the first bus, 0 to 255. Default 0. */
  readonly firstBus?: number;
  /** Where BARs of the first bus, and windows of bridges, may go. */
  readonly memory: WindowAllocator;
  readonly io?: WindowAllocator | undefined;
  /** The line that a pin (1 to 4) of a device on the first bus is wired to. */
  line(device: number, pin: number): number;
}

/** Where BARs on one bus may go. */
export interface PciBusWindows {
  readonly memory: WindowAllocator | undefined;
  readonly io: WindowAllocator | undefined;
}

const DEVICES = 32;
const FUNCTIONS = 8;
const MULTIFUNCTION = 0x80;
const HEADER_BRIDGE = 1;
/** Registers of a type 1 header ("PCI-to-PCI Bridge Architecture Specification"). */
const PRIMARY_BUS = 0x18;
const SECONDARY_BUS = 0x19;
const SUBORDINATE_BUS = 0x1a;
const IO_BASE = 0x1c;
const IO_LIMIT = 0x1d;
const MEMORY_BASE = 0x20;
const MEMORY_LIMIT = 0x22;
const PREFETCHABLE_BASE = 0x24;
const PREFETCHABLE_LIMIT = 0x26;
const IO_BASE_UPPER = 0x30;
const LAST_BUS = 255;
/** What each bridge gets: the smallest windows that a few virtio functions fit in. */
const BRIDGE_MEMORY = 0x200000;
const BRIDGE_IO = 0x1000;

/**
 * What firmware does before drivers come, for a machine without any: numbers the buses behind bridges, gives bridges
 * their windows, and writes each function's interrupt line. BARs get their addresses when a function is opened, from the
 * windows of its bus, which are returned by bus number.
 */
export function setUpPci(
  access: PciConfigAccess,
  options: PciFirmwareOptions,
): ReadonlyMap<number, PciBusWindows> {
  const windows = new Map<number, PciBusWindows>();
  const first = wholeOption("PCI firmware: firstBus", options.firstBus ?? 0, 0, LAST_BUS);
  let next = first + 1;
  const scan = (bus: number, own: PciBusWindows, line: (device: number, pin: number) => number): void => {
    windows.set(bus, own);
    for (const config of functionsOf(access, bus)) {
      const pin = config.read(PCI_INTERRUPT_PIN, 1);
      // More than 8 bits of a line do not fit the register: such a line cannot be told.
      if (pin >= 1 && pin <= 4) config.write(PCI_INTERRUPT_LINE, 1, line(config.at.device, pin) & 0xff);
      if ((config.read(PCI_HEADER_TYPE, 1) & ~MULTIFUNCTION) !== HEADER_BRIDGE || next > LAST_BUS) continue;
      const secondary = next++;
      const { device } = config.at;
      const inner = openBridge(config, secondary, own);
      // A bridge passes INTA# to INTD# on, turned by the device number behind it.
      scan(secondary, inner, (behind, pinBehind) => line(device, ((pinBehind - 1 + behind) & 3) + 1));
      config.write(SUBORDINATE_BUS, 1, next - 1);
    }
  };
  scan(first, { memory: options.memory, io: options.io }, (device, pin) => options.line(device, pin));
  return windows;
}

function* functionsOf(access: PciConfigAccess, bus: number): Generator<PciConfig> {
  for (let device = 0; device < DEVICES; device++) {
    for (let fn = 0, count = 1; fn < count; fn++) {
      const config = new PciConfig(access, { bus, device, function: fn });
      if (config.read(PCI_VENDOR_ID, 2) === 0xffff) continue;
      if (fn === 0 && (config.read(PCI_HEADER_TYPE, 1) & MULTIFUNCTION) !== 0) count = FUNCTIONS;
      yield config;
    }
  }
}

/** Numbers a bridge and opens its windows. A window with its limit below its base is closed. */
function openBridge(config: PciConfig, secondary: number, outer: PciBusWindows): PciBusWindows {
  config.write(PRIMARY_BUS, 1, config.at.bus);
  config.write(SECONDARY_BUS, 1, secondary);
  config.write(SUBORDINATE_BUS, 1, LAST_BUS);
  const memory = outer.memory?.take(BRIDGE_MEMORY);
  const io = outer.io?.take(BRIDGE_IO);
  config.write(MEMORY_BASE, 2, memory === undefined ? 0xfff0 : (memory >>> 16) & 0xfff0);
  config.write(MEMORY_LIMIT, 2, memory === undefined ? 0 : ((memory + BRIDGE_MEMORY - 1) >>> 16) & 0xfff0);
  config.write(PREFETCHABLE_BASE, 2, 0xfff0);
  config.write(PREFETCHABLE_LIMIT, 2, 0);
  config.write(IO_BASE, 1, io === undefined ? 0xf0 : (io >>> 8) & 0xf0);
  config.write(IO_LIMIT, 1, io === undefined ? 0 : ((io + BRIDGE_IO - 1) >>> 8) & 0xf0);
  config.write(IO_BASE_UPPER, 4, io === undefined ? 0 : (io >>> 16) * 0x10001);
  const enabled = PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY | PCI_COMMAND_IO;
  config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) | enabled);
  return {
    memory: memory === undefined ? undefined : new WindowAllocator({ base: memory, length: BRIDGE_MEMORY }),
    io: io === undefined ? undefined : new WindowAllocator({ base: io, length: BRIDGE_IO }),
  };
}
