import { diskTest } from "../lib/disk-test.ts";
import { loadSeconds } from "../lib/load.ts";

// The ways in which a disk's image is read and written, with a guest that writes as guests do. Shorter: the machines are known.
const seconds = loadSeconds(0.05, 5);
const drives = [
  ",aio=threads",
  ",cache=none",
  ",cache=none,aio=threads",
  ",cache=directsync",
  ",mmap=on",
  " --object iothread,id=io0,poll-max-ns=32768",
  ",cache=none --object iothread,id=io0,poll-max-ns=32768",
];

for (const drive of drives) diskTest({ machine: "arm64", transport: "pci", packed: false, drive, seconds });
