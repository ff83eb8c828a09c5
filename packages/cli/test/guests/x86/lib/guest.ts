import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { installGuest, type GuestAssets } from "@virtio/cli/guest/assets";
import { CpioWriter } from "@virtio/cli/guest/cpio";
import { packageFiles } from "@virtio/cli/guest/packages";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { findProgram } from "@virtio/testkit/needs";
import { HANG_MS } from "@virtio/testkit/until";
import { root } from "../../../guest/virtio.ts";
import { Console, outputOf } from "../../lib/console.ts";

export const QEMU = "qemu-system-x86_64";
export const DEBIAN_PACKAGE = "qemu-system-x86";
export const hasQemu: boolean = findProgram(QEMU) !== undefined;

/** A QEMU, and what is said to it before all else. */
export interface Emulator {
  readonly program: string;
  readonly argv: readonly string[];
}

export const installedQemu: Emulator = { program: QEMU, argv: [] };
/** Where `newerQemu` runs. */
export const isAmd64: boolean = process.arch === "x64";

/** QEMU 10.0 of Debian 13. Unlike 7.2 it offers packed rings of disks. */
export function newerQemu(): Promise<Emulator> {
  return qemuOf("trixie");
}

/** QEMU of a release of Debian, run from a folder with the libraries of that release: 40 MB are fetched, once. */
export async function qemuOf(suite: string): Promise<Emulator> {
  const wanted = { name: "qemu-system-x86", suite, architecture: "amd64", dependencies: true };
  const usr = join(await packageFiles(homeFolder(), wanted, new Progress()), "usr");
  const libraries = ["", "/pulseaudio"].map((folder) => `${usr}/lib/x86_64-linux-gnu${folder}`).join(":");
  const data = ["share/qemu", "share/seabios", "lib/ipxe/qemu"].flatMap((folder) => [
    "-L",
    join(usr, folder),
  ]);
  return {
    program: join(usr, "lib64/ld-linux-x86-64.so.2"),
    argv: ["--library-path", libraries, join(usr, "bin", QEMU), ...data],
  };
}

/** Emulated, and beside other work. */
export const bootTimeout = HANG_MS;

const scripts = join(dirname(dirname(fileURLToPath(import.meta.url))), "scripts");

/** A kernel, and an initrd that ends in a shell on the console. */
export interface Boot {
  readonly guest: GuestAssets;
  readonly initrd: string;
}

export async function shellBoot(folder: string, architecture: "i386" | "amd64" = "amd64"): Promise<Boot> {
  const guest = await installGuest(homeFolder(), new Progress(), architecture);
  const archive = new CpioWriter();
  archive.file("shell-init", readFileSync(join(scripts, "shell-init.sh")), 0o755);
  const initrd = join(folder, `initrd-${architecture}`);
  // Linux unpacks one archive after the other.
  writeFileSync(initrd, Buffer.concat([readFileSync(guest.initrd), archive.finish()]));
  return { guest, initrd };
}

/** Arguments that boot it. */
export function bootArguments({ guest, initrd }: Boot, first = "rdinit=/shell-init"): string[] {
  const words = `console=ttyS0 panic=-1 ${first}`;
  // QEMU does not take the uncompressed one that the embedded machine boots.
  const kernel = guest.kernel.replace(/vmlinux$/, "vmlinuz");
  return ["-kernel", kernel, "-initrd", initrd, "-append", words];
}

/** What every machine here has: a serial port as its console, and nothing that was not asked for. */
export const plain: readonly string[] = "-nodefaults -display none -serial stdio -no-reboot".split(" ");

/** A QEMU whose memory is shared with back-ends. */
export function sharedMachine(machine: string, megabytes: number, more = ""): string[] {
  const memory = `memory-backend-memfd,id=mem,size=${megabytes}M,share=on`;
  return ["-M", `${machine},memory-backend=mem`, "-m", `${megabytes}M${more}`, "-object", memory];
}

/** A disk of ours that waits for its back-end to come back; on virtio-mmio `bus` is empty. */
export function diskDevice(id: string, socket: string, properties = "", bus = "-pci"): string[] {
  const device = `vhost-user-blk${bus},chardev=${id}c,id=${id}${properties}`;
  return ["-chardev", `socket,id=${id}c,path=${socket},reconnect=1`, "-device", device];
}

/** A network device of ours. Without KVM QEMU 7.2 crashes when it has MSI-X vectors. */
export function netDevice(id: string, socket: string, mac: string, properties = ""): string[] {
  const netdev = `vhost-user,id=${id}n,chardev=${id}c`;
  const device = `virtio-net-pci,netdev=${id}n,mac=${mac},vectors=0${properties}`;
  return ["-chardev", `socket,id=${id}c,path=${socket}`, "-netdev", netdev, "-device", device];
}

/** Starts a QEMU; its console has a shell when the guest is up. */
export function startQemu(name: string, argv: readonly string[], emulator = installedQemu): Console {
  return new Console(name, emulator.program, [...emulator.argv, ...argv]);
}

/** Starts `virtio qemu` with the same arguments that QEMU would have; what the guest's drivers do wrong is written to `log`. */
export function startVirtioQemu(name: string, log: string, argv: readonly string[]): Console {
  const ours = ["packages/cli/bin/virtio.js", "qemu", "--log", "hints", "--log-file", log];
  return new Console(name, process.execPath, [...ours, QEMU, ...argv], root);
}

/** Bit of VIRTIO_F_RING_PACKED in sysfs' text of the features. */
const RING_PACKED = 34;

/** Whether a device of the guest has packed rings; `path` is of its folder in /sys/bus/virtio or a link to it. */
export async function isPacked(shell: Console, path: string): Promise<boolean> {
  return (await outputOf(shell, `cat ${path}/features`)).charAt(RING_PACKED) === "1";
}

export async function isUp(console: Console): Promise<void> {
  await console.until(/<guest is up>\r?\n/, bootTimeout);
}
