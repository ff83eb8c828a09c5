/**
 * npm test: sets up what is missing, then checks and runs everything. At the end it prints which clauses of the
 * specification the tests hold, and which tests were skipped for want of a program.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ensureBuild, ensureDependencies, root, say } from "./setup.mjs";

/** Programs that some tests need, with the Debian package that has them. */
const programs = {
  chromium: "chromium",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-system-arm": "qemu-system-arm",
  "qemu-system-aarch64": "qemu-system-arm",
  "qemu-system-riscv64": "qemu-system-misc",
  dtc: "device-tree-compiler",
  "mkfs.ext4": "e2fsprogs",
  e2fsck: "e2fsprogs",
  "mkfs.vfat": "dosfstools",
  sfdisk: "fdisk",
  iasl: "acpica-tools",
  "qemu-storage-daemon": "qemu-system-common",
  "qemu-nbd": "qemu-utils",
  nbdkit: "nbdkit",
  openssl: "openssl",
  xz: "xz-utils",
  "systemd-socket-activate": "systemd",
  prlimit: "util-linux",
};

const started = Date.now();
ensureDependencies();
ensureBuild(".");
const failures = [];
step("guest kernel and sample disk", node("packages/cli/bin/virtio.js", "setup"));
step("lint", node("node_modules/oxlint/bin/oxlint", "packages", "bench", "scripts"));
step(
  "boundaries",
  node(
    "node_modules/dependency-cruiser/bin/dependency-cruise.mjs",
    "--config",
    ".dependency-cruiser.cjs",
    "packages",
  ),
);
for (const name of readdirSync(join(root, "packages")).sort()) {
  const project = `packages/${name}/test/tsconfig.json`;
  if (existsSync(join(root, project)))
    step(`types of ${name}'s tests`, node("node_modules/typescript/bin/tsc", "-p", project));
}
const outcome = join(root, ".virtio/vitest.json");
mkdirSync(join(root, ".virtio"), { recursive: true });
rmSync(outcome, { force: true });
const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${outcome}`];
step("tests", node("node_modules/vitest/vitest.mjs", "run", ...reporters, ...process.argv.slice(2)));
if (existsSync(outcome)) {
  step("clauses of the specification", node("packages/testkit/dist/report-cli.js", outcome));
  showSkipped(outcome);
}
say(`\n${Math.round((Date.now() - started) / 1000)} s`);
if (failures.length > 0) say(`Failed: ${failures.join(", ")}`);
process.exitCode = failures.length > 0 ? 1 : 0;

function node(...argv) {
  return [process.execPath, argv];
}

function step(title, [program, argv]) {
  say(`\n--- ${title}`);
  const { status } = spawnSync(program, argv, { cwd: root, stdio: "inherit" });
  if (status !== 0) failures.push(title);
}

function showSkipped(path) {
  const { testResults } = JSON.parse(readFileSync(path, "utf8"));
  const skipped = testResults.flatMap(({ name, assertionResults }) =>
    assertionResults
      .filter(({ status }) => status === "skipped" || status === "pending")
      .map(({ fullName }) => `  ${name.slice(root.length + 1)}: ${fullName}`),
  );
  if (skipped.length === 0) return;
  say(`\n--- skipped (${skipped.length})\n${skipped.join("\n")}`);
  const missing = Object.entries(programs).filter(([program]) => !isInstalled(program));
  const packages = [...new Set(missing.map(([, name]) => name))];
  if (packages.length > 0) say(`To run them: apt-get install -y ${packages.join(" ")}`);
}

function isInstalled(program) {
  const folders = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/sbin"];
  return folders.some((folder) => folder !== "" && existsSync(join(folder, program)));
}
