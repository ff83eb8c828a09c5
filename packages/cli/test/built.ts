import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The clone. */
export const root: string = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));

/** `virtio`, as users run it: `node` with this as its first argument. Compiled when this module is imported. */
export const command: string = join(root, "packages/cli/bin/virtio.js");

const build = "import('./scripts/setup.mjs').then((setup) => setup.ensureBuild('packages/cli'))";
const built = spawnSync(process.execPath, ["-e", build], { cwd: root, encoding: "utf8" });
if (built.status !== 0) throw new Error(built.stderr);
