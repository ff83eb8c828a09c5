import { readFileSync } from "node:fs";

const PT_DYNAMIC = 2;
const PT_LOAD = 1;
const DT_NEEDED = 1;
const DT_STRTAB = 5;

/** The shared libraries that a 64-bit little-endian ELF file says it needs. */
export function neededLibraries(path: string): string[] {
  const file = readFileSync(path);
  if (file.readUInt32BE(0) !== 0x7f45_4c46 || file[4] !== 2 || file[5] !== 1)
    throw new Error(`${path}: no ELF64`);
  const headers = Array.from({ length: file.readUInt16LE(56) }, (_, index) => {
    const at = Number(file.readBigUInt64LE(32)) + index * file.readUInt16LE(54);
    const field = (offset: number): number => Number(file.readBigUInt64LE(at + offset));
    return { type: file.readUInt32LE(at), offset: field(8), address: field(16), size: field(32) };
  });
  const dynamic = headers.find(({ type }) => type === PT_DYNAMIC);
  if (dynamic === undefined) return [];
  const names: number[] = [];
  let strings = 0;
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += 16) {
    const [tag, value] = [Number(file.readBigInt64LE(at)), Number(file.readBigUInt64LE(at + 8))];
    if (tag === DT_NEEDED) names.push(value);
    if (tag === DT_STRTAB) strings = value;
  }
  const load = headers.find(
    ({ type, address, size }) => type === PT_LOAD && strings >= address && strings < address + size,
  );
  if (load === undefined) throw new Error(`${path}: no string table`);
  const table = strings - load.address + load.offset;
  return names.map((name) => file.toString("latin1", table + name, file.indexOf(0, table + name)));
}
