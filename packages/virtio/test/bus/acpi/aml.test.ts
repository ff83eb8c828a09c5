import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { buffer, device, eisaId, integer, name, packageOf, scope, string } from "virtio/bus/acpi/aml";
import { memory32Fixed, resourceTemplate, sharedInterrupt } from "virtio/bus/acpi/resources";

/** Reads a `PkgLength`: what it counts, and where what follows it starts. */
function packageLength(bytes: Uint8Array, at: number): { length: number; next: number } {
  const lead = bytes[at] ?? 0;
  const following = lead >> 6;
  if (following === 0) return { length: lead & 0x3f, next: at + 1 };
  let length = lead & 0xf;
  for (let i = 0; i < following; i++) length += (bytes[at + 1 + i] ?? 0) * 2 ** (4 + 8 * i);
  return { length, next: at + 1 + following };
}

function readInteger(bytes: Uint8Array, at = 0): number {
  const opcode = bytes[at] ?? 0;
  if (opcode <= 1) return opcode;
  const size = { 0x0a: 1, 0x0b: 2, 0x0c: 4, 0x0e: 8 }[opcode] ?? 0;
  return Array.from(bytes.subarray(at + 1, at + 1 + size)).reduceRight(
    (value, byte) => value * 256 + byte,
    0,
  );
}

describe("AML terms", () => {
  test("integers keep their value in the shortest form", () => {
    fc.assert(
      fc.property(fc.oneof(fc.maxSafeNat(), fc.nat(0x10000)), (value) => {
        const bytes = integer(value);
        expect(readInteger(bytes)).toBe(value);
        const shortest =
          value <= 1 ? 1 : value <= 0xff ? 2 : value <= 0xffff ? 3 : value <= 0xffffffff ? 5 : 9;
        expect(bytes).toHaveLength(shortest);
      }),
    );
  });

  test("lengths count themselves, at every size of their encoding", () => {
    const sizes = fc.oneof(
      fc.nat(0x2000),
      fc.constantFrom(0x3a, 0x3b, 0x3c, 0x3d, 0xff6, 0xff7, 0xff8, 0xff9, 0x100010),
    );
    fc.assert(
      fc.property(sizes, (size) => {
        const bytes = buffer(new Uint8Array(size).fill(7));
        const { length, next } = packageLength(bytes, 1);
        expect(bytes[0]).toBe(0x11);
        expect(1 + length).toBe(bytes.length);
        expect(readInteger(bytes, next)).toBe(size);
      }),
      { numRuns: 60 },
    );
  });

  test("terms as the ACPI specification encodes them", () => {
    expect([...eisaId("PNP0A03")]).toEqual([0x0c, 0x41, 0xd0, 0x0a, 0x03]);
    expect([...string("LNRO")]).toEqual([0x0d, 0x4c, 0x4e, 0x52, 0x4f, 0]);
    expect([...name("_UID", integer(0))]).toEqual([0x08, 0x5f, 0x55, 0x49, 0x44, 0]);
    expect([...packageOf(integer(1), integer(2))]).toEqual([0x12, 5, 2, 1, 0x0a, 2]);
    expect([...scope("\\_SB")]).toEqual([0x10, 6, 0x5c, 0x5f, 0x53, 0x42, 0x5f]);
    expect([...device("A.B")]).toEqual([
      0x5b, 0x82, 10, 0x2e, 0x41, 0x5f, 0x5f, 0x5f, 0x42, 0x5f, 0x5f, 0x5f,
    ]);
  });

  test("resources as the ACPI specification encodes them", () => {
    const template = resourceTemplate(memory32Fixed(0xfd000000, 0x1000), sharedInterrupt(17));
    const memory = [0x86, 9, 0, 1, 0, 0, 0, 0xfd, 0, 0x10, 0, 0];
    const interrupt = [0x89, 6, 0, 9, 1, 17, 0, 0, 0];
    expect([...template]).toEqual([0x11, 26, 0x0a, 23, ...memory, ...interrupt, 0x79, 0]);
  });
});
