import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import { UserError } from "../user-error.ts";
import { PrivateApt } from "./apt.ts";
import { runCommand } from "./command.ts";
import { buildInitrd, guestModules, ownFiles } from "./initrd.ts";
import type { Progress } from "./progress.ts";

/** The guest kernel and initial root file system that are set up on this host. */
export interface GuestAssets {
  /** The kernel's release, as `uname -r` shows it. */
  readonly release: string;
  /** Path of the kernel: uncompressed when it could be, for that boots faster. */
  readonly kernel: string;
  /** Path of the initial root file system. */
  readonly initrd: string;
  /** Changes when the kernel or the initrd does: part of the key of saved states. */
  readonly digest: string;
}

const suite = "bookworm";
const architecture = "i386";

/** What is set up, or undefined when nothing is, or something of an older version of these sources. */
export function installedGuest(home: string): GuestAssets | undefined {
  const stamp = readStamp(home);
  return stamp !== undefined && stamp.recipe === recipe() ? stamp.assets : undefined;
}

/** Downloads the packages unless they are here, and makes kernel and initrd of them. */
export async function installGuest(home: string, progress: Progress): Promise<GuestAssets> {
  const installed = installedGuest(home);
  if (installed) return installed;
  const folder = join(home, "guest");
  const work = join(home, `guest.new-${process.pid}`);
  mkdirSync(work, { recursive: true });
  try {
    const packages = (await downloadedPackages(home)) ?? (await fetchPackages(home, progress));
    progress.step("Unpacking the guest kernel");
    for (const file of packages) await unpack(file, join(work, "root"));
    const assets = await makeAssets(join(work, "root"), work, progress);
    rmSync(join(work, "root"), { recursive: true });
    const stamp: Stamp = { recipe: recipe(), assets };
    writeFileSync(join(work, "guest.json"), `${JSON.stringify(stamp, undefined, 2)}\n`);
    rmSync(folder, { recursive: true, force: true });
    renameSync(work, folder);
    return located(folder, assets);
  } finally {
    rmSync(work, { recursive: true, force: true });
    progress.end();
  }
}

async function fetchPackages(home: string, progress: Progress): Promise<string[]> {
  const apt = new PrivateApt(join(home, "apt"), architecture);
  progress.step(`Reading the package index of Debian ${suite} (${architecture})`);
  await apt.update(suite);
  const kernel = await apt.resolve("linux-image-686", /^linux-image-\d.*-686$/);
  progress.step(`Downloading ${kernel} and busybox-static`);
  return apt.download([kernel, "busybox-static"], progress);
}

/** The packages of an earlier download: complete, for apt renames a file only when its hash was right. */
async function downloadedPackages(home: string): Promise<string[] | undefined> {
  const folder = join(home, "apt", "packages");
  if (!existsSync(folder)) return undefined;
  const files = readdirSync(folder);
  const found = [/^linux-image-\d.*_i386\.deb$/, /^busybox-static_.*_i386\.deb$/].map((pattern) =>
    files.find((file) => pattern.test(file)),
  );
  return found.every((file) => file !== undefined) ? found.map((file) => join(folder, file)) : undefined;
}

async function unpack(file: string, target: string): Promise<void> {
  mkdirSync(target, { recursive: true });
  const result = await runCommand("dpkg-deb", ["-x", file, target]);
  if (result.status !== 0) throw new UserError(`dpkg-deb -x ${file} failed:\n${result.stderr}`);
}

async function makeAssets(root: string, work: string, progress: Progress): Promise<GuestAssets> {
  const modules = join(root, "lib/modules");
  const release = readdirSync(modules)[0];
  if (release === undefined) throw new UserError("the kernel package has no modules");
  progress.step("Making the initial root file system");
  const initrd = buildInitrd(root, release);
  writeFileSync(join(work, "initrd"), initrd);
  const kernel = readFileSync(join(root, "boot", `vmlinuz-${release}`));
  copyFileSync(join(root, "boot", `vmlinuz-${release}`), join(work, "vmlinuz"));
  progress.step("Decompressing the kernel");
  const kernelName = (await writeVmlinux(kernel, join(work, "vmlinux"))) ? "vmlinux" : "vmlinuz";
  const digest = createHash("sha256").update(kernel).update(initrd).digest("hex").slice(0, 32);
  return { release, kernel: kernelName, initrd: "initrd", digest };
}

/** An uncompressed kernel starts two seconds sooner, for the guest need not decompress it; without one it works too. */
async function writeVmlinux(kernel: Uint8Array, target: string): Promise<boolean> {
  const { extractVmlinux } = await import("@virtio/v86/vmlinux");
  try {
    writeFileSync(target, await extractVmlinux(kernel));
    return true;
  } catch {
    return false;
  }
}

/** The stamp names files within its folder, so that a clone can be moved. */
function located(folder: string, assets: GuestAssets): GuestAssets {
  return { ...assets, kernel: join(folder, assets.kernel), initrd: join(folder, assets.initrd) };
}

interface Stamp {
  /** Of what the assets were made, beside the packages. */
  readonly recipe: string;
  readonly assets: GuestAssets;
}

/** To be raised when the code that makes the initial root file system changes. */
const recipeVersion = 3;

/** Changes when what the initial root file system is made of does. */
function recipe(): string {
  const hash = createHash("sha256").update(JSON.stringify([recipeVersion, guestModules]));
  for (const [path, data] of ownFiles()) hash.update(`${path}:${data.length}:`).update(data);
  return hash.digest("hex").slice(0, 16);
}

function readStamp(home: string): Stamp | undefined {
  try {
    const stamp = JSON.parse(readFileSync(join(home, "guest/guest.json"), "utf8")) as Partial<Stamp>;
    if (typeof stamp.recipe !== "string" || stamp.assets === undefined) return undefined;
    const assets = located(join(home, "guest"), stamp.assets);
    return existsSync(assets.kernel) && existsSync(assets.initrd)
      ? { recipe: stamp.recipe, assets }
      : undefined;
  } catch {
    return undefined;
  }
}
