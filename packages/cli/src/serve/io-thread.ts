import { writeSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { threadEngine, UringEngine, type FileEngine } from "@virtio/node/block/file-engine";
import { BlockingLoop } from "@virtio/vhost-user/native/blocking-loop";
import type { CharacterBackend } from "virtio/backends/character";

import { DeviceBuilder } from "../boot/build.ts";
import type { DriveDescription } from "../boot/description.ts";
import { openLog } from "../boot/open-log.ts";
import { messageOf } from "../user-error.ts";
import type { IoThreadWork } from "./io-threads.ts";
import { openDevice } from "./open-device.ts";
import type { ServingReport } from "./report.ts";

/** What a worker of `virtio serve` runs: the devices of one thread, until it is told to stop or nobody can come any more. */
const { devices, pollMaxNs, session, logSince } = workerData as IoThreadWork;

/** Milliseconds for what is in flight at the end. A server that hangs would never be done. */
const DRAIN_MS = 5000;

const loop = new BlockingLoop({ pollMaxNs });
let uring: UringEngine | undefined;
const log = await openLog(session, logSince);
const builder = new DeviceBuilder({
  get terminal(): CharacterBackend {
    throw new Error("the terminal belongs to the main thread");
  },
  fileEngine: (aio) => Promise.resolve(engineFor(aio)),
  warn,
});

const running = loop.run();
try {
  const servers = [];
  const thread = {
    builder,
    poller: loop,
    scheduler: loop.scheduler,
    observer: log?.observer,
    session,
    warn,
    say,
  };
  for (const device of devices) servers.push(await openDevice(device, thread));
  const stopped = new Promise((resolve) => parentPort?.once("message", resolve));
  report({ kind: "ready" });
  await Promise.race([stopped, Promise.all(servers.map((server) => server.closed))]);
  await drained(Promise.all(servers.map((server) => server.close())));
} catch (error) {
  report({ kind: "failed", message: messageOf(error) });
} finally {
  parentPort?.close();
  await builder.close();
  uring?.close();
  loop.stop();
  await running;
  loop.close();
  log?.close();
}

/** Waits for what is in flight, though not for ever: what is owed after a while fails when the disks are closed. */
async function drained(closing: Promise<unknown>): Promise<void> {
  const timer = setTimeout(() => {
    warn(`requests are still under way after ${DRAIN_MS / 1000} s: their disks are closed`);
    void builder.close();
  }, DRAIN_MS);
  try {
    await closing;
  } finally {
    clearTimeout(timer);
  }
}

/** Where a kernel or a container allows no io_uring, threads do as well. */
function engineFor(aio: DriveDescription["aio"]): FileEngine {
  if (aio === "threads") return threadEngine;
  try {
    return (uring ??= new UringEngine(loop));
  } catch (error) {
    if (aio === "io_uring")
      throw new Error(`aio=io_uring is not possible: ${messageOf(error)}`, { cause: error });
    return threadEngine;
  }
}

function report(message: ServingReport): void {
  parentPort?.postMessage(message);
}

function say(message: string): void {
  report({ kind: "says", message });
}

/** Straight to the descriptor: a worker's own `process.stderr` waits for the main thread. */
function warn(message: string): void {
  writeSync(2, `virtio: ${message}\n`);
}
