/** Kernels of a few instructions, for what needs the guest's processor and no Linux. */

const BASE = 0x10_0000;

/** An ELF file with this code at 1 MiB, where it starts. */
export function elf(...code: readonly (readonly number[])[]): Uint8Array {
  const bytes = Uint8Array.from(code.flat());
  const file = new Uint8Array(84 + bytes.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 3, true);
  view.setUint32(24, BASE, true);
  view.setUint32(28, 52, true);
  view.setUint16(44, 1, true);
  const header = [1, 84, BASE, BASE, bytes.length, bytes.length, 7, 0x1000];
  header.forEach((field, i) => view.setUint32(52 + 4 * i, field, true));
  file.set(bytes, 84);
  return file;
}

const le32 = (value: number): readonly number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);

/** `mov byte/word/dword [address], value` */
export function store(address: number, size: 1 | 2 | 4, value: number): readonly number[] {
  const operand = [0x05, ...le32(address)];
  if (size === 1) return [0xc6, ...operand, value];
  if (size === 2) return [0x66, 0xc7, ...operand, ...le32(value).slice(0, 2)];
  return [0xc7, ...operand, ...le32(value)];
}

/** Loads zero-extended into EAX, then `mov [target], eax`. */
export function copy(address: number, size: 1 | 2 | 4, target: number): readonly number[] {
  const load = size === 1 ? [0x0f, 0xb6, 0x05] : size === 2 ? [0x0f, 0xb7, 0x05] : [0x8b, 0x05];
  return [...load, ...le32(address), 0xa3, ...le32(target)];
}

/** `inc dword [address]` */
export function increment(address: number): readonly number[] {
  return [0xff, 0x05, ...le32(address)];
}

/** `mov ecx, times` and the body, that often. */
export function loop(times: number, body: readonly number[]): readonly number[] {
  const back = -(body.length + 7);
  return [0xb9, ...le32(times), ...body, 0x49, 0x0f, 0x85, ...le32(back)];
}

/** `out port, value` with DX. */
export function out(port: number, size: 1 | 2, value: number): readonly number[] {
  const dx = [0x66, 0xba, ...le32(port).slice(0, 2)];
  return size === 1
    ? [...dx, 0xb0, value, 0xee]
    : [...dx, 0x66, 0xb8, ...le32(value).slice(0, 2), 0x66, 0xef];
}

/** `mov eax, address; call eax` for ever. */
export function callForever(address: number): readonly number[] {
  return [0xb8, ...le32(address), 0xff, 0xd0, 0xeb, 0xfc];
}

export const RETURN: readonly number[] = [0xc3];
/** `cli; hlt` */
export const HALT: readonly number[] = [0xfa, 0xf4];
