import { chmodSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { makePrivateFolder, PRIVATE_FILE, writePrivateFile } from "@virtio/node/private-files";

import type { SampleFiles } from "../options/describe.ts";
import { makeHomeFolder } from "../paths.ts";
import { findProgram, runCommand } from "./command.ts";

const diskMegabytes = 64;
const diskReadme = `A sample disk: an ext4 file system on /dev/vda, served by the VIRTIO block device of this project.
Nothing here matters; write what you like. Delete .virtio/sample.ext4 on the host to get a new one.
`;
const shareReadme = `This directory is on the host and shared with the guest at /mnt/host over 9P.
What you put here is seen there at once, and the other way round.
`;

/** The sample disk and the shared directory, made when they are missing. Without mkfs.ext4 there is no disk. */
export async function sampleFiles(home: string): Promise<SampleFiles> {
  const share = join(home, "share");
  if (!existsSync(share)) {
    makeHomeFolder(home);
    makePrivateFolder(share);
    writePrivateFile(join(share, "README"), shareReadme);
  }
  const disk = join(home, "sample.ext4");
  const made = existsSync(disk) || (await makeDisk(home, disk));
  return { disk: made ? disk : undefined, share };
}

async function makeDisk(home: string, disk: string): Promise<boolean> {
  const mkfs = findProgram("mkfs.ext4");
  if (mkfs === undefined) return false;
  makeHomeFolder(home);
  const work = mkdtempSync(join(home, "sample-"));
  try {
    const [tree, image] = [join(work, "tree"), join(work, "image")];
    mkdirSync(join(tree, "notes"), { recursive: true });
    writeFileSync(join(tree, "README"), diskReadme);
    writeFileSync(join(tree, "notes/hello"), "Hello from a virtio-blk disk.\n");
    const size = `${diskMegabytes}M`;
    // Owned by root in the guest, whoever makes it.
    const argv = [
      "-q",
      "-F",
      "-L",
      "sample",
      "-E",
      "root_owner=0:0,lazy_itable_init=0",
      "-d",
      tree,
      image,
      size,
    ];
    const result = await runCommand(mkfs, argv);
    if (result.status !== 0) return false;
    chmodSync(image, PRIVATE_FILE);
    renameSync(image, disk);
    return true;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
