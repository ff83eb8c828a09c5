import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { findProgram, needs } from "@virtio/testkit/needs";
import { Console } from "../guests/lib/console.ts";
import { UBoot, uBootImages } from "../guests/lib/u-boot.ts";
import {
  KERNEL,
  TemporaryFolder,
  extImage,
  fatImage,
  partitionedImage,
  putAt,
  sampleRoot,
} from "./lib/images.ts";
import { onQemu } from "./lib/shell.ts";

const folder = new TemporaryFolder();
afterAll(() => folder.remove());

const ready =
  findProgram("qemu-system-aarch64") !== undefined &&
  ["mkfs.ext4", "mkfs.vfat", "sfdisk"].every((name) => findProgram(name) !== undefined);

/** Typed at both; the addresses are memory of both. */
const COMMANDS = [
  "virtio scan",
  "virtio info",
  "virtio device",
  "virtio device 0",
  "virtio device 3",
  "virtio part",
  "virtio part 0",
  "virtio part 4",
  "ls virtio 0",
  "ls virtio 0:2 /",
  "ls virtio 0:2 /boot",
  "ls virtio 0:2 boot/deep",
  "fstype virtio 0:1",
  "fstype virtio 0:2",
  "load virtio 0:2 41000000 /boot/kernel.efi",
  "printenv filesize fileaddr",
  "md.b 41000000 20",
  "md 41000000 4",
  "load virtio 0:2 41000000 /boot/kernel.efi 1000 100",
  "crc32 41000000 1000",
  "load virtio 0:2 41000000 /link",
  "size virtio 0:2 /hello; printenv filesize",
  "mw.l 41000000 12345678 4; md.w 41000000 8; md.q 41000000 2",
  "cp.w 41000000 41001000 8; cmp.b 41000000 41001000 10",
  "cmp.b 41000000 41000004 4",
  "cmp.w 41000000 41000002 4",
  "cmp 41000000 41000002 4",
  "mw.l 41001000 5 4; mw.b 41001010 0 20; cmp 41001000 41001010 1; cmp.q 41001000 41001010 1; cmp.w 41001000 41001010 1",
  "cmp.q 41000000 41000002 1",
  "crc32 41000000 10",
  "virtio read 41000000 0 1",
  "md.b 410001b0 50",
  "virtio write 41000000 10 1",
  `echo "a" 'b' c; echo -n d; echo e`,
  "setenv foo bar; printenv foo nofoo; echo ${foo} $foo '${foo}' \"${foo}\"",
  "nosuchcommand",
  "md",
  "cmp 1",
  "false; echo $?; true; echo $?",
  "false && echo a; false || echo b; true && echo c",
  "if test 1 -lt 2; then echo yes; else echo no; fi",
  "for i in 1 2 3; do echo -n $i; done; echo",
  "test a = b; echo $?; test -n a; echo $?; test -z a; echo $?",
  "setenv autoload no; dhcp",
  "printenv ipaddr netmask gatewayip serverip dnsip",
  "ping 10.0.2.2",
  "tftpboot 41000000 10.0.2.2:kernel.img",
  "crc32 41000000 24720",
  "tftpboot 41000000 10.0.2.2:none.img",
];

/** What is not the same twice, or in two releases of U-Boot. */
function comparable(text: string): string {
  return (
    text
      .replaceAll(/virtio-net#\d+/g, "virtio-net#N")
      .replaceAll(/in \d+ ms( \(.*\))?/g, "in N ms")
      .replaceAll(/\(\d+ ms\)/g, "(N ms)")
      .replaceAll(/[\d.]+ [KMG]iB\/s/g, "N MiB/s")
      .replaceAll("Map for VirtIO", "Map for virtio")
      // A mark that the next character covers.
      .replaceAll(/Loading: \*?[\b]?/g, "Loading: ")
      .replaceAll(/[ \t]+/g, " ")
      .trim()
  );
}

test.skipIf(!ready)(
  needs(
    "qemu-system-aarch64",
    "qemu-system-arm",
    `a real U-Boot says the same to ${COMMANDS.length} commands`,
  ),
  async () => {
    const disk = partitionedImage(
      folder.file("disk.img"),
      32,
      "label: dos\nlabel-id: 0x12345678\nstart=2048, size=20480, type=c, bootable\nstart=22528, size=32768, type=83\n",
    );
    putAt(disk, 2048, fatImage(folder.file("boot.img"), 10_240, 16));
    putAt(disk, 22_528, extImage(folder.file("root.img"), sampleRoot(folder)));
    folder.write("kernel.img", KERNEL);
    const devices =
      `-drive if=none,file=${disk},format=raw,id=d,snapshot=on -device virtio-blk-device,drive=d ` +
      `-netdev user,id=n,tftp=${folder.path} -device virtio-net-device,netdev=n`;
    const machine = `-nographic -machine virt -cpu cortex-a57 -m 256 ${devices}`;
    const image = join(await uBootImages("bookworm"), "qemu_arm64/u-boot.bin");
    const console = new Console("U-Boot", "qemu-system-aarch64", ["-bios", image, ...machine.split(" ")]);
    const shell = await onQemu(`qemu-system-aarch64 ${machine}`);
    try {
      const uBoot = new UBoot(console);
      await uBoot.ready(60_000);
      for (const command of COMMANDS) {
        const theirs = comparable(await uBoot.run(command));
        expect(comparable(await shell.run(command)), command).toBe(theirs);
      }
    } finally {
      console.kill();
      await shell.close();
    }
  },
);
