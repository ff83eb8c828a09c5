import { until } from "@virtio/testkit/until";
import { ftruncateSync, openSync, readdirSync } from "node:fs";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { Descriptor, closeAll, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createEvent, signalEvent } from "@virtio/vhost-user/native/event";
import { check, natives } from "@virtio/vhost-user/native/libc";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import { encodeMessage } from "@virtio/vhost-user/protocol/message";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { AKCIPHER_CREATE_SESSION, encodeCryptoSession } from "@virtio/vhost-user/protocol/crypto-session";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { EveryDevice } from "./every-device.ts";
import { uuid } from "./sharing-device.ts";
import { GUEST, PACKED, Peer, PeerRing, RAM, USER, VERSION_1, serve, turn } from "./peer.ts";

const processDescriptors = (): number => readdirSync("/proc/self/fd").length;

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

/** Descriptors of every kind that a peer may send. */
const kinds: readonly (() => Descriptor)[] = [
  createEvent,
  () => createMemfd("peer", 0x4000),
  () => new Descriptor(openSync("/dev/null", "r")),
  () => new Descriptor(openSync("/proc/self/exe", "r")),
  () => {
    const [left, right] = UnixSocket.pair();
    right.close();
    return left.descriptor;
  },
  () => new Descriptor(check(natives().epoll_create1(0), "epoll_create1")),
  () => {
    const event = createEvent();
    signalEvent(event.fd);
    return event;
  },
  // Memory that is smaller than what is said of it.
  () => {
    const fd = check(natives().memfd_create(new TextEncoder().encode("small\0"), 3), "memfd_create");
    ftruncateSync(fd, 0x1000);
    return new Descriptor(fd);
  },
];

const u32 = fc.oneof(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 0xffff_ffff }));
const u64 = fc.oneof(
  fc.constantFrom(
    0n,
    1n,
    0x100n,
    0x101n,
    BigInt(GUEST),
    BigInt(USER),
    BigInt(USER + 0x1000),
    1n << 53n,
    (1n << 64n) - 1n,
  ),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);
const session = encodeCryptoSession({
  operation: AKCIPHER_CREATE_SESSION,
  algorithm: 1,
  keyType: 1,
  rsaPadding: 0,
  rsaHash: 0,
  key: new Uint8Array(64),
});
/** Payloads that look like something: 64-bit numbers, index and value, or any bytes. */
const body = fc.oneof(
  fc.array(u64, { maxLength: 9 }).map((words) => new Uint8Array(new BigUint64Array(words).buffer)),
  fc.integer({ min: 0, max: 3 }).map(uuid),
  fc.constant(session),
  fc.tuple(u32, u32).map(([index, value]) => payload.encodeVringState({ index, value })),
  fc.uint8Array({ maxLength: 300 }),
);
const message = fc.record({
  request: fc.oneof(
    { arbitrary: fc.integer({ min: 0, max: 46 }), weight: 20 },
    { arbitrary: u32, weight: 1 },
  ),
  body,
  descriptors: fc.array(fc.integer({ min: 0, max: kinds.length - 1 }), { maxLength: 3 }),
  needReply: fc.boolean(),
  /** Bytes that are left out at the end; a lying size. */
  missing: fc.oneof(
    { arbitrary: fc.constant(0), weight: 30 },
    { arbitrary: fc.integer({ min: 1, max: 20 }), weight: 1 },
  ),
});

/** Sends what is given and reads what comes back, until the connection ends or all is sent. */
async function bombard(
  peer: Peer,
  messages: readonly {
    readonly request: number;
    readonly body: Uint8Array;
    readonly descriptors: readonly number[];
    readonly needReply: boolean;
    readonly missing: number;
  }[],
): Promise<void> {
  for (const { request, body: bytes, descriptors, needReply, missing } of messages) {
    const sent = descriptors.map((kind) => (kinds[kind] ?? createEvent)());
    const whole = encodeMessage(request, bytes, { needReply });
    const alive = peer.channel.socket.send(whole.subarray(0, Math.max(1, whole.length - missing)), sent);
    closeAll(sent);
    if (!alive) return;
    await turn();
    const reply = peer.channel.receive();
    if (reply === "end") return;
    if (reply !== "later") closeAll(reply.descriptors);
  }
}

test("any messages before anything is set up: refused or done, nothing leaks", async () => {
  const before = processDescriptors();
  await fc.assert(
    fc.asyncProperty(fc.array(message, { maxLength: 25 }), async (messages) => {
      const device = new EveryDevice();
      const { server, socket } = await serve(device);
      const peer = new Peer(socket);
      await bombard(peer, messages);
      peer.close();
      await server.closed;
      device.close();
      expect(openDescriptors()).toBe(0);
    }),
    { numRuns: 150 },
  );
  expect(processDescriptors()).toBe(before);
});

test.each([VERSION_1, VERSION_1 | PACKED])(
  "any messages to a session whose rings run (features %s): refused or done, nothing leaks",
  async (features) => {
    const before = processDescriptors();
    await fc.assert(
      fc.asyncProperty(fc.array(message, { maxLength: 25 }), fc.boolean(), async (messages, deferred) => {
        const device = new EveryDevice();
        const { server, socket } = await serve(device);
        const peer = new Peer(socket);
        await peer.open(features);
        const ring = new PeerRing(peer, features);
        await ring.start();
        device.deferred = deferred;
        for (let i = 0; i < 4; i++) ring.offer(new Uint8Array([i]), 16);
        ring.notify(true);
        await turn();
        const release = setInterval(() => device.release(), 1);
        await bombard(peer, messages);
        ring.close();
        peer.close();
        await server.closed;
        clearInterval(release);
        device.close();
        expect(openDescriptors()).toBe(0);
      }),
      { numRuns: 80 },
    );
    expect(processDescriptors()).toBe(before);
  },
);

test("an inflight record of any contents is taken up or refused, in bounded time", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.boolean(),
      fc.uint8Array({ minLength: 600, maxLength: 600 }),
      fc.integer({ min: 0, max: 0xffff }),
      async (packed, bytes, base) => {
        const features = packed ? VERSION_1 | PACKED : VERSION_1;
        const { server, socket } = await serve(new EchoDevice());
        const peer = new Peer(socket);
        await peer.open(features);
        const ring = new PeerRing(peer, features);
        const asked = payload.encodeInflight({ size: 0, offset: 0, queues: 1, queueSize: 16 });
        const reply = await peer.ask(vu.GET_INFLIGHT_FD, asked);
        const [inflight] = reply.descriptors;
        if (inflight === undefined) throw new Error("no descriptor");
        // Entries that look like the real ones, among garbage.
        for (let i = 16; i < bytes.length; i += 16) bytes[i] = (bytes[i] ?? 0) & 1;
        bytes[8] = 1;
        bytes[9] = 0;
        natives().write(inflight.fd, bytes, bytes.length);
        await peer.must(vu.SET_INFLIGHT_FD, reply.payload, [inflight]);
        inflight.close();
        await ring.start(base).catch(() => undefined);
        ring.notify(true);
        await turn();
        ring.close();
        peer.close();
        await server.closed;
        expect(openDescriptors()).toBe(0);
      },
    ),
    { numRuns: 150 },
  );
});

test("messages that come byte by byte are whole ones; one that never ends is let go with its descriptors", async () => {
  const { server, socket } = await serve(new EchoDevice());
  const peer = new Peer(socket);
  const bytes = encodeMessage(vu.GET_FEATURES, new Uint8Array());
  for (const byte of bytes) {
    socket.send(new Uint8Array([byte]));
    await turn();
  }
  expect(payload.decodeU64((await peer.reply()).payload)).toBeGreaterThan(0n);
  const event = createEvent();
  socket.send(encodeMessage(vu.SET_VRING_CALL, payload.encodeU64(0)).subarray(0, 9), [event]);
  await turn();
  event.close();
  peer.close();
  await server.closed;
});

test("more descriptors than a message has end the connection, and are closed", async () => {
  const { server, socket, errors } = await serve(new EchoDevice());
  const peer = new Peer(socket);
  const events = Array.from({ length: 200 }, createEvent);
  socket.send(encodeMessage(vu.SET_OWNER, new Uint8Array()), events);
  closeAll(events);
  await server.closed;
  expect(errors.map(String)).toEqual(["PeerError: message with 200 descriptors"]);
  peer.close();
});

test("memory whose file is smaller than said is refused before it is touched", async () => {
  const { server, socket } = await serve(new EchoDevice());
  const peer = new Peer(socket);
  await peer.open(VERSION_1);
  const small = createMemfd("small", 0x1000);
  const region = peer.region({ guestAddress: GUEST + RAM, userAddress: USER + RAM, size: 0x2000 });
  expect(await peer.acknowledged(vu.ADD_MEM_REG, payload.encodeRegion(region), [small])).toBe(1n);
  expect(await peer.acknowledged(vu.ADD_MEM_REG, payload.encodeRegion(region))).toBe(1n);
  small.close();
  peer.close();
  await server.closed;
});

test("509 slots, and no more", async () => {
  const { server, socket } = await serve(new EchoDevice());
  const peer = new Peer(socket);
  await peer.open(VERSION_1);
  const memfd = createMemfd("slots", 0x1000 * 600);
  let refused = -1;
  for (let i = 1; i <= 509; i++) {
    const region = peer.region({
      guestAddress: GUEST + RAM + i * 0x1000,
      userAddress: USER + RAM + i * 0x1000,
      size: 0x1000,
      mmapOffset: i * 0x1000,
    });
    const answer = await peer.acknowledged(vu.ADD_MEM_REG, payload.encodeRegion(region), [memfd]);
    if (answer !== 0n) {
      refused = i;
      break;
    }
  }
  // One is the table's.
  expect(refused).toBe(509);
  memfd.close();
  peer.close();
  await server.closed;
});

test("a front-end that does not read its replies is let go", async () => {
  const { server, socket } = await serve(new EchoDevice());
  const peer = new Peer(socket);
  await peer.u64(vu.GET_FEATURES);
  const flood = encodeMessage(vu.GET_FEATURES, new Uint8Array());
  let connected = true;
  for (let i = 0; i < 100_000 && connected; i++) {
    if (!socket.send(flood)) await turn();
    connected = server.connected;
  }
  await until(() => !server.connected, "it still waits");
  peer.close();
  await server.closed;
});
