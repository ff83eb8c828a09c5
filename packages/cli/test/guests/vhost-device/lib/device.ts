import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { packageFiles } from "@virtio/cli/guest/packages";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { VhostUserTransport } from "@virtio/vhost-user";
import { VsockDriver } from "virtio/drivers/vsock/driver";
import type { VsockSocket } from "virtio/drivers/vsock/socket";
import { VIRTIO_ID_VSOCK } from "virtio/spec/ids";

/** Debian's releases do not have it yet. It runs with the libraries of its own release. */
const PACKAGE = { name: "vhost-device-vsock", suite: "sid", architecture: "amd64", dependencies: true };
export const HOST = 2;
/** Of the two devices. */
export const CID = 42;
export const SIBLING = 43;
/** Payload of a packet that fits any driver's receive buffers: between its devices this one loses what is longer. */
const FITTING = 2048;

/** vhost-device-vsock with two devices, whose drivers reach each other; in `folder` are their sockets `vhost0`, `uds0`, `vhost1`, `uds1`. */
export async function startDevices(folder: string): Promise<ChildProcess> {
  const files = await packageFiles(homeFolder(), PACKAGE, new Progress());
  const libraries = join(files, "usr/lib/x86_64-linux-gnu");
  const devices = [CID, SIBLING].flatMap((cid, i) => [
    "--vm",
    `guest-cid=${cid},socket=${join(folder, `vhost${i}`)},uds-path=${join(folder, `uds${i}`)}`,
  ]);
  const child = spawn(
    join(libraries, "ld-linux-x86-64.so.2"),
    ["--library-path", libraries, join(files, "usr/bin/vhost-device-vsock"), ...devices],
    { stdio: "ignore" },
  );
  for (let i = 0; i < 500 && !existsSync(join(folder, "vhost1")); i++) await delay(10);
  return child;
}

/** Our driver on one of them. */
export async function openDriver(socket: string): Promise<VsockDriver> {
  const transport = await VhostUserTransport.open({
    socket,
    deviceId: VIRTIO_ID_VSOCK,
    queues: 3,
    configLength: 8,
  });
  const driver = await VsockDriver.open(transport);
  await transport.settled();
  return driver;
}

/** Writes in packets that both ends have room for. */
export async function send(socket: VsockSocket, data: Uint8Array): Promise<void> {
  for (let at = 0; at < data.length; at += FITTING) await socket.write(data.subarray(at, at + FITTING));
}

/** All that comes until the end. */
export async function all(socket: VsockSocket): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const bytes of socket) pieces.push(bytes);
  return Buffer.concat(pieces);
}
