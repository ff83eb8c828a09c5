/**
 * Undoes the x86 filter of .xz: targets of CALL and JMP (opcodes E8 and E9), which the encoder made absolute so that
 * calls of one function look alike, become relative again. `code` starts at position 0 of its block.
 */
export function decodeX86(code: Uint8Array): void {
  /** Bit n: an opcode byte was seen n + 1 bytes ago whose operand was not converted, and may overlap this one's. */
  let pending = 0;
  let last = -1;
  for (let i = 0; i + 4 < code.length; i++) {
    if (((code[i] ?? 0) & 0xfe) !== 0xe8) continue;
    const distance = i - last;
    last = i;
    pending = distance > 3 ? 0 : (pending << (distance - 1)) & 7;
    const blocked =
      pending !== 0 && (!MAY_OVERLAP.has(pending) || isSignByte(code[i + 4 - overlap(pending)] ?? 0));
    if (blocked || !isSignByte(code[i + 4] ?? 0)) {
      pending = (pending << 1) | 1;
      continue;
    }
    writeLe32(code, i + 1, relativeTarget(readLe32(code, i + 1), i + 5, pending));
    // The operand is done; nothing in it counts as an opcode.
    i += 4;
  }
}

const MAY_OVERLAP: ReadonlySet<number> = new Set([1, 2, 4]);

/** The highest byte of a displacement below 16 MiB either way. */
function isSignByte(byte: number): boolean {
  return byte === 0 || byte === 0xff;
}

/** How many bytes the operand shares with the nearest opcode before. */
function overlap(pending: number): number {
  return 32 - Math.clz32(pending);
}

function relativeTarget(absolute: number, next: number, pending: number): number {
  let source = absolute;
  for (;;) {
    const target = (source - next) | 0;
    const shift = overlap(pending) * 8;
    if (pending === 0 || !isSignByte((target >>> (24 - shift)) & 0xff)) return (target << 7) >> 7;
    source = target ^ (2 ** (32 - shift) - 1);
  }
}

function readLe32(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] ?? 0) |
    ((bytes[at + 1] ?? 0) << 8) |
    ((bytes[at + 2] ?? 0) << 16) |
    ((bytes[at + 3] ?? 0) << 24)
  );
}

function writeLe32(bytes: Uint8Array, at: number, value: number): void {
  for (let i = 0; i < 4; i++) bytes[at + i] = value >> (8 * i);
}
