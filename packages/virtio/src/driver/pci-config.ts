import { wholeOption } from "../check-option.ts";
import type { AccessSize } from "../bus/types.ts";
import type { BusAccess, PciAddress, PciConfigAccess } from "./platform.ts";

/** "Configuration Mechanism #1". */
const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const ENABLE = 0x80000000;

/** Configuration space through the ports of a PC; it reaches the first 256 bytes. */
export function portConfigAccess(bus: BusAccess): PciConfigAccess {
  const select = (at: PciAddress, offset: number): number => {
    const address = ENABLE + at.bus * 0x10000 + at.device * 0x800 + at.function * 0x100 + (offset & 0xfc);
    bus.write("io", CONFIG_ADDRESS, 4, address);
    return CONFIG_DATA + (offset & 3);
  };
  return {
    readConfig: (at, offset, size) => bus.read("io", select(at, offset), size),
    writeConfig: (at, offset, size, value) => bus.write("io", select(at, offset), size, value),
  };
}

/** Configuration space through the memory window of PCI Express (ECAM) at `base`. */
export function ecamConfigAccess(bus: BusAccess, base: number): PciConfigAccess {
  wholeOption("PCI configuration window: base", base, 0, Number.MAX_SAFE_INTEGER);
  const address = (at: PciAddress, offset: number): number =>
    base + at.bus * 0x100000 + at.device * 0x8000 + at.function * 0x1000 + offset;
  return {
    readConfig: (at, offset, size) => bus.read("memory", address(at, offset), size),
    writeConfig: (at, offset, size, value) => bus.write("memory", address(at, offset), size, value),
  };
}

/** One function's configuration space. */
export class PciConfig {
  readonly at: PciAddress;
  readonly #access: PciConfigAccess;

  constructor(access: PciConfigAccess, at: PciAddress) {
    this.#access = access;
    this.at = at;
  }

  read(offset: number, size: AccessSize): number {
    return this.#access.readConfig(this.at, offset, size) >>> 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.#access.writeConfig(this.at, offset, size, value);
  }
}
