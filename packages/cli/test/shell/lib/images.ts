import { execFileSync } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram } from "@virtio/testkit/needs";

/** Bytes that say where they are. */
export function pattern(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + (i >>> 8) * 13 + (i >>> 16) * 31 + seed) & 0xff);
}

/** A folder that goes when the tests are over. */
export class TemporaryFolder {
  readonly path: string = mkdtempSync(join(tmpdir(), "virtio-shell-"));

  file(name: string): string {
    return join(this.path, name);
  }

  write(name: string, bytes: Uint8Array | string): string {
    writeFileSync(this.file(name), bytes);
    return this.file(name);
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

export const KERNEL: Uint8Array = pattern(149_280, 5);

/** A small root file system: `/hello`, `/boot/kernel.efi`, `/boot/deep/`, links. */
export function sampleRoot(folder: TemporaryFolder): string {
  const root = folder.file("root");
  if (existsSync(root)) return root;
  mkdirSync(join(root, "boot", "deep"), { recursive: true });
  writeFileSync(join(root, "hello"), "hello, world\n");
  writeFileSync(join(root, "boot", "kernel.efi"), KERNEL);
  symlinkSync("boot/kernel.efi", join(root, "link"));
  symlinkSync("/nowhere", join(root, "dangling"));
  return root;
}

/** Runs a program of /usr/sbin too; throws with its words. */
export function run(name: string, argv: readonly string[], input?: string): string {
  const program = findProgram(name);
  if (program === undefined) throw new Error(`${name} is not installed`);
  return execFileSync(program, argv, {
    encoding: "utf8",
    stdio: ["pipe", "pipe", "pipe"],
    ...(input === undefined ? {} : { input }),
  });
}

/** An ext file system made from a directory. */
export function extImage(path: string, root: string, size = "16M", type = "ext4", block?: number): string {
  const blocks = block === undefined ? [] : ["-b", String(block)];
  run("mkfs.ext4", ["-q", "-F", "-t", type, ...blocks, "-d", root, path, size]);
  return path;
}

/** A FAT; files are put in through the shell, so that no further program is needed. */
export function fatImage(path: string, kilobytes: number, bits: 12 | 16 | 32): string {
  run("mkfs.vfat", ["-F", String(bits), "-n", "BOOT", "-C", path, String(kilobytes)]);
  return path;
}

/** A disk with this table, as sfdisk reads it. */
export function partitionedImage(path: string, megabytes: number, table: string): string {
  closeSync(openSync(path, "w"));
  truncateSync(path, megabytes << 20);
  run("sfdisk", ["-q", path], table);
  return path;
}

/** Puts an image into a disk, at a sector. */
export function putAt(disk: string, sector: number, image: string): void {
  const bytes = readFileSync(image);
  const fd = openSync(disk, "r+");
  writeSync(fd, bytes, 0, bytes.length, sector * 512);
  closeSync(fd);
}

export function copyOf(folder: TemporaryFolder, path: string, name: string): string {
  copyFileSync(path, folder.file(name));
  return folder.file(name);
}
