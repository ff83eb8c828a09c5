/**
 * How long a user waits: a command in a guest with and without a saved state, and saving and restoring a machine.
 *
 *     npm run bench:start
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { readV86Wasm } from "@virtio/v86/node";
import { EmbeddedMachine } from "@virtio/v86";
import { median } from "./lib/table.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const SAMPLES = 5;
const MEMORY = 128 << 20;

const command =
  (...options) =>
  () => {
    const argv = ["start", "--silent", "--", ...options, "--run", "true"];
    const { status } = spawnSync("npm", argv, { cwd: root, stdio: ["ignore", "ignore", "inherit"] });
    if (status !== 0) throw new Error(`npm ${argv.join(" ")} ended with ${status}`);
  };

/** Milliseconds of each run; the first is not counted. */
async function sample(count, work) {
  const times = [];
  for (let i = 0; i <= count; i++) {
    const start = performance.now();
    await work();
    times.push(performance.now() - start);
  }
  return times.slice(1);
}

function row(what, times) {
  const [low, high] = [Math.min(...times), Math.max(...times)].map(Math.round);
  console.log(`| ${what} | ${Math.round(median(times))} [${low}-${high}] |`);
}

console.log("| what | ms, median [range] |\n|---|---|");
row("`npm start -- --run true`, state saved before", await sample(SAMPLES, command()));
row("the same without a saved state (`--no-cache`)", await sample(2, command("--no-cache")));
const wasm = await readV86Wasm();
const kernel = readFileSync(new URL("../.virtio/guest/vmlinux", import.meta.url));
const make = () => EmbeddedMachine.create({ memorySize: MEMORY, wasm, kernel, commandLine: "quiet" });
const machine = await make();
machine.run();
// Long enough for Linux to fill its memory with what a booted one has.
await new Promise((resolve) => setTimeout(resolve, 3000));
await machine.pause();
let state;
row("saving a machine of 128 MiB", await sample(SAMPLES, async () => (state = await machine.save())));
row("making one and restoring it", await sample(SAMPLES, async () => (await make()).restore(state)));
process.exit(0);
