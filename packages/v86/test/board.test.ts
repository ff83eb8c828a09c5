import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram, needs } from "@virtio/testkit/needs";
import { ACPI_BASE, boardTables, pciIrq, PCI_IRQS } from "@virtio/v86/board";
import { afterAll, describe, expect, test } from "vitest";

const iasl = findProgram("iasl");
const folder = mkdtempSync(join(tmpdir(), "virtio-acpi-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** The tables apart, by signature. */
function split(bytes: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const tables = new Map<string, Uint8Array>();
  for (let at = 0; at + 8 <= bytes.length; at += 64) {
    const signature = String.fromCharCode(...bytes.subarray(at, at + 4));
    if (/^[A-Z]{4}$/.test(signature))
      tables.set(signature, bytes.subarray(at, at + view.getUint32(at + 4, true)));
  }
  return tables;
}

describe("ACPI of the embedded machine", () => {
  const devices = [
    { base: 0xfd000000, gsi: 16 },
    { base: 0xfd020000, gsi: 17 },
  ];
  const { root, bytes } = boardTables(devices);

  test("the root pointer is at the start of the BIOS area, and the tables stay below 1 MiB", () => {
    expect(root).toBe(ACPI_BASE);
    expect(
      ACPI_BASE + boardTables(Array.from({ length: 128 }, (_, i) => ({ base: i, gsi: 16 }))).bytes.length,
    ).toBeLessThan(0x100000);
  });

  test("neighbouring slots have different interrupts", () => {
    expect(new Set([8, 9, 10, 11].map((slot) => pciIrq(slot, 1)))).toEqual(new Set(PCI_IRQS));
  });

  test.skipIf(iasl === undefined)(
    needs("iasl", "acpica-tools", "Intel's compiler takes every table apart and together again"),
    () => {
      for (const [signature, table] of split(bytes)) {
        writeFileSync(join(folder, `${signature}.aml`), table);
        execFileSync(iasl ?? "", ["-d", `${signature}.aml`], { cwd: folder, stdio: "pipe" });
      }
      const source = readFileSync(join(folder, "DSDT.dsl"), "utf8");
      expect(source.match(/Device \((\w+)\)/g)).toEqual(["Device (PCI0)", "Device (VR00)", "Device (VR01)"]);
      expect(source).toContain('"LNRO0005"');
      const said = execFileSync(iasl ?? "", ["-p", "again", "DSDT.dsl"], { cwd: folder, encoding: "utf8" });
      expect(said).toContain("Compilation successful. 0 Errors, 0 Warnings");
      for (const signature of ["FACP", "APIC", "XSDT"]) {
        const text = readFileSync(join(folder, `${signature}.dsl`), "utf8");
        expect(text).not.toMatch(/invalid|unknown|incorrect checksum/i);
      }
    },
  );
});
