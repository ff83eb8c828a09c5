import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { checkPrivateFile, makePrivateFolder } from "@virtio/node/private-files";

import { messageOf, UserError } from "./user-error.ts";

/** The folder of this package, from sources and from the build alike: both are one folder deep. */
export const packageFolder: string = dirname(dirname(fileURLToPath(import.meta.url)));

/**
 * Where everything that is downloaded or made lives: `$VIRTIO_HOME`, `.virtio` in a clone of the repository, else
 * `$XDG_CACHE_HOME/virtio`.
 */
export function homeFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const explicit = environment["VIRTIO_HOME"];
  if (explicit) return explicit;
  const clone = dirname(dirname(packageFolder));
  if (existsSync(join(clone, "scripts", "start.mjs")) && existsSync(join(clone, "tsconfig.base.json"))) {
    return join(clone, ".virtio");
  }
  return join(environment["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "virtio");
}

/** Makes the home folder for what is about to be put there. Throws a UserError that names the variable that moves it. */
export function makeHomeFolder(home: string): void {
  try {
    makePrivateFolder(home);
    checkPrivateFile(join(home, "check"));
  } catch (error) {
    const message = messageOf(error);
    // What the system says has its advice already.
    throw new UserError(`VIRTIO_HOME: ${message}${message.includes(";") ? "" : "; name another place"}`);
  }
}
