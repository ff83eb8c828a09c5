import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

import { makeHomeFolder } from "../paths.ts";
import { messageOf, UserError } from "../user-error.ts";
import { PrivateApt } from "./apt.ts";
import { findProgram, runCommand } from "./command.ts";
import { withLock } from "./lock.ts";
import type { Progress } from "./progress.ts";

/** Adds the files of a package to `target`. */
export async function unpackPackage(file: string, target: string): Promise<void> {
  mkdirSync(target, { recursive: true });
  if (findProgram("dpkg-deb") === undefined) return unpackHere(file, target);
  const result = await runCommand("dpkg-deb", ["-x", file, target]);
  if (result.status !== 0) throw new UserError(`dpkg-deb -x ${file} failed:\n${result.stderr}`);
}

async function unpackHere(file: string, target: string): Promise<void> {
  const { unpackDeb } = await import("./deb.ts");
  try {
    unpackDeb(readFileSync(file), target);
  } catch (error) {
    throw new UserError(`${file} cannot be unpacked: ${messageOf(error)}`);
  }
}

/** A package of Debian. */
export interface DebianPackage {
  readonly name: string;
  /** The release, such as `bookworm`. */
  readonly suite: string;
  /** Whose index is read; a package of `all` is in each. */
  readonly architecture: string;
  /** With the files of all that it depends on, or of those whose name has this in it; then `name` may be a package without files. */
  readonly dependencies?: boolean | RegExp;
}

/**
 * The folder with the files of a Debian package, which is fetched when it was not yet. Nothing is installed: scripts of
 * packages do not run.
 */
export async function packageFiles(
  home: string,
  { name, suite, architecture, dependencies = false }: DebianPackage,
  progress: Progress,
): Promise<string> {
  const kind = dependencies === false ? "" : "-and-dependencies";
  const folder = join(home, "packages", `${name}-${suite}-${architecture}${kind}`);
  if (existsSync(folder)) return folder;
  makeHomeFolder(home);
  return withLock(`${folder}.lock`, async () => {
    if (existsSync(folder)) return folder;
    // For this user alone, and its name cannot be guessed.
    const work = mkdtempSync(`${folder}.new-`);
    try {
      // Of its own, for apt lets one process use a root at a time.
      const apt = new PrivateApt(join(work, "apt"), architecture);
      progress.step(`Reading the package index of Debian ${suite} (${architecture})`);
      await apt.update(suite);
      progress.step(`Downloading ${name}`);
      const all = dependencies === false ? [name] : await apt.closure(name);
      const names = dependencies instanceof RegExp ? all.filter((each) => dependencies.test(each)) : all;
      for (const file of await apt.download(names, progress)) await unpackPackage(file, join(work, "root"));
      renameSync(join(work, "root"), folder);
      return folder;
    } finally {
      rmSync(work, { recursive: true, force: true });
      progress.end();
    }
  });
}
