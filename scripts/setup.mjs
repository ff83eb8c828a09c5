/**
 * Brings a clone into working order: dependencies and build. Only Node's own modules are used, for there may be nothing
 * else yet. When all is in order it costs some milliseconds.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const stamps = join(root, ".virtio", "stamps");
const oldestNode = [20, 19];

/** Installs what package-lock.json says unless that was done. */
export function ensureDependencies() {
  checkNode();
  const lock = readFileSync(join(root, "package-lock.json"));
  const digest = createHash("sha256").update(lock).digest("hex");
  const stamp = join(stamps, "dependencies");
  if (existsSync(join(root, "node_modules/typescript")) && isInstalled(stamp, digest)) return;
  say("Installing dependencies");
  if (npm(["ci", "--no-audit", "--no-fund", "--loglevel=error"]) !== 0) {
    fail(
      "The dependencies could not be installed; npm says why above. Once that is mended, start again, or run `npm ci`.",
    );
  }
  mkdirSync(stamps, { recursive: true });
  writeFileSync(stamp, digest);
}

/** The npm that runs us, else the one in PATH; on Windows that is a script, which only a shell can start. */
function npm(argv) {
  const path = process.env.npm_execpath;
  if (path !== undefined && /\.[cm]?js$/.test(path)) return run(process.execPath, [path, ...argv]);
  return run("npm", argv, process.platform === "win32");
}

/** By us, or by hand after package-lock.json was written. */
function isInstalled(stamp, digest) {
  if (existsSync(stamp)) return readFileSync(stamp, "utf8") === digest;
  const time = (path) => statSync(join(root, path), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return time("node_modules/.package-lock.json") >= time("package-lock.json");
}

/**
 * Compiles unless no source is newer than the last time.
 * @param {string} project "packages/cli" for the command and what it needs, "." for everything
 */
export function ensureBuild(project) {
  const name = project === "." ? "all" : "cli";
  const stamp = join(stamps, `build-${name}`);
  const built = statSync(stamp, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const complete = existsSync(join(root, "packages/cli/dist/main.js"));
  if (complete && newestSource() < built) return;
  say("Compiling");
  // What is changed while the compiler runs is newer than this.
  const start = new Date();
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  if (run(process.execPath, [compiler, "-b", project]) !== 0) fail("the sources do not compile");
  mkdirSync(stamps, { recursive: true });
  writeFileSync(stamp, "");
  utimesSync(stamp, start, start);
}

/** Modification time of the newest file or folder under any src, or of a configuration. Folders show what was deleted. */
function newestSource() {
  const packages = join(root, "packages");
  let newest = statSync(join(root, "tsconfig.base.json")).mtimeMs;
  for (const name of readdirSync(packages)) {
    const config = statSync(join(packages, name, "tsconfig.json"), { throwIfNoEntry: false });
    if (config === undefined) continue;
    newest = Math.max(newest, config.mtimeMs, newestIn(join(packages, name, "src")));
  }
  return newest;
}

function newestIn(folder) {
  let newest = statSync(folder).mtimeMs;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    newest = Math.max(newest, entry.isDirectory() ? newestIn(path) : statSync(path).mtimeMs);
  }
  return newest;
}

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < oldestNode[0] || (major === oldestNode[0] && minor < oldestNode[1])) {
    fail(`Node.js ${oldestNode.join(".")} or newer is needed, this is ${process.versions.node}`);
  }
}

/** Runs a program with its output on our standard error: standard output is the guest's. */
export function run(program, argv, shell = false) {
  const result = spawnSync(program, argv, { cwd: root, stdio: ["ignore", 2, 2], shell });
  if (result.error?.code === "ENOENT") say(`${program} is not installed, or not in PATH.`);
  else if (result.error) say(`${program} cannot be started: ${result.error.message}`);
  return result.status ?? 1;
}

export function say(text) {
  process.stderr.write(`${text}\n`);
}

export function fail(text) {
  say(text);
  process.exit(1);
}
