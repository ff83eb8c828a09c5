import { diskTest } from "../lib/disk-test.ts";
import { loadSeconds } from "../lib/load.ts";

// What drivers of before VIRTIO 1.0 see; Linux' drivers know both. Shorter, for the ring is the same.
const seconds = loadSeconds(1 / 30, 5);

// Not on arm: Linux 6.1 cannot map the I/O ports of a legacy device there, QEMU's own disk neither.
for (const machine of ["arm64", "riscv64", "pc", "q35"] as const) {
  diskTest({ machine, transport: "pci", properties: ",disable-modern=on", seconds });
}
for (const machine of ["arm64", "arm", "riscv64", "microvm"] as const) {
  diskTest({ machine, transport: "mmio-legacy", seconds });
}
