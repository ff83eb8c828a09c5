import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

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
