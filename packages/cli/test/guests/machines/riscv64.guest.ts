import { diskTest } from "../lib/disk-test.ts";

diskTest({ machine: "riscv64", transport: "pci" });
diskTest({ machine: "riscv64", transport: "mmio" });
