import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { hasE2fsprogs, host, runInGuest, temporaryFolder } from "./virtio.ts";

const folder = temporaryFolder();
const size = 256 << 20;

/** Every way a driver of Linux 6.1 meets a disk of ours. */
const plugs: readonly (readonly [string, string])[] = [
  ["modern", "virtio-blk-pci-non-transitional"],
  ["modernpacked", "virtio-blk-pci-non-transitional,packed=on"],
  ["transitional", "virtio-blk-pci"],
  ["legacy", "virtio-blk-pci,disable-modern=on"],
  ["msix", "virtio-blk-pci-non-transitional,vectors=3"],
  ["msixpacked", "virtio-blk-pci-non-transitional,vectors=3,packed=on,num-queues=2"],
  ["mmio", "virtio-blk-device"],
  ["mmiopacked", "virtio-blk-device,packed=on"],
];

/** The image, and what a file in it has as md5. */
function makeDisk(name: string): string {
  const tree = join(folder, name);
  mkdirSync(tree);
  const bytes = Buffer.alloc(8 << 20);
  for (let i = 0; i < bytes.length; i += 4)
    bytes.writeUInt32LE(Math.imul(i ^ name.length, 2654435761) >>> 0, i);
  writeFileSync(join(tree, "data"), bytes);
  const image = `${tree}.img`;
  writeFileSync(image, "");
  truncateSync(image, size);
  host("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", "-d", tree, image);
  return image;
}

function md5(path: string): string {
  return createHash("md5").update(readFileSync(path)).digest("hex");
}

/** The md5 of a file in an image. */
function md5Within(image: string, path: string): string {
  const shell = `PATH=$PATH:/usr/sbin:/sbin debugfs -R 'cat ${path}' ${image} 2>/dev/null | md5sum`;
  return host("sh", "-c", shell).slice(0, 32);
}

test.runIf(hasE2fsprogs)(
  "a 256 MiB ext4 disk is read, written and intact over every transport and ring",
  async () => {
    const argv = plugs.flatMap(([name, device]) => {
      const drive = `file=${makeDisk(name)},if=none,format=raw,id=${name}`;
      return ["-drive", drive, "-device", `${device},drive=${name},serial=${name}`];
    });
    const result = await runInGuest(
      `for disk in /sys/block/vd*; do
        read -r name <$disk/serial; dev=/dev/\${disk##*/}; mkdir /media/$name
        mount $dev /media/$name && md5sum </media/$name/data && cp /media/$name/data /media/$name/copy &&
        dd if=/dev/zero of=/media/$name/zeroes bs=64k count=64 conv=fsync 2>/dev/null && sync && umount /media/$name && echo $name
      done; md5sum </dev/vdb`,
      argv,
    );
    expect(result.stderr).toBe("");
    const expected = plugs.flatMap(([name]) => [`${md5(join(folder, name, "data"))}  -`, name]);
    const whole = md5(join(folder, "modernpacked.img"));
    expect(result.stdout.toString().trimEnd().split("\n")).toEqual([...expected, `${whole}  -`]);
    for (const [name] of plugs) {
      const image = join(folder, `${name}.img`);
      expect(host("e2fsck", "-f", "-n", image)).toContain("Pass 5");
      expect(md5Within(image, "/copy")).toBe(md5(join(folder, name, "data")));
    }
  },
);

test("snapshot=on leaves the image as it is; a read-only disk cannot be written", async () => {
  const image = join(folder, "raw.img");
  writeFileSync(image, Buffer.alloc(1 << 20, "x"));
  const result = await runInGuest(
    `for d in a b; do echo new | dd of=/dev/vd$d conv=notrunc,fsync 2>/dev/null; echo $?; head -c 4 /dev/vd$d | tr '\\n' . ; done`,
    ["--disk", `${image},snapshot=on`, "--disk", `${image},readonly=on`],
  );
  expect(result.stdout.toString()).toBe("0\nnew.1\nxxxx");
  expect(readFileSync(image).equals(Buffer.alloc(1 << 20, "x"))).toBe(true);
});
