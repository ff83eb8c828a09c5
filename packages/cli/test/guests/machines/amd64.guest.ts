import { diskTest } from "../lib/disk-test.ts";

diskTest({ machine: "pc", transport: "pci" });
diskTest({ machine: "q35", transport: "pci" });
diskTest({ machine: "microvm", transport: "mmio" });
