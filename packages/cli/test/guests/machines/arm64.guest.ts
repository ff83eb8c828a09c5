import { diskTest } from "../lib/disk-test.ts";

diskTest({ machine: "arm64", transport: "pci" });
diskTest({ machine: "arm64", transport: "mmio" });
