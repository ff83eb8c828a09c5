/** Runs test files on the copy: once with all mutants asleep, to learn who comes by which; then with one awake. */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";

/**
 * Every test file with all mutants asleep.
 *
 * @returns of each file that passes `{ file, milliseconds, seen }`, `seen` the numbers of the mutants it comes by; and
 * the files that fail, which cannot notice anything
 */
export async function runAsleep(tree, jobs) {
  const report = join(tree, "seen.jsonl");
  const results = join(tree, "results.json");
  const argv = [`--maxWorkers=${jobs}`, "--reporter=json", `--outputFile=${results}`];
  await vitest(tree, argv, { MUTANTS_SEEN: report }, 3_600_000);
  const { testResults } = JSON.parse(readFileSync(results, "utf8"));
  const seen = new Map();
  for (const line of readFileSync(report, "utf8").trimEnd().split("\n")) {
    const { file, seen: ids } = JSON.parse(line);
    seen.set(file, new Set(ids));
  }
  const tests = [];
  const failing = [];
  for (const { name, status, startTime, endTime } of testResults) {
    const file = relative(tree, name);
    if (status !== "passed" || !seen.has(name)) failing.push(file);
    else tests.push({ file, milliseconds: endTime - startTime, seen: seen.get(name) });
  }
  return { tests, failing };
}

/**
 * The tests that come by a mutant, with it awake: the one that is most likely to notice by itself, then twice as many each
 * time.
 *
 * @returns the test file that noticed by itself, "several" when one of several did, or undefined when none noticed
 */
export async function runAwake(tree, mutant, files) {
  for (let at = 0, count = 1; at < files.length; at += count, count *= 2) {
    const some = files.slice(at, at + count);
    const time = some.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
    const argv = ["--bail=1", "--reporter=dot", ...some.map(({ file }) => file)];
    // An endless loop is noticed as well; a busy machine is no endless loop.
    const status = await vitest(tree, argv, { MUTANT: mutant.id }, 20_000 + 5 * time);
    if (status !== "passed") return some.length > 1 ? "several" : some[0];
  }
  return undefined;
}

/** @returns "passed", "failed" or "endless" */
function vitest(tree, argv, environment, milliseconds) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["node_modules/vitest/vitest.mjs", "run", ...argv], {
      cwd: tree,
      stdio: "ignore",
      detached: true, // a group of its own, so that its workers end with it
      env: { ...process.env, ...environment },
    });
    const timer = setTimeout(() => {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    }, milliseconds);
    child.on("error", reject);
    child.on("close", (status, signal) => {
      clearTimeout(timer);
      resolve(signal !== null ? "endless" : status === 0 ? "passed" : "failed");
    });
  });
}
