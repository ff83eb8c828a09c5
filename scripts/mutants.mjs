/**
 * npm run mutants [-- FILE…] [--every N] [--from N] [--tests FOLDER…]: changes the code in one place at a time and runs
 * the tests that should notice. A change that no test notices is a survivor: something that no test holds.
 *
 * Without files: all of virtqueue/, device/, transport/ and driver/ of packages/virtio. `--every 10` tries each tenth
 * mutant, `--from` starts at another. The tree itself is never touched: it works in a copy. Survivors that were looked
 * at are explained in docs/mutants.md.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { ensureDependencies, root, say } from "./setup.mjs";

const ROOMS = ["virtqueue", "device", "transport", "driver"];
const SOURCES = "packages/virtio/src";
/** An endless loop is noticed as well. */
const TIME_LIMIT = 300_000;
const K = ts.SyntaxKind;
/** What the tests of the library need of the tree. */
const COPIED = [
  "package.json",
  "vitest.config.ts",
  "tsconfig.base.json",
  "tsconfig.test.json",
  "packages/virtio",
  "packages/testkit",
];

/** Each operator with the one that is tried instead. */
const OPERATORS = new Map([
  [K.EqualsEqualsEqualsToken, "!=="],
  [K.ExclamationEqualsEqualsToken, "==="],
  [K.LessThanToken, "<="],
  [K.LessThanEqualsToken, "<"],
  [K.GreaterThanToken, ">="],
  [K.GreaterThanEqualsToken, ">"],
  [K.AmpersandAmpersandToken, "||"],
  [K.BarBarToken, "&&"],
  [K.PlusToken, "-"],
  [K.MinusToken, "+"],
  [K.AmpersandToken, "|"],
  [K.BarToken, "&"],
]);

const given = readArguments(process.argv.slice(2));
ensureDependencies();
const tree = copyTree();
process.on("exit", () => rmSync(tree, { recursive: true, force: true }));
process.on("SIGINT", () => process.exit(130));
const mutants = given.files.flatMap(mutantsOf);
const chosen = mutants.filter((_, index) => index % given.every === given.from);
say(`${chosen.length} of ${mutants.length} mutants; first the tests as they are`);
if (!passes()) fail("the tests fail without a change");
const survivors = [];
chosen.forEach((mutant, index) => {
  const path = join(tree, mutant.file);
  const original = readFileSync(path, "utf8");
  writeFileSync(path, original.slice(0, mutant.start) + mutant.text + original.slice(mutant.end));
  const survived = passes();
  writeFileSync(path, original);
  if (survived) {
    survivors.push(mutant);
    say(`\nsurvived: ${describe(mutant)}`);
  }
  if (process.stderr.isTTY)
    process.stderr.write(`\r${index + 1}/${chosen.length}, ${survivors.length} survived `);
});
console.log(`${chosen.length} mutants, ${survivors.length} survived`);
for (const mutant of survivors) console.log(describe(mutant));

/** Every place of a file that can be changed, and what it is changed to. */
function mutantsOf(file) {
  const source = readFileSync(join(root, file), "utf8");
  const parsed = ts.createSourceFile(file, source, ts.ScriptTarget.ES2023, true);
  const found = [];
  const add = (node, text) => {
    const start = node.getStart(parsed);
    const line = parsed.getLineAndCharacterOfPosition(start).line + 1;
    found.push({ file, start, end: node.end, text, line, was: source.slice(start, node.end) });
  };
  const visit = (node) => {
    // Types do nothing, and what is only said to people need not be held by a test.
    if (ts.isTypeNode(node) || ts.isThrowStatement(node) || ts.isImportDeclaration(node)) return;
    if (ts.isBinaryExpression(node)) {
      const other = OPERATORS.get(node.operatorToken.kind);
      if (other !== undefined) add(node.operatorToken, other);
    } else if (node.kind === K.TrueKeyword) add(node, "false");
    else if (node.kind === K.FalseKeyword) add(node, "true");
    else if (ts.isIfStatement(node)) add(node.expression, `!(${node.expression.getText(parsed)})`);
    else if (ts.isExpressionStatement(node) && ts.isCallExpression(node.expression)) add(node, ";");
    ts.forEachChild(node, visit);
  };
  visit(parsed);
  return found;
}

function passes() {
  const argv = ["node_modules/vitest/vitest.mjs", "run", "--bail=1", "--reporter=dot", ...given.tests];
  const options = { cwd: tree, stdio: "ignore", timeout: TIME_LIMIT, killSignal: "SIGKILL" };
  return spawnSync(process.execPath, argv, options).status === 0;
}

/** The sources and tests of the library and of the testkit; the rest is not needed. */
function copyTree() {
  const copy = mkdtempSync(join(tmpdir(), "virtio-mutants-"));
  for (const name of COPIED)
    cpSync(join(root, name), join(copy, name), { recursive: true });
  // Workspaces are links out of node_modules, which must lead into the copy.
  const modules = join(copy, "node_modules");
  cpSync(join(root, "node_modules"), modules, {
    recursive: true,
    filter: (path) => path === join(root, "node_modules") || path.endsWith("/node_modules/@virtio"),
  });
  for (const name of readdirSync(join(root, "node_modules")))
    if (name !== "virtio" && name !== "@virtio")
      symlinkSync(join(root, "node_modules", name), join(modules, name));
  symlinkSync(join(copy, "packages/virtio"), join(modules, "virtio"));
  symlinkSync(join(copy, "packages/testkit"), join(modules, "@virtio/testkit"));
  return copy;
}

function describe({ file, line, was, text }) {
  const short = (part) => part.replaceAll(/\s+/g, " ").slice(0, 70);
  return `${file}:${line}: ${short(was)} -> ${short(text)}`;
}

function readArguments(argv) {
  const read = { files: [], every: 1, from: 0, tests: [] };
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at];
    if (word === "--every") read.every = Number(argv[++at]);
    else if (word === "--from") read.from = Number(argv[++at]);
    else if (word === "--tests") read.tests.push(argv[++at]);
    else if (word.startsWith("-")) fail(`unknown option ${word}; see the head of scripts/mutants.mjs`);
    else read.files.push(word);
  }
  if (!(read.every >= 1) || !(read.from >= 0 && read.from < read.every))
    fail("--every is 1 or more, --from below it");
  if (read.files.length === 0) read.files = ROOMS.flatMap((room) => filesOf(`${SOURCES}/${room}`));
  if (read.tests.length === 0) read.tests = ROOMS.map((room) => `packages/virtio/test/${room}`);
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
