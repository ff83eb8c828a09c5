import { netTest } from "../lib/net-test.ts";

for (const packed of [false, true]) {
  for (const machine of ["arm64", "arm", "riscv64", "pc", "q35"] as const) netTest(machine, "pci", packed);
  for (const machine of ["arm64", "arm", "riscv64", "microvm"] as const) netTest(machine, "mmio", packed);
}
