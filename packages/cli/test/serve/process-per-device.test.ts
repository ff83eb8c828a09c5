import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { UnixListener, UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { VIRTIO_ID_BLK, VIRTIO_ID_ENTROPY } from "virtio/spec/ids";
import { afterEach, beforeEach, expect, test } from "vitest";
import { command } from "../built.ts";

let folder: string;
let child: ChildProcess | undefined;
let messages = "";

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-processes-"));
  messages = "";
});
afterEach(() => {
  child?.kill("SIGKILL");
  child = undefined;
  rmSync(folder, { recursive: true });
  expect(openDescriptors()).toBe(0);
});

/** Resolves when the server has said this. */
async function said(pattern: RegExp): Promise<void> {
  while (!pattern.test(messages)) {
    if (child?.exitCode !== null) throw new Error(`ended with ${child?.exitCode}: ${messages}`);
    await delay(10);
  }
}

async function serve(argv: readonly string[], passed?: number): Promise<ChildProcess> {
  const stdio = passed === undefined ? [] : [passed];
  child = spawn(process.execPath, [command, "serve", "--process-per-device", ...argv], {
    stdio: ["ignore", "inherit", "pipe", ...stdio],
  });
  child.stderr?.on("data", (bytes: Buffer) => (messages += bytes.toString()));
  await said(/: serving at /);
  return child;
}

async function statusAfter(signal: NodeJS.Signals | undefined, process: ChildProcess): Promise<unknown> {
  const ended = once(process, "exit");
  if (signal !== undefined) process.kill(signal);
  return (await ended)[0];
}

/** The processes that a process started. */
function childrenOf({ pid }: ChildProcess): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return text === "" ? [] : text.split(" ").map(Number);
}

const alive = (pid: number): boolean => existsSync(`/proc/${pid}`);

async function random(socket: string): Promise<void> {
  const transport = await VhostUserTransport.open({ socket, deviceId: VIRTIO_ID_ENTROPY });
  const driver = await EntropyDriver.open(transport);
  const bytes = new Uint8Array(64);
  await driver.read(bytes);
  expect(new Set(bytes).size).toBeGreaterThan(16);
  transport.close();
}

test("each device has a process; one that is killed is named and started again, and the others serve on", async () => {
  const image = join(folder, "disk.img");
  writeFileSync(image, new Uint8Array(64 * 512));
  const [rng, disk] = [join(folder, "rng"), join(folder, "disk")];
  const log = join(folder, "log");
  const server = await serve(
    `entropy --socket ${rng} blk --socket ${disk} --drive file=${image},format=raw --log virtio --log-file ${log}`.split(
      " ",
    ),
  );
  await said(/disk0: serving at .*\/disk\n/);
  const [first, second] = childrenOf(server);
  expect(childrenOf(server)).toHaveLength(2);
  const transport = await VhostUserTransport.open({ socket: disk, deviceId: VIRTIO_ID_BLK });
  const driver = await BlkDriver.open(transport);
  await random(rng);
  process.kill(first ?? -1, "SIGBUS");
  await said(
    /rng0: its process was ended by SIGBUS, as when a front-end takes guest memory away; it is started again\n/,
  );
  // Whoever comes now waits in the socket, which is the same.
  await random(rng);
  // The disk's front-end has noticed nothing.
  await driver.write(0, new Uint8Array(512).fill(7));
  await driver.flush();
  expect(childrenOf(server)).toContain(second);
  expect(await statusAfter("SIGTERM", server)).toBe(0);
  expect(readFileSync(image)[0]).toBe(7);
  expect(readdirSync(folder).sort()).toEqual(["disk.img", "log"]);
  const lines = readFileSync(log, "utf8");
  expect(lines).toMatch(/disk0.*DRIVER_OK/);
  expect(lines).toMatch(/rng0.*DRIVER_OK/);
  transport.close();
});

test("devices on one hub are one process", async () => {
  const [a, b, c] = ["a", "b", "c"].map((name) => join(folder, name));
  const server = await serve(
    `net --socket ${a} --netdev hubport,hubid=0 entropy --socket ${b} net --socket ${c} --netdev hubport,hubid=0`.split(
      " ",
    ),
  );
  await said(/rng0: serving/);
  await said(/net1: serving/);
  expect(childrenOf(server)).toHaveLength(2);
  expect(await statusAfter("SIGINT", server)).toBe(0);
});

test("a device that cannot be made: status 1, its name, and nothing stays behind", async () => {
  const [a, b] = [join(folder, "a"), join(folder, "b")];
  const args = `entropy --socket ${a} blk --socket ${b} --drive file=${folder}/none,format=raw`.split(" ");
  await expect(serve(args).then(() => said(/never/))).rejects.toThrow("ended with 1");
  expect(messages).toMatch(/virtio: disk0: disk .*none.: no such file/);
  expect(messages).not.toMatch(/ {4}at /);
  expect(readdirSync(folder)).toEqual([]);
});

test("processes do not outlive the one that started them", async () => {
  const socket = join(folder, "a");
  const server = await serve(["entropy", "--socket", socket]);
  const [only] = childrenOf(server);
  const ended = once(server, "exit");
  server.kill("SIGKILL");
  await ended;
  while (alive(only ?? -1)) await delay(10);
});

test("a connection that was handed over ends with its process: with 0 when the front-end goes, with 1 when it dies", async () => {
  for (const dies of [false, true]) {
    const path = join(folder, `socket${Number(dies)}`);
    const listener = UnixListener.listen(path);
    const ours = UnixSocket.connect(path);
    const theirs = listener.accept();
    if (theirs === undefined) throw new Error("nobody connected");
    messages = "";
    const server = await serve(["entropy", "--fd", "3"], theirs.fd);
    theirs.close();
    listener.close();
    const ended = statusAfter(undefined, server);
    if (dies) process.kill(childrenOf(server)[0] ?? -1, "SIGKILL");
    else ours.close();
    expect(await ended).toBe(Number(dies));
    if (dies) ours.close();
    expect(messages).toMatch(dies ? /its connection was handed over and is gone/ : /serving at descriptor 3/);
  }
});
