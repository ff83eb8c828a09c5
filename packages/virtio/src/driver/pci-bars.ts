import { wholeOption } from "../check-option.ts";
import {
  PCI_BAR0,
  PCI_BAR_COUNT,
  PCI_BAR_IO,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
} from "../bus/pci/registers.ts";
import type { PciConfig } from "./pci-config.ts";
import type { BusSpace } from "./platform.ts";

/** A BAR as its register says. */
export interface BarInfo {
  readonly index: number;
  readonly space: BusSpace;
  readonly wide: boolean;
  /** Bytes; a power of two. */
  readonly size: number;
  /** 0 while it holds no address. */
  readonly address: number;
}

/** A range that nobody else gives out. */
export interface AddressWindow {
  readonly base: number;
  readonly length: number;
}

/** Gives out naturally aligned pieces of a range, and never takes one back. */
export class WindowAllocator {
  readonly #end: number;
  #next: number;

  constructor(window: AddressWindow) {
    const { base, length } = window;
    wholeOption("window of addresses: base", base, 0, Number.MAX_SAFE_INTEGER);
    wholeOption("window of addresses: length", length, 0, Number.MAX_SAFE_INTEGER - base);
    this.#next = base;
    this.#end = base + length;
  }

  /** Undefined: the range is used up. */
  take(size: number): number | undefined {
    const address = Math.ceil(this.#next / size) * size;
    if (address + size > this.#end) return undefined;
    this.#next = address + size;
    return address;
  }
}

const MEMORY_TYPE = 6;
const MEMORY_TYPE_64 = 4;
const IO_MASK = 0xfffc;
const MEMORY_MASK = 0xfffffff0;

/**
 * Finds size and address of every BAR by writing all ones, with decoding off meanwhile. What a device answers is not
 * trusted: a size that is no power of two, or beyond 2^53, makes the BAR count as absent.
 */
export function readBars(config: PciConfig): readonly BarInfo[] {
  const command = config.read(PCI_COMMAND, 2);
  config.write(PCI_COMMAND, 2, command & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY));
  const bars: BarInfo[] = [];
  for (let index = 0; index < PCI_BAR_COUNT; index++) {
    const register = PCI_BAR0 + 4 * index;
    const low = config.read(register, 4);
    const io = (low & PCI_BAR_IO) !== 0;
    const wide = !io && (low & MEMORY_TYPE) === MEMORY_TYPE_64 && index + 1 < PCI_BAR_COUNT;
    const high = wide ? config.read(register + 4, 4) : 0;
    const mask = sizeMask(config, register, low);
    const highMask = wide ? sizeMask(config, register + 4, high) : undefined;
    const size = io ? ioSize(mask) : memorySize((mask & MEMORY_MASK) >>> 0, highMask);
    const address = ((low & (io ? ~3 : MEMORY_MASK)) >>> 0) + high * 2 ** 32;
    if (size > 0 && address < 2 ** 53) bars.push({ index, space: io ? "io" : "memory", wide, size, address });
    if (wide) index++;
  }
  config.write(PCI_COMMAND, 2, command);
  return bars;
}

/**
 * Gives an address to every BAR that has none, as firmware does, then turns decoding on. Returns the BARs with their
 * addresses; those for which there was no room keep 0.
 */
export function assignBars(
  config: PciConfig,
  memory: WindowAllocator | undefined,
  io: WindowAllocator | undefined,
): readonly BarInfo[] {
  const bars = readBars(config).map((bar) => {
    if (bar.address !== 0) return bar;
    const address = (bar.space === "io" ? io : memory)?.take(bar.size);
    if (address === undefined || (!bar.wide && address + bar.size > 2 ** 32)) return bar;
    const register = PCI_BAR0 + 4 * bar.index;
    config.write(register, 4, address % 2 ** 32);
    if (bar.wide) config.write(register + 4, 4, Math.floor(address / 2 ** 32));
    return { ...bar, address };
  });
  const decoded = (space: BusSpace, bit: number): number =>
    bars.some((bar) => bar.space === space && bar.address !== 0) ? bit : 0;
  const command = config.read(PCI_COMMAND, 2);
  config.write(
    PCI_COMMAND,
    2,
    command | decoded("io", PCI_COMMAND_IO) | decoded("memory", PCI_COMMAND_MEMORY),
  );
  return bars;
}

function sizeMask(config: PciConfig, register: number, value: number): number {
  config.write(register, 4, 0xffffffff);
  const mask = config.read(register, 4);
  config.write(register, 4, value);
  return mask;
}

/** The size is the two's complement of the mask; the upper half of an I/O mask may be hardwired to 0. */
function ioSize(mask: number): number {
  const low = mask & IO_MASK;
  return low === 0 ? 0 : powerOfTwo(0x10000 - low);
}

/** `high` is there for a 64-bit BAR. Above its lowest set bit a mask is all ones, or the register is no BAR. */
function memorySize(low: number, high: number | undefined): number {
  if (high === undefined || high === 0xffffffff)
    return low === 0 ? (high === undefined ? 0 : 2 ** 32) : powerOfTwo(2 ** 32 - low);
  if (low !== 0 || high === 0) return 0;
  return powerOfTwo((2 ** 32 - high) * 2 ** 32);
}

/** The size, or 0 when it is none. */
function powerOfTwo(size: number): number {
  return Number.isInteger(Math.log2(size)) && size < 2 ** 53 ? size : 0;
}
