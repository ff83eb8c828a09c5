import { diskTest } from "../lib/disk-test.ts";
import { loadSeconds } from "../lib/load.ts";

// A guest's own requests, of many buffers each, over our NBD client; the server dies under load and comes back.
const seconds = loadSeconds(0.1, 15);

diskTest({ machine: "q35", transport: "pci", packed: false, nbd: true, seconds });
diskTest({
  machine: "arm64",
  transport: "pci",
  packed: true,
  nbd: true,
  drive: ",file.connections=4",
  seconds,
});
