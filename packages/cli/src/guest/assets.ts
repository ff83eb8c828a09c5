import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import { makeHomeFolder } from "../paths.ts";
import { UserError } from "../user-error.ts";
import { PrivateApt } from "./apt.ts";
import { guestSource, type GuestArchitecture, type GuestSource } from "./architectures.ts";
import { buildInitrd, guestModules, ownFiles, packagePath } from "./initrd.ts";
import { withLock } from "./lock.ts";
import type { MirrorOptions } from "./mirror.ts";
import type { PackageSource } from "./package-source.ts";
import { unpackPackage } from "./packages.ts";
import type { Progress } from "./progress.ts";

/** The guest kernel and initial root file system that are set up on this host. */
export interface GuestAssets {
  /** The kernel's release, as `uname -r` shows it. */
  readonly release: string;
  /** Path of the kernel: uncompressed when it could be, for that boots faster. */
  readonly kernel: string;
  /** Path of the initial root file system. */
  readonly initrd: string;
  /** Path of a busybox that needs no library: of the guest's architecture, for root file systems of its own. */
  readonly busybox: string;
  /** Changes when the kernel or the initrd does: part of the key of saved states. */
  readonly digest: string;
}

/** What is set up, or undefined when nothing is, or something of an older version of these sources. */
export function installedGuest(
  home: string,
  architecture: GuestArchitecture = "i386",
): GuestAssets | undefined {
  const stamp = readStamp(join(home, guestSource(architecture).folder));
  return stamp !== undefined && stamp.recipe === recipe() ? stamp.assets : undefined;
}

/** Downloads the packages unless they are here, and makes kernel and initrd of them. */
export async function installGuest(
  home: string,
  progress: Progress,
  architecture: GuestArchitecture = "i386",
  mirror?: MirrorOptions,
): Promise<GuestAssets> {
  const source = guestSource(architecture);
  const folder = join(home, source.folder);
  makeHomeFolder(home);
  return withLock(`${folder}.lock`, async () => {
    const installed = installedGuest(home, architecture);
    if (installed) return installed;
    // For this user alone, and its name cannot be guessed.
    const work = mkdtempSync(`${folder}.new-`);
    try {
      const packages =
        downloadedPackages(home, source) ?? (await fetchPackages(home, source, progress, mirror));
      progress.step("Unpacking the guest kernel");
      for (const file of packages) await unpackPackage(file, join(work, "root"));
      const assets = await makeAssets(join(work, "root"), work, architecture, progress);
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
  });
}

async function fetchPackages(
  home: string,
  source: GuestSource,
  progress: Progress,
  mirror: MirrorOptions | undefined,
): Promise<string[]> {
  const { architecture, suite } = source;
  const folder = join(home, source.aptFolder);
  const archive: PackageSource =
    mirror === undefined
      ? new PrivateApt(folder, architecture)
      : new (await import("./mirror.ts")).MirrorArchive(folder, architecture, mirror);
  progress.step(`Reading the package index of Debian ${suite} (${architecture})`);
  await archive.update(suite);
  const kernel = await archive.resolve(source.metaPackage, source.kernelPackage);
  progress.step(`Downloading ${kernel} and busybox-static`);
  return archive.download([kernel, "busybox-static"], progress);
}

/** The packages of an earlier download: complete, for a file is there only when its hash was right. */
function downloadedPackages(home: string, { aptFolder, architecture }: GuestSource): string[] | undefined {
  const folder = join(home, aptFolder, "packages");
  if (!existsSync(folder)) return undefined;
  const files = readdirSync(folder).filter((file) => file.endsWith(`_${architecture}.deb`));
  const found = [/^linux-image-\d/, /^busybox-static_/].map((pattern) =>
    files.find((file) => pattern.test(file)),
  );
  return found.every((file) => file !== undefined) ? found.map((file) => join(folder, file)) : undefined;
}

async function makeAssets(
  root: string,
  work: string,
  architecture: GuestArchitecture,
  progress: Progress,
): Promise<GuestAssets> {
  const release = readdirSync(packagePath(root, "lib/modules"))[0];
  if (release === undefined) throw new UserError("the kernel package has no modules");
  progress.step("Making the initial root file system");
  const initrd = buildInitrd(root, release, architecture);
  writeFileSync(join(work, "initrd"), initrd);
  copyFileSync(packagePath(root, "bin/busybox"), join(work, "busybox"));
  // Where kernels are not compressed the file is called vmlinux: never an ELF file, though, but what a loader takes.
  const image = readdirSync(join(root, "boot")).find((name) => /^vmlinu[xz]-/.test(name));
  if (image === undefined) throw new UserError("the kernel package has no kernel");
  const kernel = readFileSync(join(root, "boot", image));
  writeFileSync(join(work, "vmlinuz"), kernel);
  const digest = createHash("sha256").update(kernel).update(initrd).digest("hex").slice(0, 32);
  const files = { initrd: "initrd", busybox: "busybox", digest };
  if (architecture !== "i386") return { release, kernel: "vmlinuz", ...files };
  progress.step("Decompressing the kernel");
  const decompressed = await writeVmlinux(kernel, join(work, "vmlinux"));
  return { release, kernel: decompressed ? "vmlinux" : "vmlinuz", ...files };
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
  const at = (name: string): string => join(folder, name);
  return {
    ...assets,
    kernel: at(assets.kernel),
    initrd: at(assets.initrd),
    busybox: at(assets.busybox),
  };
}

interface Stamp {
  /** Of what the assets were made, beside the packages. */
  readonly recipe: string;
  readonly assets: GuestAssets;
}

/** To be raised when the code that makes the initial root file system changes. */
const recipeVersion = 4;

/** Changes when what the initial root file system is made of does. */
function recipe(): string {
  const hash = createHash("sha256").update(JSON.stringify([recipeVersion, guestModules]));
  for (const [path, data] of ownFiles()) hash.update(`${path}:${data.length}:`).update(data);
  return hash.digest("hex").slice(0, 16);
}

function readStamp(folder: string): Stamp | undefined {
  try {
    const stamp = JSON.parse(readFileSync(join(folder, "guest.json"), "utf8")) as Partial<Stamp>;
    if (typeof stamp.recipe !== "string" || stamp.assets === undefined) return undefined;
    const assets = located(folder, stamp.assets);
    const complete = [assets.kernel, assets.initrd, assets.busybox].every((file) => existsSync(file));
    return complete ? { recipe: stamp.recipe, assets } : undefined;
  } catch {
    return undefined;
  }
}
