import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { findProgram, needs } from "@virtio/testkit/needs";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { Descriptor, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { check, natives } from "@virtio/vhost-user/native/libc";
import { AF_UNIX, SOCK_CLOEXEC } from "@virtio/vhost-user/native/linux";
import { UnixListener, UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { VIRTIO_ID_BLK, VIRTIO_ID_ENTROPY } from "virtio/spec/ids";
import { afterEach, beforeEach, expect, test } from "vitest";
import { command } from "../built.ts";

const SECTOR = 512;
const SOCK_DGRAM = 2;

let folder: string;
let child: ChildProcess | undefined;
let messages = "";

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-serve-"));
  messages = "";
});
afterEach(() => {
  child?.kill("SIGKILL");
  child = undefined;
  rmSync(folder, { recursive: true });
  expect(openDescriptors()).toBe(0);
});

/** Starts `virtio serve`; resolves when it has said `count` times that it serves. */
async function serve(
  argv: readonly string[],
  count: number,
  environment: NodeJS.ProcessEnv = {},
  passed?: number,
): Promise<ChildProcess> {
  const stdio = passed === undefined ? [] : [passed];
  const started = spawn(process.execPath, [command, "serve", ...argv], {
    stdio: ["ignore", "inherit", "pipe", ...stdio],
    env: { ...process.env, ...environment },
  });
  child = started;
  started.stderr?.on("data", (bytes: Buffer) => (messages += bytes.toString()));
  while (messages.split(": serving at ").length <= count) {
    if (started.exitCode !== null) throw new Error(`ended with ${started.exitCode}: ${messages}`);
    await delay(10);
  }
  return started;
}

async function statusAfter(signal: NodeJS.Signals | undefined, process: ChildProcess): Promise<unknown> {
  const ended = once(process, "exit");
  if (signal !== undefined) process.kill(signal);
  return (await ended)[0];
}

function run(...argv: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [command, "serve", ...argv], { encoding: "utf8" });
}

test("a disk and entropy in one process: written, flushed, read; SIGTERM in the middle ends with 0", async () => {
  const image = join(folder, "disk.img");
  const [disk0, rng0] = [join(folder, "disk"), join(folder, "rng")];
  writeFileSync(image, new Uint8Array(64 * SECTOR));
  const log = join(folder, "log");
  const server = await serve(
    [
      `blk,serial=served,num-queues=2 --socket ${disk0} --drive file=${image},format=raw`,
      `entropy --socket ${rng0} --log virtio --log-file ${log}`,
    ].flatMap((part) => part.split(" ")),
    2,
  );
  const transport = await VhostUserTransport.open({ socket: disk0, deviceId: VIRTIO_ID_BLK });
  const disk = await BlkDriver.open(transport);
  expect(disk.info).toMatchObject({ capacity: 64, numQueues: 2 });
  expect(await disk.getId()).toBe("served");
  const data = new Uint8Array(4 * SECTOR).map((_, i) => i * 7);
  await disk.write(8, data);
  await disk.flush();
  const back = new Uint8Array(data.length);
  await disk.read(8, back);
  expect(Buffer.compare(back, data)).toBe(0);
  const source = await VhostUserTransport.open({ socket: rng0, deviceId: VIRTIO_ID_ENTROPY });
  const entropy = await EntropyDriver.open(source);
  const random = new Uint8Array(64);
  await entropy.read(random);
  expect(new Set(random).size).toBeGreaterThan(16);
  // Both front-ends are still there.
  expect(await statusAfter("SIGTERM", server)).toBe(0);
  expect(Buffer.compare(readFileSync(image).subarray(8 * SECTOR, 12 * SECTOR), data)).toBe(0);
  expect(readFileSync(log, "utf8")).toMatch(/disk0.*status .*DRIVER_OK/);
  transport.close();
  source.close();
});

test("a connected socket that was handed over: when the front-end goes, so does the process, with 0", async () => {
  const image = join(folder, "disk.img");
  const path = join(folder, "socket");
  writeFileSync(image, new Uint8Array(SECTOR));
  const listener = UnixListener.listen(path);
  const ours = UnixSocket.connect(path);
  const theirs = listener.accept();
  if (theirs === undefined) throw new Error("nobody connected");
  const server = await serve(["blk", "--blk-file", image, "--read-only", "--fd", "3"], 1, {}, theirs.fd);
  theirs.close();
  listener.close();
  const ended = statusAfter(undefined, server);
  ours.close();
  expect(await ended).toBe(0);
});

test("a service manager hears when it is ready, and when it stops", async () => {
  const path = join(folder, "notify");
  const address = new Uint8Array(110);
  address[0] = AF_UNIX;
  address.set(new TextEncoder().encode(path), 2);
  const fd = check(natives().socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
  check(natives().bind(fd, address, address.length), "bind");
  const manager = new UnixSocket(new Descriptor(fd));
  const heard = async (): Promise<string> => {
    const target = new Uint8Array(64);
    for (;;) {
      const count = manager.receive(target, []);
      if (typeof count === "number") return new TextDecoder().decode(target.subarray(0, count));
      await delay(10);
    }
  };
  try {
    const server = await serve(["entropy", "--socket", join(folder, "rng")], 1, { NOTIFY_SOCKET: path });
    expect(await heard()).toBe("READY=1");
    expect(await statusAfter("SIGINT", server)).toBe(0);
    expect(await heard()).toBe("STOPPING=1");
  } finally {
    manager.close();
  }
});

test("--print-capabilities is JSON as vhost-user.json has it, whatever else is said", () => {
  const asked = run("blk,nonsense=1", "--print-capabilities", "--what");
  expect(asked.status).toBe(0);
  expect(JSON.parse(asked.stdout)).toEqual({ type: "block", features: ["read-only", "blk-file"] });
  expect(JSON.parse(run("entropy", "--print-capabilities").stdout)).toEqual({ type: "rng" });
  expect(JSON.parse(run("--share", ".", "--print-capabilities").stdout)).toEqual({ type: "9p" });
});

test("what cannot be served is a status and a line, and leaves no socket behind", () => {
  const socket = join(folder, "rng");
  const failed = run(
    "entropy",
    "--socket",
    socket,
    "blk",
    "--blk-file",
    join(folder, "none"),
    "--socket",
    "/x",
  );
  expect(failed.status).toBe(1);
  expect(failed.stderr).toMatch(/virtio: disk0: .*none/);
  expect(() => readFileSync(socket)).toThrow("ENOENT");
  const unknown = run("block");
  expect(unknown.status).toBe(1);
  expect(unknown.stderr).toMatch(/Known: 9p, blk, console, entropy, net/);
});

/** Reads 32 random bytes through a driver at this socket. */
async function readEntropy(socket: string): Promise<void> {
  const transport = await VhostUserTransport.open({ socket, deviceId: VIRTIO_ID_ENTROPY });
  const entropy = await EntropyDriver.open(transport);
  const random = new Uint8Array(32);
  await entropy.read(random);
  expect(new Set(random).size).toBeGreaterThan(8);
  await entropy.close();
}

test("sockets of a service manager: by name and in order, for one front-end after the other; they stay its own", async () => {
  const paths = ["disk", "rng", "other"].map((name) => join(folder, name));
  const listeners = paths.map((path) => UnixListener.listen(path));
  writeFileSync(join(folder, "disk.img"), new Uint8Array(8 * SECTOR));
  const devices = [
    "entropy",
    "--socket-fd",
    "rng",
    "blk",
    "--blk-file",
    join(folder, "disk.img"),
    "--fd",
    "3",
    "entropy",
  ];
  // As systemd starts a service: the process whose id is in LISTEN_PID becomes ours.
  const started = spawn(
    "sh",
    ["-c", 'LISTEN_PID=$$ exec "$0" "$@"', process.execPath, command, "serve", ...devices],
    {
      stdio: ["ignore", "inherit", "pipe", ...listeners.map(({ fd }) => fd)],
      env: { ...process.env, LISTEN_FDS: "3", LISTEN_FDNAMES: "disk:rng:rng" },
    },
  );
  child = started;
  started.stderr?.on("data", (bytes: Buffer) => (messages += bytes.toString()));
  const [disk = "", ...sources] = paths;
  // They connect before anybody is there to accept them.
  for (let i = 0; i < 2; i++) await Promise.all(sources.map(readEntropy));
  const transport = await VhostUserTransport.open({ socket: disk, deviceId: VIRTIO_ID_BLK });
  expect((await BlkDriver.open(transport)).info.capacity).toBe(8);
  transport.close();
  expect(await statusAfter("SIGTERM", started)).toBe(0);
  expect(messages).toMatch(/rng0: serving at descriptor 4\n/);
  expect(messages).toMatch(/rng1: serving at descriptor 5\n/);
  for (const path of paths) expect(existsSync(path)).toBe(true);
  for (const listener of listeners) listener.close();
});

const ACTIVATE = "systemd-socket-activate";
test.skipIf(findProgram(ACTIVATE) === undefined)(
  needs(ACTIVATE, "systemd", "systemd starts it when the first front-end comes, and hands its socket over"),
  async () => {
    const socket = join(folder, "rng");
    const started = spawn(
      findProgram(ACTIVATE) ?? "",
      [
        "--listen",
        socket,
        "--fdname=random",
        process.execPath,
        command,
        "serve",
        "entropy",
        "--socket-fd=random",
      ],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    child = started;
    started.stderr.on("data", (bytes: Buffer) => (messages += bytes.toString()));
    while (!messages.includes("Listening on")) await delay(10);
    await readEntropy(socket);
    await readEntropy(socket);
    expect(await statusAfter("SIGTERM", started)).toBe(0);
    expect(messages).toMatch(/rng0: serving at descriptor 3\n/);
  },
);

test("a socket that was passed to another process, a live server's path, and a socket that is none: each is said", async () => {
  const environment = { ...process.env, LISTEN_FDS: "1", LISTEN_PID: "1" };
  const passed = spawnSync(process.execPath, [command, "serve", "entropy"], {
    encoding: "utf8",
    env: environment,
  });
  expect(passed.status).toBe(1);
  expect(passed.stderr).toMatch(
    /needs --socket PATH or --socket-fd N; the sockets of LISTEN_FDS=1 are for process 1/,
  );
  const socket = join(folder, "rng");
  const server = await serve(["entropy", "--socket", socket], 1);
  const second = run("entropy", "--socket", socket);
  expect(second.status).toBe(1);
  expect(second.stderr).toBe(`virtio: rng0: ${socket}: somebody listens there already\n`);
  await readEntropy(socket);
  expect(await statusAfter("SIGTERM", server)).toBe(0);
  const none = run("entropy", "--socket-fd", "999");
  expect(none.status).toBe(1);
  expect(none.stderr).toMatch(/virtio: rng0: descriptor 999: there is/);
});
