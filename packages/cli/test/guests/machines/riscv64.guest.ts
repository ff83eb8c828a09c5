import { diskTest } from "../lib/disk-test.ts";

diskTest("riscv64", "pci");
diskTest("riscv64", "mmio");
