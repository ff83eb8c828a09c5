/**
 * A program for the guest that makes system calls for the host: it reads a number and six arguments from its input, calls,
 * and writes the result. Starting a program costs a freshly restored machine up to a third of a second, for nothing is
 * compiled yet; this one runs already and needs a thousandth of that. The host's end is boot/syscalls.ts.
 */

/** Where the program is loaded. */
const base = 0x10000;
/** Where a request is read to: pointers in it are absolute. */
export const requestAddress = 0x11000;
/** Bytes of the longest request: one buffer of Linux' virtio_console driver, which is handed out by one read. */
export const requestSize = 4096;

const elfHeaderSize = 52;
const programHeaderSize = 32;

function word(value: number): number[] {
  return [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >>> 24) & 255];
}

const at = (argument: number): number[] => word(requestAddress + 4 * argument);
const interrupt = [0xcd, 0x80];

/** Machine code for i386, an instruction a line. */
const code: readonly number[] = [
  [0xb8, ...word(3)], // mov eax, read
  [0x31, 0xdb], // xor ebx, ebx
  [0xb9, ...at(0)], // mov ecx, request
  [0xba, ...word(requestSize)], // mov edx, size
  interrupt,
  [0x85, 0xc0], // test eax, eax
  [0x7e, 72], // jle to the last three lines
  [0xa1, ...at(0)], // mov eax, [number]
  [0x8b, 0x1d, ...at(1)], // mov ebx, [first argument]
  [0x8b, 0x0d, ...at(2)], // mov ecx, …
  [0x8b, 0x15, ...at(3)], // mov edx, …
  [0x8b, 0x35, ...at(4)], // mov esi, …
  [0x8b, 0x3d, ...at(5)], // mov edi, …
  [0x8b, 0x2d, ...at(6)], // mov ebp, …
  interrupt,
  [0xa3, ...at(0)], // mov [result], eax
  [0xb8, ...word(4)], // mov eax, write
  [0xbb, ...word(1)], // mov ebx, stdout
  [0xb9, ...at(0)], // mov ecx, result
  [0xba, ...word(4)], // mov edx, 4
  interrupt,
  [0xeb, 0x100 - 95], // jmp to the first line
  [0xb8, ...word(1)], // mov eax, exit
  [0x31, 0xdb], // xor ebx, ebx
  interrupt,
].flat();

/** The program as an ELF file. */
export function syscallProgram(): Uint8Array {
  const file = Buffer.alloc(elfHeaderSize + programHeaderSize + code.length);
  file.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  file.writeUInt16LE(2, 16); // executable
  file.writeUInt16LE(3, 18); // i386
  file.writeUInt32LE(1, 20);
  file.writeUInt32LE(base + elfHeaderSize + programHeaderSize, 24); // entry
  file.writeUInt32LE(elfHeaderSize, 28); // program headers
  file.writeUInt16LE(elfHeaderSize, 40);
  file.writeUInt16LE(programHeaderSize, 42);
  file.writeUInt16LE(1, 44);
  const segment = [1, 0, base, base, file.length, requestAddress + requestSize - base, 7, 4096];
  segment.forEach((field, index) => file.writeUInt32LE(field, elfHeaderSize + 4 * index));
  file.set(code, elfHeaderSize + programHeaderSize);
  return file;
}
