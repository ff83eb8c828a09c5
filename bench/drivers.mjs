/**
 * Our blk driver beside a C client of libblkio, on the same back-end: `qemu-storage-daemon` with io_uring and an iothread, the file in
 * the page cache. Alternately, in one run; operations a second and processor time of the client.
 *
 *     node bench/drivers.mjs [--seconds 0.5] [--samples 7] [--size MIB] [--no-pin] [--client PATH] [--launcher 'PROGRAM ARGS']
 *
 * Needs `qemu-storage-daemon` (Debian: qemu-system-common). The peer is bench/drivers/blkio-client.c; it is compiled when there are `cc` and
 * libblkio-dev (Debian from 13 on). `--client` is one that is compiled already, `--launcher` a dynamic linker to run it with.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { VhostUserTransport } from "@virtio/vhost-user";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { dirtyDisk, makeDisk } from "./lib/disk-file.mjs";
import { printTable } from "./lib/table.mjs";

const { values: options } = parseArgs({
  options: {
    seconds: { type: "string", default: "0.5" },
    samples: { type: "string", default: "7" },
    size: { type: "string", default: "256" },
    client: { type: "string" },
    launcher: { type: "string", default: "" },
    "no-pin": { type: "boolean", default: false },
  },
});
const SECONDS = Number(options.seconds);
const SAMPLES = Number(options.samples);
const SIZE = Number(options.size) << 20;
const BLOCK = 4096;
const SECTOR = 512;
const BLK = 2;

const directory = mkdtempSync(join(tmpdir(), "virtio-drivers-bench-"));
const file = join(directory, "disk");
const children = [];
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});

const canPin =
  !options["no-pin"] && availableParallelism() > 1 && spawnSync("taskset", ["--version"]).status === 0;
if (canPin) spawnSync("taskset", ["-a", "-c", "-p", "0", String(process.pid)]);
console.log(
  canPin ? "Clients are pinned to CPU 0, the back-end to CPU 1 (all of its threads)." : "Nothing is pinned.",
);
const client = options.client ?? compiled();
if (client === undefined)
  console.log("No C client: `cc` and libblkio-dev are needed, or --client; ours alone is measured.");

const socket = await startDaemon();
const rows = [];
for (const { what, depth, write, aim } of [
  { what: "4 KiB random read, depth 1", depth: 1, write: false },
  { what: "4 KiB random read, depth 32", depth: 32, write: false, aim: ">= 0.9x" },
  { what: "4 KiB random write, depth 32", depth: 32, write: true, aim: ">= 0.9x" },
]) {
  const ours = [];
  const peer = [];
  if (write) dirtyDisk(file, SIZE);
  // One round more: the first is the compiler's and the cache's.
  for (let round = -1; round < SAMPLES; round++) {
    const one = await runOurs(depth, write);
    const other = client === undefined ? undefined : runPeer(depth, write);
    if (round < 0) continue;
    ours.push(one);
    if (other !== undefined) peer.push(other);
  }
  rows.push({ what, aim, ours, peer });
}
const NO_PEER = [{ rate: NaN, cost: NaN }];
for (const [title, unit, better, pick] of [
  ["Throughput", "thousand/s", "more", ({ rate }) => rate / 1000],
  ["Processor time of the client", "us an operation", "less", ({ cost }) => cost],
])
  printTable(
    title,
    "C client of libblkio",
    rows.map(({ what, aim, ours, peer }) => ({
      what,
      unit,
      better,
      aim: better === "more" ? aim : undefined,
      ours: ours.map(pick),
      peer: (peer.length > 0 ? peer : NO_PEER).map(pick),
    })),
  );
process.exit(0);

async function runOurs(depth, write) {
  const transport = await VhostUserTransport.open({ socket, deviceId: BLK });
  const disk = await BlkDriver.open(transport, { depth, transferSize: BLOCK });
  await transport.settled();
  const blocks = SIZE / BLOCK;
  let operations = 0;
  const before = process.cpuUsage();
  const start = performance.now();
  const end = start + SECONDS * 1000;
  const one = async () => {
    const buffer = new Uint8Array(BLOCK);
    while (performance.now() < end) {
      const sector = Math.floor(Math.random() * blocks) * (BLOCK / SECTOR);
      if (write) await disk.write(sector, buffer);
      else await disk.read(sector, buffer);
      operations++;
    }
  };
  await Promise.all(Array.from({ length: depth }, one));
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(before);
  await disk.close();
  return { rate: operations / seconds, cost: (user + system) / operations };
}

function runPeer(depth, write) {
  const argv = [client, socket, String(depth), String(SECONDS), String(SIZE), write ? "write" : "read"];
  const [program, ...args] = [...options.launcher.split(" ").filter((word) => word !== ""), ...argv];
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`the C client ended with ${status}: ${stderr}`);
  const [operations, seconds, busy] = stdout.split(" ").map(Number);
  return { rate: operations / seconds, cost: (busy / operations) * 1e6 };
}

function compiled() {
  const source = fileURLToPath(new URL("drivers/blkio-client.c", import.meta.url));
  const program = join(directory, "blkio-client");
  const { status } = spawnSync("cc", ["-O2", "-o", program, source, "-lblkio"], { stdio: "ignore" });
  return status === 0 ? program : undefined;
}

async function startDaemon() {
  const path = join(directory, "socket");
  makeDisk(file, SIZE);
  const argv = [
    "--object",
    "iothread,id=thread",
    "--blockdev",
    `driver=file,aio=io_uring,node-name=disk,filename=${file},locking=off`,
    "--export",
    `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${path},writable=on,iothread=thread`,
  ];
  const daemon = "qemu-storage-daemon";
  const [command, args] = canPin ? ["taskset", ["-c", "1", daemon, ...argv]] : [daemon, argv];
  children.push(spawn(command, args, { stdio: ["ignore", "inherit", "inherit"] }));
  for (let i = 0; i < 500 && !existsSync(path); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  return path;
}
