import { chmodSync, copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import type { GuestAssets } from "@virtio/cli/guest/assets";
import { CpioWriter } from "@virtio/cli/guest/cpio";
import { host } from "../../guest/virtio.ts";

const scripts = join(dirname(fileURLToPath(import.meta.url)), "scripts");

/** An ext4 file system with a small system that has a shell on the console; the guest's initrd switches to it. */
export function makeRootDisk(folder: string, guest: GuestAssets, megabytes: number): string {
  const tree = join(folder, "root");
  for (const path of ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "data"]) {
    mkdirSync(join(tree, path), { recursive: true });
  }
  copyFileSync(guest.busybox, join(tree, "bin/busybox"));
  symlinkSync("busybox", join(tree, "bin/sh"));
  for (const [name, path] of [
    ["root-init.sh", "sbin/init"],
    ["load.sh", "bin/load"],
  ] as const) {
    copyFileSync(join(scripts, name), join(tree, path));
    chmodSync(join(tree, path), 0o755);
  }
  chmodSync(join(tree, "bin/busybox"), 0o755);
  const image = join(folder, "root.ext4");
  host("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", "-d", tree, image, `${megabytes}M`);
  return image;
}

/**
 * The guest's initrd with two ways to go on: `rdinit=/mount-root` in the file system of /dev/vda, and `rdinit=/shell` with a
 * shell that is like the one there.
 */
export function makeInitrd(folder: string, guest: GuestAssets): string {
  const archive = new CpioWriter();
  for (const name of ["mount-root", "shell"]) {
    archive.file(name, readFileSync(join(scripts, `${name}.sh`)), 0o755);
  }
  const path = join(folder, "initrd");
  // Linux unpacks one archive after the other.
  writeFileSync(path, Buffer.concat([readFileSync(guest.initrd), archive.finish()]));
  return path;
}
