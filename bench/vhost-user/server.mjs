/**
 * Our back-end as a process of its own: `node server.mjs SOCKET FILE OPTIONS`, where OPTIONS are JSON: those of FileBlockBackend,
 * `aio`, and `pollMaxNs`. Says `ready` when its socket is there.
 */
import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { FileBlockBackend } from "@virtio/node/block/file-block";
import { threadEngine, UringEngine } from "@virtio/node/block/file-engine";
import { BlockingLoop, serveVhostUser } from "@virtio/vhost-user";
import { BlkDevice } from "virtio/devices/blk/device";

const O_DIRECT = { arm64: 0o200000 }[process.arch] ?? 0o40000;

if (isMainThread) {
  const [, , socket, file, json] = process.argv;
  const worker = new Worker(new URL(import.meta.url), { workerData: { socket, file, ...JSON.parse(json) } });
  worker.once("message", (said) => console.log(said));
} else {
  const { socket, file, aio, pollMaxNs, ...options } = workerData;
  const loop = new BlockingLoop({ pollMaxNs });
  const engine = aio === "threads" ? threadEngine : new UringEngine(loop);
  const backend = new FileBlockBackend(file, { format: "raw", locking: false, engine, ...options });
  if (options.cache === "none" && !openedDirectly(file))
    throw new Error("the file was not opened with O_DIRECT");
  const device = new BlkDevice(backend, { queueSize: 256 });
  await serveVhostUser(device, { socket, label: "disk", poller: loop, scheduler: loop.scheduler });
  parentPort.postMessage("ready");
  await loop.run();
}

/** So that what is measured is what was asked for. */
function openedDirectly(path) {
  return readdirSync("/proc/self/fd").some((fd) => {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`) !== path) return false;
      const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
      return (parseInt(flags, 8) & O_DIRECT) !== 0;
    } catch {
      return false;
    }
  });
}
