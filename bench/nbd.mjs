/**
 * Our NBD client beside others, all on one `nbdkit` that serves memory, alternately:
 *
 * - as the disk of a vhost-user back-end: `virtio serve` beside `qemu-storage-daemon`, with the same client (our front-end, polling);
 * - alone: beside fio's engine `nbd`, which is libnbd.
 *
 * Needs `nbdkit`, `qemu-storage-daemon` (Debian: qemu-system-common), `fio`, and `taskset` to pin processes.
 *
 *     node bench/nbd.mjs [--seconds 0.5] [--samples 7] [--size MIB] [--no-pin] [--only TEXT]
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { NbdBlockBackend } from "@virtio/node/nbd/nbd-block";
import { printTable } from "./lib/table.mjs";
import { Client } from "./vhost-user/client.mjs";

const { values: options } = parseArgs({
  options: {
    seconds: { type: "string", default: "0.5" },
    samples: { type: "string", default: "7" },
    size: { type: "string", default: "256" },
    "no-pin": { type: "boolean", default: false },
    only: { type: "string", default: "" },
  },
});
const SECONDS = Number(options.seconds);
const SAMPLES = Number(options.samples);
const SIZE = Number(options.size) << 20;
const COMMAND = fileURLToPath(new URL("../packages/cli/bin/virtio.js", import.meta.url));

/** USER_HZ: what times in /proc are counted in, on every architecture. */
const TICKS = 100;

const WORKLOADS = [
  { what: "4 KiB random read, depth 1", size: 4096, depth: 1 },
  { what: "4 KiB random write, depth 1", size: 4096, depth: 1, write: true },
  { what: "4 KiB random read, depth 32", size: 4096, depth: 32 },
  { what: "4 KiB random write, depth 32", size: 4096, depth: 32, write: true },
  { what: "128 KiB sequential read, depth 8", size: 128 << 10, depth: 8, sequential: true },
  { what: "128 KiB sequential write, depth 8", size: 128 << 10, depth: 8, sequential: true, write: true },
].filter(({ what }) => what.includes(options.only));

const directory = mkdtempSync(join(tmpdir(), "nbd-bench-"));
const nbd = join(directory, "nbd");
const uri = `nbd+unix:///?socket=${nbd}`;
const children = [];
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});

const canPin =
  !options["no-pin"] && availableParallelism() > 1 && spawnSync("taskset", ["--version"]).status === 0;
console.log(canPin ? "Clients are pinned to CPU 0, servers and back-ends to CPU 1." : "Nothing is pinned.");
console.log(`${SIZE >> 20} MiB, ${SAMPLES} samples of ${SECONDS} s.`);
// Memory, so that no disk of this host is measured.
await start("nbdkit", ["-f", "-U", nbd, "memory", `${SIZE}`], nbd);
await fill();
if (canPin) spawnSync("taskset", ["-a", "-c", "-p", "0", String(process.pid)]);
await behindVhostUser();
await alone();
process.exit(0);

async function behindVhostUser() {
  const [ours, peer] = [join(directory, "ours"), join(directory, "peer")];
  const ourPid = await start(
    process.execPath,
    [COMMAND, "serve", "blk", "--socket", ours, "--blk-file", uri],
    ours,
  );
  const blockdev = `driver=nbd,node-name=disk,server.type=unix,server.path=${nbd}`;
  const exported = `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${peer},writable=on`;
  const peerPid = await start("qemu-storage-daemon", ["--blockdev", blockdev, "--export", exported], peer);
  const clients = [await Client.open(ours), await Client.open(peer)];
  const pids = [ourPid, peerPid];
  const { speed, cost } = await measure((workload, which) => {
    const before = cpuTicks(pids[which]);
    const result = clients[which].run({ ...workload, seconds: SECONDS, limit: SIZE });
    return { ...result, ticks: () => cpuTicks(pids[which]) - before };
  });
  printTable("As a vhost-user disk: throughput", "qemu-storage-daemon", speed);
  printTable("As a vhost-user disk: processor time of the back-end", "qemu-storage-daemon", cost);
  for (const client of clients) await client.close();
}

async function alone() {
  const disk = await NbdBlockBackend.open(uri);
  const { speed } = await measure((workload, which) =>
    which === 0 ? direct(disk, workload) : fio(workload),
  );
  printTable("The client alone", "fio with libnbd", speed);
  await disk.close();
}

/** The workloads, each by both, in turns. */
async function measure(run) {
  const [speed, cost] = [[], []];
  for (const workload of WORKLOADS) {
    const samples = [[], []];
    const spent = [0, 0];
    const done = [0, 0];
    // One round more: the first is the compiler's and the cache's.
    for (let round = -1; round < SAMPLES; round++)
      for (const which of [0, 1]) {
        const { operations, seconds, ticks } = await run(workload, which);
        // What was asked of the operating system is done before the next one's turn.
        await new Promise((resolve) => setTimeout(resolve, 10));
        if (round < 0) continue;
        samples[which].push(operations / seconds);
        spent[which] += ticks?.() ?? 0;
        done[which] += operations;
      }
    const scale = workload.sequential ? workload.size / (1 << 20) : 1 / 1000;
    const [ours, peer] = samples.map((list) => list.map((rate) => rate * scale));
    const { what } = workload;
    speed.push({ what, unit: workload.sequential ? "MiB/s" : "thousand/s", ours, peer, better: "more" });
    const [ourCost, peerCost] = spent.map((count, i) => [(count / TICKS / done[i]) * 1e6]);
    cost.push({ what, unit: "us an operation", ours: ourCost, peer: peerCost, better: "less" });
  }
  return { speed, cost };
}

/** Otherwise there would be holes, which cost less. */
async function fill() {
  const disk = await NbdBlockBackend.open(uri);
  await disk.write(0, new Uint8Array(SIZE).fill(1));
  await disk.close();
}

async function direct(disk, { size, depth, write, sequential }) {
  const blocks = SIZE / size;
  let [next, operations] = [0, 0];
  const began = performance.now();
  const end = began + SECONDS * 1000;
  const job = async () => {
    const buffer = new Uint8Array(size);
    while (performance.now() < end) {
      const offset = (sequential ? next++ % blocks : Math.floor(Math.random() * blocks)) * size;
      await (write ? disk.write(offset, buffer) : disk.read(offset, buffer));
      operations++;
    }
  };
  await Promise.all(Array.from({ length: depth }, job));
  return { operations, seconds: (performance.now() - began) / 1000 };
}

async function fio({ size, depth, write, sequential }) {
  const mode = `${sequential ? "" : "rand"}${write ? "write" : "read"}`;
  const argv = [
    "--name=nbd",
    "--ioengine=nbd",
    `--uri=${uri}`,
    "--output-format=json",
    "--time_based=1",
    "--norandommap=1",
    "--thread=1",
    `--rw=${mode}`,
    `--bs=${size}`,
    `--iodepth=${depth}`,
    `--runtime=${Math.ceil(SECONDS * 1000)}ms`,
    `--size=${SIZE}`,
  ];
  const child = spawn("fio", argv, { cwd: directory, stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  for await (const piece of child.stdout.setEncoding("utf8")) text += piece;
  const [{ read, write: written }] = JSON.parse(text.slice(text.indexOf("{"))).jobs;
  const { iops } = write ? written : read;
  return { operations: iops, seconds: 1 };
}

/** Starts a program; resolves with its process id when its socket is there. */
async function start(program, argv, socket) {
  const [command, args] = canPin ? ["taskset", ["-c", "1", program, ...argv]] : [program, argv];
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (bytes) => (said += bytes));
  children.push(child);
  for (let i = 0; i < 1000 && !existsSync(socket); i++) {
    if (child.exitCode !== null) throw new Error(`${program}: ${said}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return child.pid;
}

/** User and system time of a process with all its threads; `taskset` became it. */
function cpuTicks(pid) {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
