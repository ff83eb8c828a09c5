import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

import { packageFolder } from "../paths.ts";
import type { GuestArchitecture } from "./architectures.ts";
import { CpioWriter } from "./cpio.ts";
import { aliasText, dependencyText, ModuleTree } from "./modules.ts";
import { syscallProgram } from "./syscall-program.ts";

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

/** Names that are ours and not busybox's: its own would signal the first process, which waits for others. */
const ownPrograms = new Set(["busybox", "poweroff", "halt", "reboot"]);

/**
 * The programs that a busybox is: it holds their names in order, each with a NUL, from "[" and "[[" on. Read here, for the host may be no
 * machine that could run it.
 */
function appletNames(busybox: Uint8Array): string[] {
  const bytes = Buffer.from(busybox.buffer, busybox.byteOffset, busybox.byteLength);
  const start = bytes.indexOf("[\0[[\0", 0, "latin1");
  const names: string[] = [];
  for (let at = start; at > 0;) {
    const end = bytes.indexOf(0, at);
    const name = bytes.toString("latin1", at, end);
    if (!/^[a-z0-9_[+-]+$/.test(name)) break;
    names.push(name);
    at = end + 1;
  }
  if (!names.includes("sh") || !names.includes("mount"))
    throw new Error("no list of programs in this busybox");
  return names;
}

/** What is ours in the guest: the files of this package's `guest` folder, by their path in the guest. */
export function ownFiles(): [string, Uint8Array][] {
  const folder = join(packageFolder, "guest");
  const paths = readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
  return paths.flatMap((path): [string, Uint8Array][] =>
    statSync(join(folder, path)).isFile() ? [[path, readFileSync(join(folder, path))]] : [],
  );
}

/** A path under `root`; since trixie the packages have all of it under `usr`. */
export function packagePath(root: string, path: string): string {
  return [join(root, path), join(root, "usr", path)].find((found) => existsSync(found)) ?? join(root, path);
}

/** The initial root file system: busybox, the modules and the init script, as a cpio archive. */
export function buildInitrd(root: string, release: string, architecture: GuestArchitecture): Uint8Array {
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
  const busybox = readFileSync(packagePath(root, "bin/busybox"));
  archive.file("bin/busybox", busybox, 0o755);
  for (const name of appletNames(busybox)) {
    if (!ownPrograms.has(name)) archive.symlink(`bin/${name}`, "busybox");
  }
  // What udev or busybox's mdev would make in /dev.
  archive.symlink("lib/dev/fd", "/proc/self/fd");
  ["stdin", "stdout", "stderr"].forEach((name, fd) => archive.symlink(`lib/dev/${name}`, `fd/${fd}`));
  for (const name of ["pts", "shm"]) archive.folder(`lib/dev/${name}`);
  archive.symlink("etc/mtab", "/proc/mounts");
  archive.symlink("sbin/modprobe", "/bin/busybox");
  for (const name of ["halt", "reboot"]) archive.symlink(`sbin/${name}`, "poweroff");
  for (const [path, data] of ownFiles()) archive.file(path, data, path.startsWith("etc/") ? 0o644 : 0o755);
  // Machine code of the embedded machine.
  if (architecture === "i386") archive.file("sbin/syscalls", syscallProgram(), 0o755);
  const tree = new ModuleTree(packagePath(root, join("lib/modules", release)));
  const modules = tree.closure(guestModules);
  const builtin = tree.builtinText(["virtio", ...guestModules]);
  const folder = `lib/modules/${release}`;
  for (const module of modules) archive.file(`${folder}/${module.path}`, module.data);
  archive.file(`${folder}/modules.dep`, dependencyText(modules));
  archive.file(`${folder}/modules.alias`, aliasText(modules));
  if (builtin !== "") archive.file(`${folder}/modules.builtin`, builtin);
  return archive.finish();
}
