import { describe, expect, test } from "vitest";
import { integer, name } from "virtio/bus/acpi/aml";
import { dsdt, layTables, madt } from "virtio/bus/acpi/tables";

const BASE = 0xe0000;
const HARDWARE = { sciInterrupt: 9, pm1EventBlock: 0xb000, pm1ControlBlock: 0xb004, pmTimerBlock: 0xb008 };
const INTERRUPTS = {
  localApicAddress: 0xfee00000,
  ioApicAddress: 0xfec00000,
  ioApicId: 0,
  processors: [0],
  levelTriggered: [{ irq: 9, gsi: 9 }],
};

/** Walks the tables as a driver does: only by what they say. */
class Walk {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  text(address: number, length: number): string {
    return String.fromCharCode(...this.#bytes.subarray(address - BASE, address - BASE + length));
  }

  u8(address: number): number {
    return this.#view.getUint8(address - BASE);
  }

  u32(address: number): number {
    return this.#view.getUint32(address - BASE, true);
  }

  u64(address: number): number {
    return Number(this.#view.getBigUint64(address - BASE, true));
  }

  sum(address: number, length: number): number {
    return this.#bytes
      .subarray(address - BASE, address - BASE + length)
      .reduce((sum, byte) => (sum + byte) & 0xff, 0);
  }
}

describe("ACPI tables", () => {
  const { root, bytes } = layTables(BASE, HARDWARE, dsdt(name("\\_S5", integer(0))), [madt(INTERRUPTS)]);
  const walk = new Walk(bytes);

  test("the root pointer is where it is looked for, with both checksums", () => {
    expect(root % 16).toBe(0);
    expect(walk.text(root, 8)).toBe("RSD PTR ");
    expect(walk.sum(root, 20)).toBe(0);
    expect(walk.sum(root, walk.u32(root + 20))).toBe(0);
  });

  test("RSDT and XSDT name the same tables, all with right checksums", () => {
    const rsdt = walk.u32(root + 16);
    const xsdt = walk.u64(root + 24);
    const count = (walk.u32(rsdt + 4) - 36) / 4;
    expect((walk.u32(xsdt + 4) - 36) / 8).toBe(count);
    const tables = Array.from({ length: count }, (_, i) => walk.u32(rsdt + 36 + 4 * i));
    expect(tables).toEqual(Array.from({ length: count }, (_, i) => walk.u64(xsdt + 36 + 8 * i)));
    expect(tables.map((table) => walk.text(table, 4))).toEqual(["FACP", "APIC"]);
    for (const table of [rsdt, xsdt, ...tables]) expect(walk.sum(table, walk.u32(table + 4))).toBe(0);
  });

  test("the FADT leads to FACS and DSDT and names the ports", () => {
    const fadt = walk.u32(walk.u32(root + 16) + 36);
    const facs = walk.u32(fadt + 36);
    const description = walk.u32(fadt + 40);
    expect([walk.u64(fadt + 132), walk.u64(fadt + 140)]).toEqual([facs, description]);
    expect([facs % 64, walk.text(facs, 4), walk.u32(facs + 4)]).toEqual([0, "FACS", 64]);
    expect([walk.text(description, 4), walk.sum(description, walk.u32(description + 4))]).toEqual([
      "DSDT",
      0,
    ]);
    expect([56, 64, 76].map((block) => walk.u32(fadt + block))).toEqual([0xb000, 0xb004, 0xb008]);
    // The extended form of each: system I/O, its width in bits, and the port again.
    expect(
      [148, 172, 208].map((block) => [
        walk.u8(fadt + block),
        walk.u8(fadt + block + 1),
        walk.u64(fadt + block + 4),
      ]),
    ).toEqual([
      [1, 32, 0xb000],
      [1, 16, 0xb004],
      [1, 32, 0xb008],
    ]);
  });

  test("the MADT lists processor, IO-APIC and overrides", () => {
    const table = walk.u32(walk.u32(root + 16) + 40);
    const entries: number[] = [];
    for (let at = table + 44; at < table + walk.u32(table + 4); at += walk.u8(at + 1))
      entries.push(walk.u8(at));
    expect(entries).toEqual([0, 1, 2]);
    expect(walk.u32(table + 36)).toBe(0xfee00000);
    expect(walk.u32(table + 44 + 8 + 4)).toBe(0xfec00000);
  });
});
