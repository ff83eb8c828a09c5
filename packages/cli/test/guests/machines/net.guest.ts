import { netTest } from "../lib/net-test.ts";

for (const machine of ["arm64", "arm", "riscv64", "pc", "q35"] as const) {
  for (const packed of [false, true]) {
    netTest(machine, "pci", packed);
    if (machine !== "pc" && machine !== "q35") netTest(machine, "mmio", packed);
  }
}
