import { diskTest } from "../lib/disk-test.ts";

diskTest("arm64", "pci");
diskTest("arm64", "mmio");
