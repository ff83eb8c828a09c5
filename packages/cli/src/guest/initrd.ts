import { readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

import { syscallProgram } from "./syscall-program.ts";
import { packageFolder } from "../paths.ts";
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

/** What is ours in the guest: the files of this package's `guest` folder, by their path in the guest. */
export function ownFiles(): [string, Uint8Array][] {
  const folder = join(packageFolder, "guest");
  const paths = readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
  return paths.flatMap((path): [string, Uint8Array][] =>
    statSync(join(folder, path)).isFile() ? [[path, readFileSync(join(folder, path))]] : [],
  );
}

/** The initial root file system: busybox, the modules and the init script, as a cpio archive. */
export function buildInitrd(root: string, release: string): Uint8Array {
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
    "media",
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
  for (const name of ["halt", "reboot"]) archive.symlink(`sbin/${name}`, "poweroff");
  for (const [path, data] of ownFiles()) archive.file(path, data, path.startsWith("etc/") ? 0o644 : 0o755);
  archive.file("sbin/syscalls", syscallProgram(), 0o755);
  const modules = new ModuleTree(join(root, "lib/modules", release)).closure(guestModules);
  const folder = `lib/modules/${release}`;
  for (const module of modules) archive.file(`${folder}/${module.path}`, module.data);
  archive.file(`${folder}/modules.dep`, dependencyText(modules));
  archive.file(`${folder}/modules.alias`, aliasText(modules));
  return archive.finish();
}
