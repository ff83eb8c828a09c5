import { copyFileSync, existsSync, mkdirSync, realpathSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";

import { withLock } from "@virtio/cli/guest/lock";
import { packageFiles } from "@virtio/cli/guest/packages";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { host } from "../../../guest/virtio.ts";
import { neededLibraries } from "./elf.ts";

const fio = { name: "fio", suite: "bookworm", architecture: "amd64" };
const LOADER = "lib64/ld-linux-x86-64.so.2";
const FOLDERS = ["lib", "usr/lib"].flatMap((folder) =>
  ["", "/ceph"].map((sub) => `${folder}/x86_64-linux-gnu${sub}`),
);
const MEGABYTES = 128;

/**
 * An image with Debian's fio for amd64 and the libraries it needs, and `run`, which runs it from wherever that is mounted.
 * 60 MB are fetched, once.
 */
export async function toolsImage(): Promise<string> {
  const home = join(homeFolder(), "packages");
  const image = join(home, "fio-amd64.ext4");
  return withLock(`${image}.lock`, async () => {
    if (existsSync(image)) return image;
    const work = `${image}.new-${process.pid}`;
    const progress = new Progress();
    try {
      const root = await packageFiles(work, { ...fio, dependencies: true }, progress);
      collect(root, join(work, "tools"));
      host(
        "mkfs.ext4",
        "-q",
        "-F",
        "-O",
        "^has_journal",
        "-d",
        join(work, "tools"),
        `${work}/image`,
        `${MEGABYTES}M`,
      );
      renameSync(`${work}/image`, image);
      return image;
    } finally {
      rmSync(work, { recursive: true, force: true });
      progress.end();
    }
  });
}

/** Copies fio, its loader and every library that one of them needs. */
function collect(root: string, target: string): void {
  mkdirSync(join(target, "lib"), { recursive: true });
  copyFileSync(join(root, "usr/bin/fio"), join(target, "fio"));
  copyFileSync(realpathSync(join(root, "lib/x86_64-linux-gnu", basename(LOADER))), join(target, "loader"));
  const todo = neededLibraries(join(root, "usr/bin/fio"));
  for (const name of todo) {
    const copy = join(target, "lib", name);
    if (existsSync(copy)) continue;
    const path = FOLDERS.map((folder) => join(root, folder, name)).find((candidate) => existsSync(candidate));
    if (path === undefined) throw new Error(`fio needs ${name}, and no package has it`);
    copyFileSync(realpathSync(path), copy);
    todo.push(...neededLibraries(copy));
  }
}
