/**
 * Our back-end as a process of its own: `node server.mjs SOCKET FILE OPTIONS`, where OPTIONS are those of
 * FileBlockBackend as JSON. Says `ready` when its socket is there.
 */
import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { FileBlockBackend } from "@virtio/node/block/file-block";
import { serveVhostUser } from "@virtio/vhost-user";
import { BlkDevice } from "virtio/devices/blk/device";

const O_DIRECT = { arm64: 0o200000 }[process.arch] ?? 0o40000;
const [, , socket, file, json] = process.argv;
const options = JSON.parse(json);
const backend = new FileBlockBackend(file, { format: "raw", locking: false, ...options });
if (options.cache === "none" && !openedDirectly(file)) {
  console.log("impossible: the file backend does not know cache=none");
  process.exit(0);
}
await serveVhostUser(new BlkDevice(backend, { queueSize: 256 }), { socket, label: "disk" });
console.log("ready");

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
