import { copyFileSync, mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { hasE2fsprogs, root, temporaryFolder } from "../../guest/virtio.ts";
import { Console } from "../lib/console.ts";
import { makePartitionedDisk } from "../lib/partitioned-disk.ts";
import { UBoot, uBootImages } from "../lib/u-boot.ts";

const folder = temporaryFolder();
/** Firmware is up in a second; beside other work it may take many. */
const bootTimeout = 60_000;

/**
 * The command lines of U-Boot's documentation on VirtIO as they are there, but for `tap,ifname=tap0`, which needs an interface
 * of the host: `user` is left to QEMU as well.
 */
const lines = [
  {
    name: "ARM, MMIO",
    image: "qemu_arm/u-boot.bin",
    line: `qemu-system-arm -nographic -machine virt -bios u-boot.bin
      -netdev user,id=net0 -device virtio-net-device,netdev=net0
      -drive if=none,file=test.img,format=raw,id=hd0 -device virtio-blk-device,drive=hd0`,
  },
  {
    name: "x86, PCI",
    image: "qemu-x86/u-boot.rom",
    line: `qemu-system-i386 -nographic -bios u-boot.rom
      -netdev user,id=net0 -device virtio-net-pci,netdev=net0
      -drive if=none,file=test.img,format=raw,id=hd0 -device virtio-blk-pci,drive=hd0`,
  },
  {
    name: "ARM, MMIO and PCI",
    image: "qemu_arm/u-boot.bin",
    line: `qemu-system-arm -nographic -machine virt -bios u-boot.bin
      -netdev user,id=net0 -device virtio-net-pci,netdev=net0
      -drive if=none,file=test.img,format=raw,id=hd0 -device virtio-blk-device,drive=hd0
      -drive if=none,file=test1.img,format=raw,id=hd1 -device virtio-blk-pci,drive=hd1`,
  },
  {
    name: "x86, PCI, modern",
    image: "qemu-x86/u-boot.rom",
    line: `qemu-system-i386 -nographic -bios u-boot.rom
      -netdev user,id=net0 -device virtio-net-pci,netdev=net0,disable-legacy=on,disable-modern=off
      -drive if=none,file=test.img,format=raw,id=hd0
      -device virtio-blk-pci,drive=hd0,disable-legacy=on,disable-modern=off`,
  },
];

for (const { name, image, line } of lines) {
  const [program = "", ...argv] = line.split(/\s+/);
  const debianPackage = program.endsWith("arm") ? "qemu-system-arm" : "qemu-system-x86";
  const title = clause(
    "dev.blk.operation",
    `virtio qemu before a command line of U-Boot's documentation: ${name}`,
  );
  test.skipIf(findProgram(program) === undefined || !hasE2fsprogs)(
    needs(program, debianPackage, title),
    async () => {
      const work = mkdtempSync(join(folder, "line-"));
      copyFileSync(join(await uBootImages("bookworm"), image), join(work, image.replace(/.*\//, "")));
      const disk = makePartitionedDisk(work, { "hello.txt": Buffer.from("Hello\n") });
      for (const file of ["test.img", "test1.img"]) copyFileSync(disk.path, join(work, file));
      const command = join(root, "packages/cli/bin/virtio.js");
      const console = new Console(line, process.execPath, [command, "qemu", program, ...argv], work);
      try {
        await console.until(/-netdev user is QEMU's/, 20_000);
        await console.until(/drive=hd0\S*: ours/, 20_000);
        const uBoot = new UBoot(console);
        await uBoot.ready(bootTimeout);
        await uBoot.run("virtio scan");
        const disks = line.split("-drive").length - 1;
        const info = await uBoot.run("virtio info");
        expect(info.match(/VirtIO Block Device/g)).toHaveLength(disks);
        for (let index = 0; index < disks; index++) {
          expect(await uBoot.run(`ls virtio ${index}:1 /`)).toMatch(/^ +6 +hello\.txt$/m);
          expect(await uBoot.run(`virtio device ${index}`)).toContain("is now current device");
        }
        // As anybody leaves it.
        console.send("\u0001x");
        expect(await console.finish(20_000)).toBe(0);
        expect(readFileSync(join(work, "test.img")).equals(disk.content)).toBe(true);
      } finally {
        console.child.kill("SIGTERM");
        await console.finish(20_000);
      }
    },
  );
}
