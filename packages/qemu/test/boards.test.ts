import { findProgram, needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { QemuMachine, splitCommandLine } from "../src/index.ts";

/** What changes controllers, windows or memory of a board: devices must be found and heard all the same. */
const BOARDS: readonly (readonly [string, debianPackage: string])[] = [
  ["qemu-system-aarch64 -M virt,gic-version=3 -cpu cortex-a57", "qemu-system-arm"],
  ["qemu-system-aarch64 -M virt,highmem=off -cpu cortex-a57 -m 2G -smp 2", "qemu-system-arm"],
  ["qemu-system-riscv64 -M virt,aia=aplic", "qemu-system-misc"],
  ["qemu-system-riscv32 -M virt", "qemu-system-misc"],
  // Its interrupt controllers are not known: its devices are asked.
  ["qemu-system-loongarch64 -M virt -m 2G", "qemu-system-misc"],
  ["qemu-system-x86_64 -M microvm,ioapic2=off,pcie=on", "qemu-system-x86"],
  ["qemu-system-i386 -M pc -m 16M -smp 2", "qemu-system-x86"],
];

for (const [line, debianPackage] of BOARDS) {
  const program = line.split(" ")[0] ?? "";
  test.skipIf(findProgram(program) === undefined)(
    needs(program, debianPackage, `${line}: an entropy device works on each bus`),
    async () => {
      const slots = !/loongarch|-M pc/.test(line);
      const devices = `-device virtio-rng-pci ${slots ? "-device virtio-rng-device" : ""}`;
      const machine = await QemuMachine.start({ argv: splitCommandLine(`${line} ${devices}`) });
      try {
        const found = machine.devices();
        expect(found.map(({ bus }) => bus)).toEqual(slots ? ["pci", "mmio"] : ["pci"]);
        for (const device of found)
          for (const interrupts of ["msix", "intx"] as const) {
            const driver = await EntropyDriver.open(device.open({ interrupts }));
            await driver.read(new Uint8Array(5000));
            await driver.close();
          }
      } finally {
        await machine.close();
      }
    },
  );
}
