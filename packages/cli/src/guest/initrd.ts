import { readFileSync } from "node:fs";
import { join } from "node:path";

import { CpioWriter } from "./cpio.ts";
import { aliasText, dependencyText, ModuleTree } from "./modules.ts";

/** What the guest can drive and mount. Which of them are loaded is decided in the guest, by what it finds. */
export const guestModules: readonly string[] = [
  "virtio_pci",
  "virtio_mmio",
  "virtio_blk",
  "virtio_console",
  "virtio_rng",
  "virtio_net",
  "9p",
  "9pnet_virtio",
  "ext4",
  "crc32c_generic",
  "overlay",
  "loop",
  "vfat",
  "nls_cp437",
  "nls_ascii",
  "isofs",
  "squashfs",
  "af_packet",
];

/** Has the guest's init write back the disks and tell the host. */
const powerOff = `#!/bin/sh
read -r pid </run/control && kill -USR2 "$pid"
`;

/** The initial root file system: busybox, the modules and the init script, as a cpio archive. */
export function buildInitrd(root: string, release: string, init: string): Uint8Array {
  const archive = new CpioWriter();
  for (const path of [
    "bin",
    "sbin",
    "dev",
    "etc",
    "proc",
    "sys",
    "run",
    "root",
    "tmp",
    "mnt",
    "newroot",
    "usr/bin",
    "usr/sbin",
  ]) {
    archive.folder(path);
  }
  archive.characterDevice("dev/console", 5, 1);
  archive.characterDevice("dev/null", 1, 3, 0o666);
  archive.file("bin/busybox", readFileSync(join(root, "bin/busybox")), 0o755);
  for (const name of ["bin/sh", "sbin/modprobe"]) archive.symlink(name, "/bin/busybox");
  archive.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  archive.file("etc/group", "root:x:0:\n");
  // busybox's own would signal the first process, which waits for the others.
  for (const name of ["poweroff", "halt", "reboot"]) archive.file(`sbin/${name}`, powerOff, 0o755);
  archive.file("etc/profile", "export PS1='\\u@\\h:\\w\\$ '\nalias ll='ls -l'\n");
  const modules = new ModuleTree(join(root, "lib/modules", release)).closure(guestModules);
  const folder = `lib/modules/${release}`;
  for (const module of modules) archive.file(`${folder}/${module.path}`, module.data);
  archive.file(`${folder}/modules.dep`, dependencyText(modules));
  archive.file(`${folder}/modules.alias`, aliasText(modules));
  archive.file("init", init, 0o755);
  return archive.finish();
}
