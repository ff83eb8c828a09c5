import { until } from "@virtio/testkit/until";
import { existsSync, fstatSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { serveVhostUser, type VhostUserServer } from "@virtio/vhost-user/backend/server";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { natives } from "@virtio/vhost-user/native/libc";
import { UnixListener, UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import type { SharedObjectExchange } from "@virtio/vhost-user/backend/shared-objects";
import { AKCIPHER_CREATE_SESSION, encodeCryptoSession } from "@virtio/vhost-user/protocol/crypto-session";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { EchoDevice } from "./echo-device.ts";
import { EveryDevice } from "./every-device.ts";
import { Peer, PeerRing, VERSION_1, turn } from "./peer.ts";

const rsa = {
  operation: AKCIPHER_CREATE_SESSION,
  algorithm: 1,
  keyType: 1,
  rsaPadding: 0,
  rsaHash: 0,
  key: new Uint8Array(64),
};
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "vhost-user-"));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

/** One request through a new connection. */
async function useOnce(socket: UnixSocket): Promise<void> {
  const peer = new Peer(socket);
  await peer.open(VERSION_1);
  const ring = new PeerRing(peer, VERSION_1);
  await ring.start();
  ring.offer(new Uint8Array([1]), 4);
  ring.notify();
  await ring.used();
  ring.close();
  peer.close();
}

test("one front-end after the other, each with a device that was reset; the socket goes with the server", async () => {
  const path = join(directory, "socket");
  const device = new EchoDevice();
  const events: string[] = [];
  const server = await serveVhostUser(device, {
    socket: path,
    label: "disk0",
    onConnect: () => events.push("connected"),
    onDisconnect: () => events.push("gone"),
  });
  for (let i = 1; i <= 3; i++) {
    await useOnce(UnixSocket.connect(path));
    await until(() => events.length === 2 * i);
    expect(device.resets).toBe(i);
    expect(server.instance.memory.contiguous(0x1000_0000, 1)).toBe(0);
  }
  expect(device.done).toEqual([1, 1, 1]);
  // The next one may wait while one is served.
  const first = new Peer(UnixSocket.connect(path));
  await first.open(VERSION_1);
  const second = useOnce(UnixSocket.connect(path));
  await turn();
  expect(device.done.length).toBe(3);
  first.close();
  await second;
  expect(device.done.length).toBe(4);
  await server.close();
  await server.closed;
  expect(existsSync(path)).toBe(false);
});

test("several devices in one process do not know of each other", async () => {
  const devices = [new EchoDevice(), new EchoDevice()];
  const servers = await Promise.all(
    devices.map((device, i) =>
      serveVhostUser(device, { socket: join(directory, `${i}`), label: `disk${i}` }),
    ),
  );
  await Promise.all(devices.map((_, i) => useOnce(UnixSocket.connect(join(directory, `${i}`)))));
  expect(devices.map((device) => device.done)).toEqual([[1], [1]]);
  await Promise.all(servers.map((server) => server.close()));
});

test("a socket file of a dead process is taken over; one that is in use, and any other file, is not", async () => {
  const path = join(directory, "socket");
  const dead = UnixListener.listen(path);
  dead.close();
  const server = await serveVhostUser(new EchoDevice(), { socket: path, label: "a" });
  await expect(serveVhostUser(new EchoDevice(), { socket: path, label: "b" })).rejects.toThrow(
    "somebody listens there",
  );
  await server.close();
  writeFileSync(path, "a file");
  await expect(serveVhostUser(new EchoDevice(), { socket: path, label: "c" })).rejects.toThrow(
    "is no socket",
  );
  expect(existsSync(path)).toBe(true);
});

test("connecting: it waits for the front-end, and comes back after it went", async () => {
  const path = join(directory, "socket");
  const device = new EchoDevice();
  const server = await serveVhostUser(device, {
    socket: path,
    mode: "connect",
    label: "a",
    reconnectDelay: 5,
  });
  await turn();
  const listener = UnixListener.listen(path);
  for (let i = 1; i <= 2; i++) {
    let socket: UnixSocket | undefined;
    await until(() => (socket = listener.accept()) !== undefined);
    if (socket !== undefined) await useOnce(socket);
    expect(device.done.length).toBe(i);
  }
  listener.close();
  await server.close();
});

test("a listening socket that somebody else made", async () => {
  const path = join(directory, "socket");
  const listener = UnixListener.listen(path);
  const device = new EchoDevice();
  const server = await serveVhostUser(device, { socket: listener.descriptor.release(), label: "a" });
  await useOnce(UnixSocket.connect(path));
  await useOnce(UnixSocket.connect(path));
  expect(device.done.length).toBe(2);
  await server.close();
  expect(existsSync(path)).toBe(true);
});

test("a device of which requests are in flight when the front-end dies is reset only when they are done", async () => {
  const path = join(directory, "socket");
  const device = new EchoDevice();
  const server = await serveVhostUser(device, { socket: path, label: "a" });
  const peer = new Peer(UnixSocket.connect(path));
  await peer.open(VERSION_1);
  const ring = new PeerRing(peer, VERSION_1);
  await ring.start();
  device.deferred = true;
  ring.offer(new Uint8Array([1]), 4);
  ring.notify();
  await until(() => device.waiting === 1);
  ring.close();
  peer.close();
  await turn();
  await turn();
  expect(device.resets).toBe(0);
  expect(server.connected).toBe(true);
  device.release();
  await until(() => !server.connected);
  expect(device.resets).toBe(1);
  expect(device.done).toEqual([1]);
  device.deferred = false;
  await useOnce(UnixSocket.connect(path));
  await server.close();
});

test("beside a live server it is refused, and that one goes on, idle or busy", async () => {
  const path = join(directory, "socket");
  const device = new EchoDevice();
  const server = await serveVhostUser(device, { socket: path, label: "a" });
  const second = (): Promise<VhostUserServer> =>
    serveVhostUser(new EchoDevice(), { socket: path, label: "b" });
  await expect(second()).rejects.toThrow(`${path}: somebody listens there already`);
  await until(() => !server.connected);
  const peer = new Peer(UnixSocket.connect(path));
  await peer.u64(vu.GET_FEATURES);
  // Busy with a front-end.
  await expect(second()).rejects.toThrow("somebody listens there already");
  await peer.u64(vu.GET_FEATURES);
  peer.close();
  await useOnce(UnixSocket.connect(path));
  await server.close();
});

test("what is at its path by then is not removed when it is another's", async () => {
  const path = join(directory, "socket");
  const server = await serveVhostUser(new EchoDevice(), { socket: path, label: "a" });
  rmSync(path);
  const other = await serveVhostUser(new EchoDevice(), { socket: path, label: "b" });
  await server.close();
  expect(existsSync(path)).toBe(true);
  await other.close();
  expect(existsSync(path)).toBe(false);
});

test("a descriptor that is no Unix stream socket is refused, and closed", async () => {
  const serve = (fd: number): Promise<VhostUserServer> =>
    serveVhostUser(new EchoDevice(), { socket: fd, label: "a" });
  const file = openSync("/dev/null", "r");
  await expect(serve(file)).rejects.toThrow(`descriptor ${file}: ENOTSOCK`);
  expect(() => fstatSync(file)).toThrow("EBADF");
  for (const [domain, type] of [
    [1, 2],
    [2, 1],
  ] as const) {
    const fd = natives().socket(domain, type, 0);
    await expect(serve(fd)).rejects.toThrow(`descriptor ${fd} is no Unix stream socket`);
    expect(() => fstatSync(fd)).toThrow("EBADF");
  }
});

test("a device that throws when a front-end is gone: it is said, all is given back, and the next one is served", async () => {
  const path = join(directory, "socket");
  const device = new EveryDevice();
  const close = device.closeCryptoSession.bind(device);
  const share = device.shareWith.bind(device);
  const reset = device.reset.bind(device);
  Object.assign(device, {
    reset: () => {
      reset();
      if (device.resets === 1) throw new Error("cannot reset");
    },
    closeCryptoSession: (id: number) => {
      close(id);
      throw new Error("cannot close");
    },
    shareWith: (exchange: SharedObjectExchange | undefined) => {
      share(exchange);
      if (exchange === undefined) throw new Error("cannot let go");
    },
  });
  const errors: string[] = [];
  const onError = (error: Error): void => void errors.push(error.message);
  const server = await serveVhostUser(device, { socket: path, label: "a", onError });
  for (let i = 1; i <= 2; i++) {
    const peer = new Peer(UnixSocket.connect(path));
    await peer.open(VERSION_1);
    const [ours, theirs] = UnixSocket.pair();
    await peer.must(vu.SET_BACKEND_REQ_FD, new Uint8Array(), [theirs.descriptor]);
    theirs.close();
    await peer.ask(vu.CREATE_CRYPTO_SESSION, encodeCryptoSession(rsa));
    const ring = new PeerRing(peer, VERSION_1);
    await ring.start();
    ring.offer(new Uint8Array([1]), 4);
    ring.notify();
    await ring.used();
    ring.close();
    ours.close();
    peer.close();
    await until(() => !server.connected);
    expect(server.instance.memory.contiguous(0x1000_0000, 1)).toBe(0);
  }
  expect(errors).toEqual(["cannot let go", "cannot reset", "cannot let go", "cannot close"]);
  await server.close();
  device.close();
});

test("a socket is for this user, and for the group where the umask lets it; for others never", async () => {
  const path = join(directory, "socket");
  const before = process.umask(0);
  try {
    for (const [umask, mode] of [
      [0, 0o660],
      [0o007, 0o660],
      [0o022, 0o640],
      [0o077, 0o600],
    ] as const) {
      process.umask(umask);
      const server = await serveVhostUser(new EchoDevice(), { socket: path, label: "device0" });
      expect(statSync(path).mode & 0o777).toBe(mode);
      await server.close();
    }
  } finally {
    process.umask(before);
  }
});
