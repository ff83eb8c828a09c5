/**
 * npm run mutants [-- FILE…] [--every N] [--from N] [--jobs N] [--list FILE] [--tests FOLDER…]: changes the code in one
 * place at a time and runs the tests that come by that place. A change that no test notices is a survivor: something
 * that no test holds.
 *
 * Without files: all of virtqueue/, device/, transport/ and driver/ of packages/virtio, which takes hours. `--every 10`
 * tries each tenth mutant, `--from` starts at another; `--list` writes each survivor to a file as soon as it is known.
 * The tree itself is never touched: it works in a copy. docs/mutants.md says what came of it.
 */
import { appendFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";
import { copyWithMutants } from "./mutants/copy.mjs";
import { runAsleep, runAwake } from "./mutants/tests.mjs";
import { ensureDependencies, root, say } from "./setup.mjs";

const ROOMS = ["virtqueue", "device", "transport", "driver"];

const given = readArguments(process.argv.slice(2));
ensureDependencies();
const { tree, mutants } = copyWithMutants(given.files, given.tests);
process.on("exit", () => rmSync(tree, { recursive: true, force: true }));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));
const chosen = mutants.filter(({ id }) => id % given.every === given.from);
say(`${chosen.length} of ${mutants.length} mutants; first the tests as they are`);
const { tests, failing } = await runAsleep(tree, given.jobs);
if (failing.length > 0) say(`These fail without a change, and are left out:\n  ${failing.join("\n  ")}`);
if (tests.length === 0) fail("no test passes without a change: run npm test");
/** How often each test file noticed a mutant of each source file: it is asked first the next time. */
const noticed = new Map();
const survivors = [];
let done = 0;
if (given.list !== undefined) writeFileSync(given.list, "");
const waiting = [...chosen];
await Promise.all(Array.from({ length: given.jobs }, work));
survivors.sort((a, b) => a.id - b.id);
console.log(`${chosen.length} mutants, ${survivors.length} survived`);
for (const mutant of survivors) console.log(describe(mutant));

async function work() {
  for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) {
    const files = inOrder(mutant);
    const by = files.length === 0 ? undefined : await runAwake(tree, mutant, files);
    if (by === undefined) survive({ ...mutant, unseen: files.length === 0 });
    else if (by !== "several") remember(mutant, by);
    done++;
    const line = `${done}/${chosen.length}, ${survivors.length} survived`;
    if (process.stderr.isTTY) process.stderr.write(`\r${line} `);
    else if (done % 50 === 0) say(line);
  }
}

function survive(mutant) {
  survivors.push(mutant);
  if (given.list !== undefined) appendFileSync(given.list, `${describe(mutant)}\n`);
}

/** The test files that come by a mutant: those that noticed its neighbours first, then the fastest. */
function inOrder(mutant) {
  const merit = (test) =>
    (noticed.get(`${mutant.file} ${test.file}`) ?? 0) + (isNamesake(mutant, test) ? 1 : 0);
  return tests
    .filter(({ seen }) => seen.has(mutant.id))
    .map((test) => ({ test, rank: merit(test) / (500 + test.milliseconds), milliseconds: test.milliseconds }))
    .sort((a, b) => b.rank - a.rank || a.milliseconds - b.milliseconds)
    .map(({ test }) => test);
}

function remember(mutant, test) {
  const key = `${mutant.file} ${test.file}`;
  noticed.set(key, (noticed.get(key) ?? 0) + 1);
}

function isNamesake(mutant, test) {
  return basename(test.file).startsWith(basename(mutant.file, ".ts"));
}

function describe({ file, line, was, becomes, unseen }) {
  return `${file}:${line}: ${was} -> ${becomes}${unseen ? " (no test comes by)" : ""}`;
}

function readArguments(argv) {
  const read = { files: [], every: 1, from: 0, jobs: availableParallelism(), list: undefined, tests: [] };
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at];
    if (word === "--every") read.every = Number(argv[++at]);
    else if (word === "--from") read.from = Number(argv[++at]);
    else if (word === "--jobs") read.jobs = Number(argv[++at]);
    else if (word === "--list") read.list = argv[++at];
    else if (word === "--tests") read.tests.push(argv[++at]);
    else if (word.startsWith("-")) fail(`unknown option ${word}; see the head of scripts/mutants.mjs`);
    else read.files.push(word);
  }
  if (!(read.every >= 1) || !(read.from >= 0 && read.from < read.every))
    fail("--every is 1 or more, --from below it");
  if (!(read.jobs >= 1)) fail("--jobs is 1 or more");
  if (read.files.length === 0) read.files = ROOMS.flatMap((room) => filesOf(`packages/virtio/src/${room}`));
  if (read.tests.length === 0) read.tests = ["packages/virtio/test"];
  return read;
}

function filesOf(folder) {
  return readdirSync(join(root, folder), { recursive: true })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(folder, name))
    .sort();
}

function fail(text) {
  say(text);
  process.exit(2);
}
