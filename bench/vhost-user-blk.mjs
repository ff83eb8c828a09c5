/**
 * Our vhost-user-blk back-end beside `qemu-storage-daemon`, on the same file, with the same client (our front-end, polling),
 * in one run, alternately. Needs `qemu-storage-daemon` (Debian: qemu-system-common), and `taskset` to pin processes.
 *
 *     node bench/vhost-user-blk.mjs [--seconds 0.3] [--samples 7] [--size MIB] [--no-pin] [--packed] [--only TEXT] [--file PATH]
 *
 * The file is overwritten; it should be on the disk that is to be measured, not in memory.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { dirtyDisk, makeDisk } from "./lib/disk-file.mjs";
import { printTable } from "./lib/table.mjs";
import { Client } from "./vhost-user/client.mjs";

const { values: options } = parseArgs({
  options: {
    seconds: { type: "string", default: "0.3" },
    samples: { type: "string", default: "7" },
    size: { type: "string", default: "256" },
    file: { type: "string" },
    "no-pin": { type: "boolean", default: false },
    packed: { type: "boolean", default: false },
    only: { type: "string", default: "" },
  },
});
const SECONDS = Number(options.seconds);
const SAMPLES = Number(options.samples);
const SIZE = Number(options.size) << 20;
const DAEMON = "qemu-storage-daemon";
/** USER_HZ: what times in /proc are counted in, on every architecture. */
const TICKS = 100;

const WORKLOADS = [
  { what: "4 KiB random read, depth 1", size: 4096, depth: 1, aim: "1.5x" },
  { what: "4 KiB random write, depth 1", size: 4096, depth: 1, write: true, aim: "1.5x" },
  { what: "4 KiB random read, depth 32", size: 4096, depth: 32, aim: "2x" },
  { what: "4 KiB random write, depth 32", size: 4096, depth: 32, write: true, aim: "2x" },
  { what: "128 KiB sequential read, depth 8", size: 128 << 10, depth: 8, sequential: true, aim: "1.5x" },
  {
    what: "128 KiB sequential write, depth 8",
    size: 128 << 10,
    depth: 8,
    sequential: true,
    write: true,
    aim: "1.5x",
  },
];

const directory = mkdtempSync(join(tmpdir(), "vhost-user-bench-"));
const file = options.file ?? join(directory, "disk");
const children = [];
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});
makeDisk(file, SIZE);
/** The file holds what it was made with: workloads write to it. */
let pristine = true;

const canPin =
  !options["no-pin"] && availableParallelism() > 1 && spawnSync("taskset", ["--version"]).status === 0;
if (canPin) spawnSync("taskset", ["-a", "-c", "-p", "0", String(process.pid)]);
console.log(
  canPin ? "The client is pinned to CPU 0, back-ends to CPU 1 (all of their threads)." : "Nothing is pinned.",
);
console.log(
  `Ours: a worker; at its best it polls as long as the daemon's iothread does, with io_uring and a mapped file. ` +
    `${SIZE >> 20} MiB, ${SAMPLES} samples of ${SECONDS} s, ${options.packed ? "packed rings for us, " : ""}split rings.`,
);

const BEST = { aio: "io_uring", pollMaxNs: 32768, mapped: true };
await compare("Hot (page cache)", [
  { name: "ours", start: () => startOurs("ours", {}) },
  { name: "daemon", start: () => startDaemon("daemon", "driver=file", "") },
  { name: "our best", start: () => startOurs("ours-best", BEST) },
  { name: "best daemon", start: () => startDaemon("best", "driver=file,aio=io_uring", "iothread") },
]);
await compare("Cold (O_DIRECT)", [
  { name: "ours", start: () => startOurs("ours-direct", { cache: "none" }) },
  { name: "daemon", start: () => startDaemon("daemon-direct", "driver=file,cache.direct=on", "") },
  { name: "our best", start: () => startOurs("ours-direct-best", { ...BEST, cache: "none" }) },
  {
    name: "best daemon",
    start: () => startDaemon("best-direct", "driver=file,cache.direct=on,aio=io_uring", "iothread"),
  },
]);
process.exit(0);

async function compare(title, contestants) {
  const cold = title.startsWith("Cold");
  if (cold) emptyCache();
  const running = [];
  for (const { name, start } of contestants) {
    const server = await start();
    if (server === undefined) {
      console.log(`\n### ${title}\n\nNot measured: ${name} cannot do this.`);
      for (const other of running) await other.stop();
      return;
    }
    const packed = options.packed && name.startsWith("our");
    const client = await Client.open(server.socket, { packed });
    checkContent(client);
    running.push({
      name,
      client,
      ...server,
      stop: async () => {
        await client.close();
        server.child.kill("SIGKILL");
      },
    });
  }
  pristine = false;
  const speed = [];
  const cost = [];
  for (const workload of WORKLOADS.filter(({ what }) => what.includes(options.only))) {
    const samples = running.map(() => []);
    const ticks = running.map(() => 0);
    const operations = running.map(() => 0);
    if (workload.write && !cold) dirtyDisk(file, SIZE);
    // One round more: the first is the compiler's and the cache's.
    for (let round = -1; round < SAMPLES; round++)
      for (const [i, { client, child }] of running.entries()) {
        const before = cpuTicks(child.pid);
        const result = client.run({ ...workload, seconds: SECONDS, limit: SIZE });
        // What was asked of the operating system is done before the next one's turn.
        await new Promise((resolve) => setTimeout(resolve, 10));
        if (round < 0) continue;
        samples[i].push(result.operations / result.seconds);
        ticks[i] += cpuTicks(child.pid) - before;
        operations[i] += result.operations;
      }
    const perOperation = ticks.map((count, i) => (count / TICKS / operations[i]) * 1e6);
    speed.push({ workload, samples });
    cost.push({ workload, perOperation });
  }
  for (const [us, peer, name] of [
    [0, 1, `${DAEMON}, default`],
    [2, 3, `${DAEMON}, io_uring and iothread`],
  ]) {
    printTable(
      `${title}: throughput`,
      name,
      speed.map(({ workload, samples }) => ({
        what: workload.what,
        unit: workload.sequential ? "MiB/s" : "thousand/s",
        ours: scaled(workload, samples[us]),
        peer: scaled(workload, samples[peer]),
        better: "more",
        aim: `>= ${cold ? "1x" : workload.aim}`,
      })),
    );
    printTable(
      `${title}: processor time of the back-end`,
      name,
      cost.map(({ workload, perOperation }) => ({
        what: workload.what,
        unit: "us an operation",
        ours: [perOperation[us]],
        peer: [perOperation[peer]],
        better: "less",
        aim: ">= 1x",
      })),
    );
  }
  for (const { stop } of running) await stop();
}

function scaled({ sequential, size }, samples) {
  return samples.map((rate) => (sequential ? (rate * size) / (1 << 20) : rate / 1000));
}

/** Nothing of the file waits to be written, and none of it is in the page cache: only `dd` of what Debian always has can do that. */
function emptyCache() {
  const operands = [`of=${file}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"];
  const { status } = spawnSync("dd", operands, { stdio: "inherit" });
  if (status !== 0) throw new Error("the page cache cannot be emptied");
}

/** Whether it is this file that is read. */
function checkContent(client) {
  if (!pristine) return;
  const verify = (block, data) => {
    const found = data[0] | (data[1] << 8) | (data[2] << 16);
    if (found !== block) throw new Error(`block ${block} reads as ${found}`);
  };
  client.run({ size: 4096, depth: 32, seconds: 0.02, limit: SIZE, verify });
}

function serverCommand(command, args) {
  return canPin ? ["taskset", ["-c", "1", command, ...args]] : [command, args];
}

async function startOurs(name, backend) {
  const socket = join(directory, name);
  const script = fileURLToPath(new URL("vhost-user/server.mjs", import.meta.url));
  const [command, args] = serverCommand(process.execPath, [script, socket, file, JSON.stringify(backend)]);
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  const said = await new Promise((resolve) => {
    child.stdout.once("data", (data) => resolve(data.toString().trim()));
    child.once("exit", () => resolve("it ended"));
  });
  if (said === "ready") return { socket, child };
  console.log(`\n${said}`);
  return undefined;
}

async function startDaemon(name, blockdev, iothread) {
  const socket = join(directory, name);
  const thread = iothread === "" ? [] : ["--object", "iothread,id=thread"];
  const [command, args] = serverCommand(DAEMON, [
    ...thread,
    "--blockdev",
    `${blockdev},node-name=disk,filename=${file},locking=off`,
    "--export",
    `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${socket},writable=on` +
      (iothread === "" ? "" : ",iothread=thread"),
  ]);
  const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"] });
  children.push(child);
  for (let i = 0; i < 500 && !existsSync(socket); i++) {
    if (child.exitCode !== null) return undefined;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return existsSync(socket) ? { socket, child } : undefined;
}

/** User and system time of a process with all its threads; `taskset` became it. */
function cpuTicks(pid) {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
