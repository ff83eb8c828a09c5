import { uBootTest } from "../lib/u-boot-test.ts";
import { boards } from "../lib/u-boot.ts";

for (const board of boards) {
  for (const release of ["bookworm", "trixie"] as const) {
    for (const properties of ["", ",disable-legacy=on", ",disable-modern=on"]) {
      uBootTest({ board, release, transport: "pci", properties });
    }
    if (board.name.startsWith("qemu-x86")) continue;
    for (const transport of ["mmio", "mmio-legacy"] as const) uBootTest({ board, release, transport });
  }
}
