import { diskTest } from "../lib/disk-test.ts";

diskTest({ machine: "arm", transport: "pci" });
diskTest({ machine: "arm", transport: "mmio" });
