import { uBootTest } from "../guests/lib/u-boot-test.ts";
import { boards } from "../guests/lib/u-boot.ts";

// The others are in test/guests/u-boot.
for (const board of boards.filter(({ name }) => name === "qemu_arm64")) {
  uBootTest({ board, release: "bookworm", transport: "pci" });
  uBootTest({ board, release: "bookworm", transport: "mmio" });
}
