import { randomBytes } from "node:crypto";
import { mkdtempSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { findProgram, needs } from "@virtio/testkit/needs";
import { HANG_MS } from "@virtio/testkit/until";
import { root, temporaryFolder } from "../../guest/virtio.ts";
import { Console } from "../lib/console.ts";
import { makePartitionedDisk, type PartitionedDisk } from "../lib/partitioned-disk.ts";
import { lookAtDisk, readDisk, sumOf, writeDisk } from "../lib/u-boot-test.ts";
import { UBoot, uBootImages } from "../lib/u-boot.ts";

/*
 * The command lines of U-Boot's page on VirtIO with `virtio qemu` in front. Their network is that of a TAP interface, which needs
 * an administrator; here it is QEMU's own.
 */

const bootTimeout = HANG_MS;
const folder = temporaryFolder();

interface Documented {
  readonly title: string;
  readonly program: string;
  readonly debianPackage: string;
  readonly image: string;
  /** FILE is the disk's and UBOOT U-Boot's image. */
  readonly line: string;
  readonly address: number;
}

const arm = {
  program: "qemu-system-arm",
  debianPackage: "qemu-system-arm",
  image: "qemu_arm/u-boot.bin",
  address: 0x4200_0000,
};
const x86 = {
  program: "qemu-system-i386",
  debianPackage: "qemu-system-x86",
  image: "qemu-x86/u-boot.rom",
  address: 0x0100_0000,
};

const documented: readonly Documented[] = [
  {
    ...arm,
    title: "net and block devices on ARM",
    line: `-nographic -machine virt -bios UBOOT -netdev user,id=net0 -device virtio-net-device,netdev=net0
      -drive if=none,file=FILE,format=raw,id=hd0 -device virtio-blk-device,drive=hd0`,
  },
  {
    ...x86,
    title: "PCI devices on x86",
    line: `-nographic -bios UBOOT -netdev user,id=net0 -device virtio-net-pci,netdev=net0
      -drive if=none,file=FILE,format=raw,id=hd0 -device virtio-blk-pci,drive=hd0`,
  },
  {
    ...x86,
    title: "modern devices",
    line: `-nographic -bios UBOOT -netdev user,id=net0
      -device virtio-net-pci,netdev=net0,disable-legacy=on,disable-modern=off
      -drive if=none,file=FILE,format=raw,id=hd0
      -device virtio-blk-pci,drive=hd0,disable-legacy=on,disable-modern=off`,
  },
];

function makeDisk(data: Uint8Array): PartitionedDisk {
  return makePartitionedDisk(mkdtempSync(join(folder, "disk-")), {
    "data.bin": data,
    "hello.txt": Buffer.from("Hello\n"),
  });
}

async function start(
  { program, line, image }: Documented,
  files: Readonly<Record<string, string>>,
): Promise<Console> {
  const paths: Record<string, string> = { ...files, UBOOT: join(await uBootImages("bookworm"), image) };
  const argv = line
    .trim()
    .split(/\s+/)
    .map((word) => word.replace(/\b(UBOOT|FILE\d?)\b/, (name) => paths[name] ?? name));
  return new Console(
    "virtio qemu",
    process.execPath,
    ["packages/cli/bin/virtio.js", "qemu", program, ...argv],
    root,
  );
}

for (const command of documented) {
  test.skipIf(findProgram(command.program) === undefined)(
    needs(command.program, command.debianPackage, `U-Boot's documentation: ${command.title}`),
    { timeout: 3 * bootTimeout },
    async () => {
      const data = randomBytes(123_457);
      const disk = makeDisk(data);
      const console = await start(command, { FILE: disk.path });
      try {
        await console.until(/virtio-blk-\w+,drive=hd0[^\n]*: ours/, bootTimeout);
        const uBoot = new UBoot(console);
        await uBoot.ready(bootTimeout);
        await lookAtDisk(uBoot, disk);
        await readDisk(uBoot, command, disk, data);
        await writeDisk(uBoot, command, disk);
        // The monitor's "quit" on the multiplexed terminal.
        console.send("\u0001x");
        expect(await console.finish(20_000)).toBe(0);
      } finally {
        console.child.kill("SIGTERM");
        await console.finish(20_000);
      }
    },
  );
}

const three: Documented = {
  ...arm,
  title: "a disk on MMIO and one on PCI",
  line: `-nographic -machine virt -bios UBOOT -netdev user,id=net0 -device virtio-net-pci,netdev=net0
    -drive if=none,file=FILE0,format=raw,id=hd0 -device virtio-blk-device,drive=hd0
    -drive if=none,file=FILE1,format=raw,id=hd1 -device virtio-blk-pci,drive=hd1`,
};

test.skipIf(findProgram(three.program) === undefined)(
  needs(three.program, three.debianPackage, `U-Boot's documentation: ${three.title}`),
  { timeout: 3 * bootTimeout },
  async () => {
    const disks = [makeDisk(randomBytes(1000)), makeDisk(randomBytes(1000))];
    const console = await start(three, { FILE0: disks[0]?.path ?? "", FILE1: disks[1]?.path ?? "" });
    try {
      await console.until(
        /virtio-blk-device,drive=hd0: ours\s+\S+ virtio-blk-pci,drive=hd1: ours/,
        bootTimeout,
      );
      const uBoot = new UBoot(console);
      await uBoot.ready(bootTimeout);
      await uBoot.run("virtio scan");
      const sums: string[] = [];
      for (const number of [0, 1]) {
        expect(await uBoot.run(`virtio device ${number}`)).toMatch(new RegExp(`device ${number}:`, "i"));
        expect(await uBoot.run("virtio read 42000000 0 8")).toMatch(/8 blocks read: OK$/);
        sums.push(/==> (\w+)/.exec(await uBoot.run("crc32 42000000 1000"))?.[1] ?? "");
      }
      // Which is found first is U-Boot's business.
      expect(sums.sort()).toEqual(disks.map(({ content }) => sumOf(content.subarray(0, 4096))).sort());
    } finally {
      console.child.kill("SIGTERM");
      await console.finish(20_000);
    }
  },
);
