import { diskTest } from "../lib/disk-test.ts";

diskTest("arm", "pci");
diskTest("arm", "mmio");
