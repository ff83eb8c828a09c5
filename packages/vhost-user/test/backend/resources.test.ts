import { spawnSync } from "node:child_process";
import { mkdtempSync, openSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import type { Poller } from "@virtio/node/native/poller";
import { findProgram, needs } from "@virtio/testkit/needs";
import { until } from "@virtio/testkit/until";
import { featureBits } from "virtio/spec/core";
import { serveVhostUser } from "@virtio/vhost-user/backend/server";
import { Upcalls } from "@virtio/vhost-user/backend/upcalls";
import { Descriptor, closeAll, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createEvent } from "@virtio/vhost-user/native/event";
import { check, natives } from "@virtio/vhost-user/native/libc";
import { F_GETFL, O_NONBLOCK } from "@virtio/vhost-user/native/linux";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { mainLoopPoller } from "@virtio/vhost-user/native/poller";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeLog, encodeU64 } from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { Peer, VERSION_1, serve } from "./peer.ts";
import { setUp } from "./set-up.ts";

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

const PRLIMIT = "prlimit";

/** Runs `work` in a process that can open no descriptor more. */
async function withoutDescriptors(work: () => Promise<void>): Promise<void> {
  const limit = (soft: string): void => {
    const done = spawnSync(PRLIMIT, ["--pid", `${process.pid}`, `--nofile=${soft}:`], { encoding: "utf8" });
    if (done.status !== 0) throw new Error(done.stderr);
  };
  const old = /Max open files\s+(\d+)/.exec(
    spawnSync("cat", [`/proc/${process.pid}/limits`]).stdout.toString(),
  );
  const fillers = Array.from({ length: 40 }, () => createEvent());
  const used = new Set(readdirSync("/proc/self/fd").map(Number));
  let lowest = 0;
  while (used.has(lowest)) lowest++;
  // What is used by the look itself is free again.
  limit(`${Math.min(lowest, Math.max(...fillers.map(({ fd }) => fd)) + 1)}`);
  try {
    await work();
  } finally {
    closeAll(fillers);
    limit(old?.[1] ?? "1024");
  }
}

test.skipIf(findProgram(PRLIMIT) === undefined)(
  needs(
    PRLIMIT,
    "util-linux",
    "a process out of descriptors accepts nobody, says so, and does when it can again",
  ),
  async () => {
    const directory = mkdtempSync(join(tmpdir(), "vhost-user-"));
    const path = join(directory, "socket");
    const errors: string[] = [];
    const server = await serveVhostUser(new EchoDevice(), {
      socket: path,
      label: "a",
      reconnectDelay: 20,
      onError: (error) => errors.push(error.message),
    });
    const client = UnixSocket.connect(path);
    await withoutDescriptors(async () => {
      await until(() => errors.length > 2);
      // Not as often as the loop turns.
      expect(errors.length).toBeLessThan(20);
      expect(new Set(errors)).toEqual(new Set(["accept4: EMFILE"]));
    });
    const peer = new Peer(client);
    await until(() => server.connected);
    await peer.u64(vu.GET_FEATURES);
    peer.close();
    await server.close();
    rmSync(directory, { recursive: true });
  },
);

test("a back-end's channel that is no socket, or cannot be used at all, leaks nothing", async () => {
  for (const kind of [
    () => createEvent(),
    () => new Descriptor(openSync("/proc/self/exe", 0o10000000)),
    () => new Descriptor(openSync("/dev/null", "r+")),
    () => createMemfd("channel", 4096),
  ]) {
    const { peer, end } = await setUp(VERSION_1);
    const channel = kind();
    peer.channel.send(vu.SET_BACKEND_REQ_FD, new Uint8Array(), { descriptors: [channel], needReply: true });
    channel.close();
    await until(() => peer.channel.receive() !== "later");
    await end();
  }
});

test("a dirty log that is larger than any guest needs is refused before it is mapped", async () => {
  const { peer, errors, end } = await setUp(VERSION_1, new EchoDevice(), featureBits(vu.PROTOCOL_F_STATUS));
  const size = 16 * 2 ** 30;
  const memfd = createMemfd("log", size);
  peer.channel.send(vu.SET_LOG_BASE, encodeLog({ size, offset: 0 }), { descriptors: [memfd] });
  memfd.close();
  await until(() => peer.channel.receive() === "end");
  expect(errors.map(({ message }) => message)).toEqual([expect.stringContaining("dirty log of 17179869184")]);
  await end();
});

test("translations that are asked for and never come are not remembered without end", () => {
  const [ours, theirs] = UnixSocket.pair();
  const upcalls = new Upcalls(ours, mainLoopPoller);
  const target = new Uint8Array(0x1_0000);
  let asked = 0;
  const read = (): void => {
    for (let got = theirs.receive(target, []); typeof got === "number"; got = theirs.receive(target, []))
      asked += got / (vu.HEADER_SIZE + 32);
  };
  for (let page = 0; page < 5000; page++) {
    expect(upcalls.translationMissing(page * 4096)).toBe(true);
    read();
  }
  expect(asked).toBe(5000);
  expect(upcalls.missing).toBeLessThanOrEqual(1024);
  // What was asked for just now is not asked for twice.
  expect(upcalls.translationMissing(4999 * 4096)).toBe(true);
  read();
  expect(asked).toBe(5000);
  upcalls.close();
  theirs.close();
});

test("a kick descriptor that blocks does so no more: a peer that reads it itself cannot stop our thread", async () => {
  // A thread's own loop leaves descriptors as they come; Node's main loop would change them.
  const poller: Poller = {
    watch: (fd, ready, settled) =>
      settled === true ? { stop: () => undefined } : mainLoopPoller.watch(fd, ready),
    poll: (task) => mainLoopPoller.poll(task),
  };
  const { server, socket } = await serve(new EchoDevice(), { poller });
  const peer = new Peer(socket);
  await peer.open(VERSION_1);
  const kick = new Descriptor(check(natives().eventfd(0, 0), "eventfd"));
  await peer.must(vu.SET_VRING_KICK, encodeU64(0), [kick]);
  expect(natives().fcntl(kick.fd, F_GETFL, 0) & O_NONBLOCK).toBe(O_NONBLOCK);
  kick.close();
  // What has no such flag at all is refused, and closed.
  const path = new Descriptor(openSync("/proc/self/exe", 0o10000000));
  peer.channel.send(vu.SET_VRING_KICK, encodeU64(0), { descriptors: [path], needReply: true });
  path.close();
  await until(() => peer.channel.receive() !== "later");
  peer.close();
  await server.closed;
});
