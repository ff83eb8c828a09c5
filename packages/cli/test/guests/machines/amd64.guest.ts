import { diskTest } from "../lib/disk-test.ts";

diskTest("pc", "pci");
diskTest("q35", "pci");
