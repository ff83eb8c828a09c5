import { FileBlockBackend } from "@virtio/node/block/file-block";
import { serveVhostUser } from "@virtio/vhost-user/backend/server";
import { BlkDevice } from "virtio/devices/blk/device";

/** A process that serves a file as a disk until it is killed: `node disk.process.js SOCKET FILE`. */
const [, , socket = "", file = ""] = process.argv;
const backend = new FileBlockBackend(file, { format: "raw", locking: false });
await serveVhostUser(new BlkDevice(backend), { socket, label: "disk" });
process.stdout.write("ready\n");
