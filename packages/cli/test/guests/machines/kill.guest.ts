import { diskTest } from "../lib/disk-test.ts";
import { loadSeconds } from "../lib/load.ts";

// A back-end that dies under load and comes back; what it was working on is in memory that the front-end keeps for it.
const seconds = loadSeconds(0.1, 15);

for (const packed of [false, true]) {
  diskTest({ machine: "arm64", transport: "pci", packed, killed: true, seconds });
  diskTest({ machine: "riscv64", transport: "mmio", packed, killed: true, seconds });
  diskTest({ machine: "q35", transport: "pci", packed, killed: true, seconds });
}
