/**
 * npm run test:hostile [-- FILE…]: what hostile guests, socket peers and files can cost. Each case is held to a bound;
 * the table at the end shows what was measured beside it.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ensureBuild, ensureDependencies, root, say } from "./setup.mjs";

ensureDependencies();
ensureBuild(".");
const file = join(root, ".virtio/bounds.jsonl");
mkdirSync(join(root, ".virtio"), { recursive: true });
rmSync(file, { force: true });
const vitest = join(root, "node_modules/vitest/vitest.mjs");
const argv = [vitest, "run", "--config", "vitest.hostile.config.ts", ...process.argv.slice(2)];
const env = { ...process.env, VIRTIO_BOUNDS_FILE: file };
const { status } = spawnSync(process.execPath, argv, { cwd: root, stdio: "inherit", env });
say(`\n${table(existsSync(file) ? readFileSync(file, "utf8") : "")}`);
process.exitCode = status ?? 1;

function table(lines) {
  const bounds = lines
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
  const rows = bounds.map(({ what, measured, limit, unit }) => [
    measured <= limit ? "" : "BEYOND",
    what,
    `${round(measured)} ${unit}`,
    `${limit} ${unit}`,
  ]);
  rows.unshift(["", "what", "measured", "bound"]);
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => row[column].length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** A measurement that is no number is printed as it was written, null. */
function round(value) {
  return typeof value === "number" ? Number(value.toPrecision(3)) : String(value);
}
