import { spawnSync } from "node:child_process";
import { findProgram, needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";
import { readFdt } from "virtio/bus/fdt/read";
import { writeFdt } from "virtio/bus/fdt/write";
import { QemuMachine } from "../src/index.ts";

const dtc = findProgram("dtc");

function source(blob: Uint8Array): string {
  const { stdout, status } = spawnSync(dtc ?? "dtc", ["-q", "-s", "-I", "dtb", "-O", "dts"], { input: blob });
  expect(status).toBe(0);
  return stdout.toString();
}

const MACHINES = [
  ["qemu-system-arm", "qemu-system-arm", "virt"],
  ["qemu-system-riscv64", "qemu-system-misc", "virt"],
  ["qemu-system-x86_64", "qemu-system-x86", "microvm,pcie=on"],
] as const;

for (const [program, debianPackage, machine] of MACHINES) {
  const title = needs(
    "dtc",
    "device-tree-compiler",
    `QEMU's device tree of ${machine} is read, and written again`,
  );
  const missing = dtc === undefined || findProgram(program) === undefined;
  test.skipIf(missing)(needs(program, debianPackage, title), async () => {
    const qemu = await QemuMachine.start({ argv: [program, "-M", machine, "-device", "virtio-rng-device"] });
    try {
      const blob = qemu.deviceTree ?? new Uint8Array();
      const again = writeFdt(readFdt(blob));
      expect(readFdt(again)).toEqual(readFdt(blob));
      expect(source(again)).toBe(source(blob));
    } finally {
      await qemu.close();
    }
  });
}
