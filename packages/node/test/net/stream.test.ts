import { until } from "@virtio/testkit/until";
import { createConnection, createServer, type Socket } from "node:net";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import type { NetBackend, NetPort } from "virtio/backends/net";
import { NetHub } from "virtio/backends/net-hub";
import type { SocketAddress } from "../../src/net/endpoint.ts";
import { MAX_QUEUED, StreamNetBackend } from "../../src/net/stream.ts";
import { keepAliveTimers } from "../tcp-timers.ts";
import { hasQemu, needsQemu, startQemu } from "../qemu.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function unixPath(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), "virtio-net-"));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  return join(folder, name);
}

/** A device that keeps what it gets. */
class Card implements NetPort {
  readonly frames: Buffer[] = [];
  room = Infinity;
  changes = 0;
  receive(frame: Uint8Array): boolean {
    if (this.frames.length >= this.room) return false;
    this.frames.push(Buffer.from(frame));
    return true;
  }
  linkChanged(): void {
    this.changes++;
  }
}

function plug(backend: NetBackend): Card {
  const card = new Card();
  backend.attach(card);
  return card;
}

async function open(options: Parameters<typeof StreamNetBackend.open>[0]): Promise<StreamNetBackend> {
  const backend = await StreamNetBackend.open(options);
  cleanups.push(() => backend.close());
  return backend;
}

async function pair(address: SocketAddress): Promise<[StreamNetBackend, StreamNetBackend]> {
  const server = await open({ address, server: true });
  const port = server.tcpPort;
  const client = await open({ address: port === undefined ? address : { port } });
  await until(() => server.linkUp && client.linkUp, "both ends connected");
  return [server, client];
}

function frame(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 255);
}

test.each(["tcp", "unix"])("two of ours carry frames of all sizes both ways over %s", async (kind) => {
  const [server, client] = await pair(kind === "tcp" ? { port: 0 } : { path: unixPath("a.sock") });
  const cards = [plug(server), plug(client)] as const;
  const lengths = [1, 14, 60, 1514, 9018, 65535, 65536 + 4096];
  for (const [i, length] of lengths.entries()) {
    expect(server.send(frame(length, i))).toBe(true);
    expect(client.send(frame(length, i + 100))).toBe(true);
  }
  await until(() => cards.every((card) => card.frames.length === lengths.length), "all frames");
  for (const [i, length] of lengths.entries()) {
    expect(cards[1].frames[i]?.equals(frame(length, i))).toBe(true);
    expect(cards[0].frames[i]?.equals(frame(length, i + 100))).toBe(true);
  }
  expect(server.send(new Uint8Array(65536 + 4097))).toBe(false);
});

test("a guest without room stops the peer, whose queue is bounded, and nothing accepted is lost", async () => {
  const [server, client] = await pair({ path: unixPath("slow.sock") });
  const card = plug(server);
  card.room = 3;
  let sent = 0;
  for (let quiet = 0; quiet < 20; quiet++) {
    while (client.send(frame(1514, sent))) {
      sent++;
      quiet = 0;
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  // One queue of ours and what the kernel holds.
  expect(sent * 1514).toBeLessThan(4 * MAX_QUEUED);
  expect(card.frames.length).toBe(3);
  expect(client.dropped).toBeGreaterThan(0);
  card.room = Infinity;
  server.ready();
  await until(() => card.frames.length === sent, "all accepted frames");
  expect(card.frames.every((got, i) => got.equals(frame(1514, i)))).toBe(true);
});

test("frames that came before a device was attached are there afterwards", async () => {
  const [server, client] = await pair({ path: unixPath("early.sock") });
  client.send(frame(100, 1));
  await new Promise((resolve) => setTimeout(resolve, 20));
  const card = plug(server);
  client.send(frame(100, 2));
  await until(() => card.frames.length === 2, "both frames");
  expect(card.frames[0]?.equals(frame(100, 1))).toBe(true);
});

test("a peer with a hostile length is cut off, and the server takes the next one", async () => {
  const errors: string[] = [];
  const path = unixPath("hostile.sock");
  const server = await open({
    address: { path },
    server: true,
    onError: (error) => errors.push(error.message),
  });
  const card = plug(server);
  const hostile = createConnection({ path });
  const cut = new Promise<void>((resolve) => hostile.once("close", () => resolve()));
  hostile.on("error", () => undefined);
  hostile.write(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 1, 2, 3));
  await cut;
  expect(errors).toEqual([expect.stringContaining("longer than 69632 bytes")]);
  await until(() => !server.linkUp, "link down");
  const next = await open({ address: { path } });
  await until(() => server.linkUp, "link up");
  next.send(frame(64, 1));
  await until(() => card.frames.length === 1, "a frame of the next peer");
  expect(card.changes).toBe(3);
});

test("a second peer is turned away while the first is connected", async () => {
  const path = unixPath("two.sock");
  const [server, client] = await pair({ path });
  const second = createConnection({ path });
  second.on("error", () => undefined);
  await new Promise<void>((resolve) => second.once("close", () => resolve()));
  const card = plug(server);
  client.send(frame(60, 1));
  await until(() => card.frames.length === 1, "the first still works");
});

test.skipIf(process.platform !== "linux")(
  "TCP asks for a peer that says nothing, so that one whose machine vanished does not hold the place of the next",
  async () => {
    const [server] = await pair({ port: 0 });
    const timers = keepAliveTimers(server.tcpPort ?? 0);
    expect(timers.length).toBe(2);
    for (const timer of timers) expect(timer).toBeLessThanOrEqual(30_000);
  },
);

test("half a frame of a lost connection does not spoil the next connection", async () => {
  const path = unixPath("half.sock");
  const server = await open({ address: { path }, server: true });
  const card = plug(server);
  const half = createConnection({ path });
  half.end(Uint8Array.of(0, 0, 1, 0, 9, 9));
  await until(() => card.changes === 2, "came and went");
  const next = await open({ address: { path } });
  next.send(frame(60, 4));
  await until(() => card.frames.length === 1, "a whole frame");
  expect(card.frames[0]?.equals(frame(60, 4))).toBe(true);
});

test("a client with reconnect-ms comes back by itself, before and after its server was there", async () => {
  const path = unixPath("again.sock");
  const errors: Error[] = [];
  const client = await open({ address: { path }, reconnectMs: 10, onError: (error) => errors.push(error) });
  expect(client.linkUp).toBe(false);
  expect(client.send(frame(60, 0))).toBe(false);
  await until(() => errors.length > 1, "tries");
  for (let round = 0; round < 2; round++) {
    const server = await StreamNetBackend.open({ address: { path }, server: true });
    const card = plug(server);
    await until(() => client.linkUp && server.linkUp, "connected");
    client.send(frame(60, round));
    await until(() => card.frames.length === 1, "a frame");
    server.close();
    await until(() => !client.linkUp, "disconnected");
  }
});

test("errors at the start name the address", async () => {
  const path = unixPath("none.sock");
  await expect(StreamNetBackend.open({ address: { path } })).rejects.toThrow(`cannot connect to ${path}`);
  const first = await open({ address: { path }, server: true });
  await expect(StreamNetBackend.open({ address: { path }, server: true })).rejects.toThrow(
    `cannot listen on ${path}`,
  );
  // The second server looked whether somebody answers.
  await until(() => !first.linkUp, "the look is over");
  const file = unixPath("file");
  writeFileSync(file, "precious");
  await expect(StreamNetBackend.open({ address: { path: file }, server: true })).rejects.toThrow(
    "cannot listen",
  );
});

test("a socket that a dead process left behind is replaced", async () => {
  const path = unixPath("stale.sock");
  // What a killed process leaves: closing a server in order would remove the file.
  const { execFileSync } = await import("node:child_process");
  const script = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
  expect(() => execFileSync(process.execPath, ["-e", script])).toThrow();
  await pair({ path });
});

/** QEMU as a patch cable: two of its stream netdevs on one of its hubs. */
function qemuCable(ends: readonly string[]): string[] {
  return [
    "-M",
    "none",
    ...ends.flatMap((end, i) => [
      "-netdev",
      `stream,id=s${i},${end}`,
      "-netdev",
      `hubport,id=h${i},hubid=0,netdev=s${i}`,
    ]),
  ];
}

test.skipIf(!hasQemu).each([
  { name: "we connect to its unix server, it connects to our TCP server", serve: [false, true] },
  { name: "we connect twice", serve: [false, false] },
  { name: "it connects twice", serve: [true, true] },
])(needsQemu("frames cross a real QEMU: $name"), async ({ serve }) => {
  const ends: string[] = [];
  const opened: (() => Promise<StreamNetBackend>)[] = [];
  for (const ours of serve) {
    if (ours) {
      const server = await open({ address: { port: 0 }, server: true });
      ends.push(`server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=${server.tcpPort}`);
      opened.push(() => Promise.resolve(server));
    } else {
      const path = unixPath("qemu.sock");
      ends.push(`server=on,addr.type=unix,addr.path=${path}`);
      opened.push(() => open({ address: { path }, reconnectMs: 20 }));
    }
  }
  const qemu = startQemu(qemuCable(ends));
  cleanups.push(() => qemu.stop());
  const [a, b] = await Promise.all(opened.map((end) => end()));
  if (a === undefined || b === undefined) throw new Error("two ends");
  await until(() => a.linkUp && b.linkUp, "QEMU connected");
  const cards = [plug(a), plug(b)] as const;
  const lengths = [60, 64, 1514, 4096, 9018, 65535, 60];
  for (const [i, length] of lengths.entries()) {
    a.send(frame(length, i));
    b.send(frame(length, i + 50));
  }
  await until(() => cards.every((card) => card.frames.length === lengths.length), "frames through QEMU");
  for (const [i, length] of lengths.entries()) {
    expect(cards[1].frames[i]?.equals(frame(length, i))).toBe(true);
    expect(cards[0].frames[i]?.equals(frame(length, i + 50))).toBe(true);
  }
});

test("a hub connects a socket with devices in this process", async () => {
  const hub = new NetHub();
  const [server, client] = await pair({ path: unixPath("hub.sock") });
  const unplug = hub.plug(server);
  const inside = hub.port();
  const card = plug(inside);
  const far = plug(client);
  inside.send(frame(60, 1));
  client.send(frame(60, 2));
  await until(() => far.frames.length === 1 && card.frames.length === 1, "both ways");
  unplug();
  inside.send(frame(60, 3));
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect(far.frames.length).toBe(1);
});

test("what a peer writes without reading anything does not pile up here", async () => {
  const sockets: Socket[] = [];
  const path = unixPath("deaf.sock");
  const deaf = createServer((socket) => sockets.push(socket.pause()));
  await new Promise<void>((resolve) => deaf.listen(path, resolve));
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    deaf.close();
  });
  const client = await open({ address: { path } });
  let accepted = 0;
  for (let i = 0; i < 5000; i++) if (client.send(frame(1514, i))) accepted++;
  // Our queue, and what the kernel's holds.
  expect(accepted * 1518).toBeLessThanOrEqual(MAX_QUEUED + 512 * 1024);
  expect(client.dropped).toBe(5000 - accepted);
});
