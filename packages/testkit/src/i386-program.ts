/**
 * A static ELF for i386 Linux that makes system calls, one after the other, and nothing else: for what no program in a
 * small guest can do. It ends with status 0, or with the error number of the call that failed.
 */

/** A number, bytes that the call reads, or room that it fills. */
export type Argument = number | Uint8Array | Room;

export interface Room {
  readonly room: number;
}

export interface SystemCall {
  /** By the numbers of i386. */
  readonly number: number;
  /** Five at most. */
  readonly arguments: readonly Argument[];
  /** Write to standard output as many bytes of this room as the call returned. */
  readonly print?: Room;
}

const BASE = 0x0804_8000;
const HEADERS = 52 + 32;
const SYS_EXIT = 1;
const SYS_WRITE = 4;
/** MOV r32, imm32 for ebx, ecx, edx, esi, edi. */
const MOVES = [0xbb, 0xb9, 0xba, 0xbe, 0xbf];
const MOV_EAX = 0xb8;

const le32 = (value: number): number[] =>
  [value, value >> 8, value >> 16, value >> 24].map((byte) => byte & 0xff);
const le16 = (value: number): number[] => [value & 0xff, value >> 8];

/** A C string. */
export function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

export function i386Program(calls: readonly SystemCall[]): Uint8Array {
  // Twice: the data lies behind the code, whose length does not depend on where.
  const length = assemble(calls, 0).code.length;
  const { code, data } = assemble(calls, BASE + HEADERS + length);
  return Uint8Array.from([...headers(HEADERS + code.length + data.length), ...code, ...data]);
}

function assemble(calls: readonly SystemCall[], dataAt: number): { code: number[]; data: number[] } {
  const code: number[] = [];
  const data: number[] = [];
  const rooms = new Map<Room, number>();
  const put = (bytes: ArrayLike<number>): number => {
    const at = dataAt + data.length;
    data.push(...Array.from(bytes));
    return at;
  };
  const address = (argument: Argument): number => {
    if (typeof argument === "number") return argument;
    if (argument instanceof Uint8Array) return put(argument);
    const known = rooms.get(argument) ?? put(new Uint8Array(argument.room));
    rooms.set(argument, known);
    return known;
  };
  for (const call of calls) {
    call.arguments.forEach((argument, i) => code.push(MOVES[i] ?? 0x90, ...le32(address(argument))));
    code.push(MOV_EAX, ...le32(call.number), 0xcd, 0x80);
    // test eax, eax; jns over { neg eax; mov ebx, eax; mov eax, SYS_EXIT; int 0x80 }
    code.push(0x85, 0xc0, 0x79, 11, 0xf7, 0xd8, 0x89, 0xc3, MOV_EAX, ...le32(SYS_EXIT), 0xcd, 0x80);
    if (call.print === undefined) continue;
    // mov edx, eax; mov ebx, 1; mov ecx, room; mov eax, SYS_WRITE; int 0x80
    code.push(
      0x89,
      0xc2,
      0xbb,
      ...le32(1),
      0xb9,
      ...le32(address(call.print)),
      MOV_EAX,
      ...le32(SYS_WRITE),
      0xcd,
      0x80,
    );
  }
  code.push(0xbb, ...le32(0), MOV_EAX, ...le32(SYS_EXIT), 0xcd, 0x80);
  return { code, data };
}

/** The ELF header and one segment that may be read, written and executed. */
function headers(size: number): number[] {
  const identification = [0x7f, 0x45, 0x4c, 0x46, 1, 1, 1, ...Array.from({ length: 9 }, () => 0)];
  const elf = [
    ...identification,
    ...[2, 3].flatMap(le16),
    ...[1, BASE + HEADERS, 52, 0, 0].flatMap(le32),
    ...[52, 32, 1, 0, 0, 0].flatMap(le16),
  ];
  const segment = [1, 0, BASE, BASE, size, size, 7, 0x1000].flatMap(le32);
  return [...elf, ...segment];
}
