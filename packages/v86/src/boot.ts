/**
 * Starts Linux without any BIOS, by "32-bit BOOT PROTOCOL" of the kernel's `Documentation/arch/x86/boot.rst`: this file
 * does what a boot loader does, and what it leaves in memory is what a BIOS would have said.
 */
import { host } from "./globals.ts";
import type { EntryState } from "./internals.ts";

const BOOT_PARAMETERS = 0x90000;
const STACK = 0x96000;
const GDT = 0x97000;
const COMMAND_LINE = 0x98000;
const COMMAND_LINE_MAX = 2047;
/** Above here, up to 1 MiB, nothing is usable memory for the kernel. */
const LOW_MEMORY_END = 0x9f000;
const HIGH_MEMORY = 0x100000;

// Offsets in `struct boot_params` ("zero page") and, from 0x1f1 on, in its `struct setup_header`.
const ACPI_RSDP = 0x70;
const E820_ENTRIES = 0x1e8;
const E820_TABLE = 0x2d0;
const SETUP_HEADER = 0x1f1;
const SETUP_SECTS = 0x1f1;
const SETUP_END = 0x201;
const HEADER_MAGIC = 0x202;
const TYPE_OF_LOADER = 0x210;
const LOADFLAGS = 0x211;
const CODE32_START = 0x214;
const RAMDISK_IMAGE = 0x218;
const RAMDISK_SIZE = 0x21c;
const HEAP_END_PTR = 0x224;
const CMD_LINE_PTR = 0x228;

const MAGIC_HDRS = 0x53726448;
const LOADED_HIGH = 1;
const CAN_USE_HEAP = 0x80;
const LOADER_UNDEFINED = 0xff;
const E820_RAM = 1;
const E820_RESERVED = 2;
const ELF_MAGIC = 0x464c457f;
const ELF_CLASS_32 = 1;
const ELF_MACHINE_386 = 3;
const PT_LOAD = 1;

/** What makes Linux boot faster on this machine, and nothing less reliable. */
export const KERNEL_PARAMETERS: string =
  "tsc=reliable mitigations=off nokaslr apparmor=0 audit=0 cryptomgr.notests init_on_alloc=0 psi=0 i8042.noaux 8250.nr_uarts=1 lpj=4000000";

export interface BootImage {
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array | undefined;
  readonly commandLine: string;
  /** Where ACPI's root pointer lies, if there is one. */
  readonly acpiRoot?: number | undefined;
}

/** Writes all of it into `ram` (all of the guest's RAM) and says how to enter the kernel. Throws on what cannot boot. */
export function loadLinux(ram: Uint8Array, image: BootImage): EntryState {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  ram.fill(0, BOOT_PARAMETERS, BOOT_PARAMETERS + 0x1000);
  const entry = isElf(image.kernel) ? loadElf(ram, image.kernel) : loadBzImage(ram, image.kernel);
  ram[BOOT_PARAMETERS + TYPE_OF_LOADER] = LOADER_UNDEFINED;
  ram[BOOT_PARAMETERS + LOADFLAGS] = LOADED_HIGH | CAN_USE_HEAP;
  view.setUint16(BOOT_PARAMETERS + HEAP_END_PTR, 0xfe00, true);
  loadCommandLine(ram, view, image.commandLine);
  if (image.initrd !== undefined) loadInitrd(ram, view, image.initrd);
  view.setUint32(BOOT_PARAMETERS + ACPI_RSDP, image.acpiRoot ?? 0, true);
  writeMemoryMap(ram, view);
  writeDescriptors(view);
  return { entry, parameters: BOOT_PARAMETERS, gdt: GDT, stack: STACK };
}

function isElf(kernel: Uint8Array): boolean {
  return (
    kernel.length > 52 && new DataView(kernel.buffer, kernel.byteOffset).getUint32(0, true) === ELF_MAGIC
  );
}

function loadElf(ram: Uint8Array, kernel: Uint8Array): number {
  const elf = new DataView(kernel.buffer, kernel.byteOffset, kernel.length);
  if (elf.getUint8(4) !== ELF_CLASS_32 || elf.getUint16(18, true) !== ELF_MACHINE_386)
    throw new Error("the kernel is an ELF file, but not for i386: v86 has no long mode, use a 32-bit kernel");
  const headers = elf.getUint32(28, true);
  const count = elf.getUint16(44, true);
  for (let i = 0; i < count; i++) {
    const header = headers + 32 * i;
    if (elf.getUint32(header, true) !== PT_LOAD) continue;
    const offset = elf.getUint32(header + 4, true);
    const address = elf.getUint32(header + 12, true);
    const length = elf.getUint32(header + 16, true);
    if (address + elf.getUint32(header + 20, true) > ram.length)
      throw new Error(`the kernel does not fit into ${ram.length >> 20} MiB of memory`);
    ram.set(kernel.subarray(offset, offset + length), address);
  }
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  // A vmlinux has no setup header of its own; this is what the kernel looks at.
  view.setUint32(BOOT_PARAMETERS + HEADER_MAGIC, MAGIC_HDRS, true);
  view.setUint16(BOOT_PARAMETERS + HEADER_MAGIC + 4, 0x020f, true);
  return elf.getUint32(24, true);
}

function loadBzImage(ram: Uint8Array, kernel: Uint8Array): number {
  const view = new DataView(kernel.buffer, kernel.byteOffset, kernel.length);
  if (kernel.length < 0x1000 || view.getUint32(HEADER_MAGIC, true) !== MAGIC_HDRS)
    throw new Error("the kernel is neither an ELF vmlinux nor a bzImage");
  const setupSectors = kernel[SETUP_SECTS] === 0 ? 4 : (kernel[SETUP_SECTS] ?? 4);
  const code = kernel.subarray((setupSectors + 1) * 512);
  if (HIGH_MEMORY + code.length > ram.length)
    throw new Error(`the kernel does not fit into ${ram.length >> 20} MiB of memory`);
  ram.set(code, HIGH_MEMORY);
  const headerEnd = HEADER_MAGIC + (kernel[SETUP_END] ?? 0);
  ram.set(kernel.subarray(SETUP_HEADER, headerEnd), BOOT_PARAMETERS + SETUP_HEADER);
  return view.getUint32(CODE32_START, true);
}

function loadCommandLine(ram: Uint8Array, view: DataView, commandLine: string): void {
  const bytes = new host.TextEncoder().encode(commandLine);
  if (bytes.length > COMMAND_LINE_MAX)
    throw new Error(`the kernel command line has ${bytes.length} bytes, more than ${COMMAND_LINE_MAX}`);
  ram.set(bytes, COMMAND_LINE);
  ram[COMMAND_LINE + bytes.length] = 0;
  view.setUint32(BOOT_PARAMETERS + CMD_LINE_PTR, COMMAND_LINE, true);
}

/** At the end of memory, out of the way of the kernel. */
function loadInitrd(ram: Uint8Array, view: DataView, initrd: Uint8Array): void {
  const address = (ram.length - initrd.length) & ~0xfff;
  if (address < ram.length / 4)
    throw new Error(`the initrd does not fit into ${ram.length >> 20} MiB of memory`);
  ram.set(initrd, address);
  view.setUint32(BOOT_PARAMETERS + RAMDISK_IMAGE, address, true);
  view.setUint32(BOOT_PARAMETERS + RAMDISK_SIZE, initrd.length, true);
}

function writeMemoryMap(ram: Uint8Array, view: DataView): void {
  const map: readonly (readonly [start: number, end: number, type: number])[] = [
    [0, LOW_MEMORY_END, E820_RAM],
    [LOW_MEMORY_END, HIGH_MEMORY, E820_RESERVED],
    [HIGH_MEMORY, ram.length, E820_RAM],
  ];
  ram[BOOT_PARAMETERS + E820_ENTRIES] = map.length;
  map.forEach(([start, end, type], i) => {
    const entry = BOOT_PARAMETERS + E820_TABLE + 20 * i;
    view.setUint32(entry, start, true);
    view.setUint32(entry + 8, end - start, true);
    view.setUint32(entry + 16, type, true);
  });
}

/** Selectors 0x10 and 0x18: flat code and data of 4 GiB, as the protocol wants them. */
function writeDescriptors(view: DataView): void {
  for (let i = 0; i < 4; i++) view.setBigUint64(GDT + 8 * i, 0n, true);
  view.setBigUint64(GDT + 0x10, 0x00cf9b00_0000ffffn, true);
  view.setBigUint64(GDT + 0x18, 0x00cf9300_0000ffffn, true);
}
