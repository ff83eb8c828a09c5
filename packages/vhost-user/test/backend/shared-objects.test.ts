import { until } from "@virtio/testkit/until";
import { closeSync, fstatSync } from "node:fs";
import { afterEach, expect, test, vi } from "vitest";
import { featureBits, hasFeature } from "virtio/spec/core";
import { Channel, type Message } from "@virtio/vhost-user/channel/channel";
import { closeAll, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createEvent } from "@virtio/vhost-user/native/event";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeU64 } from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { VERSION_1, turn, type Peer } from "./peer.ts";
import { setUp, type SetUp } from "./set-up.ts";
import { SharingDevice, uuid } from "./sharing-device.ts";

afterEach(() => {
  vi.useRealTimers();
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

async function begin(device = new SharingDevice()): Promise<SetUp & { asked: Channel }> {
  const all = await setUp(VERSION_1, device);
  const asked = await backendChannel(all.peer);
  await all.ring.start();
  return { ...all, asked };
}

async function backendChannel(peer: Peer): Promise<Channel> {
  const [ours, theirs] = UnixSocket.pair();
  await peer.must(vu.SET_BACKEND_REQ_FD, new Uint8Array(), [theirs.descriptor]);
  theirs.close();
  peer.upcalls?.close();
  return (peer.upcalls = new Channel(ours));
}

async function next(channel: Channel): Promise<Message> {
  let message = channel.receive();
  await until(() => {
    if (message === "later") message = channel.receive();
    return message !== "later";
  }, "no question");
  if (typeof message === "string") throw new Error(message);
  return { ...message, payload: message.payload.slice() };
}

test("SHARED_OBJECT is offered for a device that shares, and only for it", async () => {
  for (const [device, offered] of [
    [new SharingDevice(), true],
    [new EchoDevice(), false],
  ] as const) {
    const { peer, end } = await setUp(VERSION_1, device);
    const bits = await peer.u64(vu.GET_PROTOCOL_FEATURES);
    expect(hasFeature(bits, vu.PROTOCOL_F_SHARED_OBJECT)).toBe(offered);
    await end();
  }
});

test("GET_SHARED_OBJECT brings a descriptor or none; without a UUID, as QEMU sends it, none", async () => {
  const device = new SharingDevice();
  const { peer, end } = await setUp(VERSION_1, device);
  const event = createEvent();
  device.exported.set(1, event.fd);
  const found = await peer.ask(vu.GET_SHARED_OBJECT, uuid(1));
  expect(found.payload).toEqual(uuid(1));
  expect(found.descriptors.map(({ fd }) => fstatSync(fd).ino)).toEqual([fstatSync(event.fd).ino]);
  closeAll(found.descriptors);
  expect((await peer.ask(vu.GET_SHARED_OBJECT, uuid(2))).descriptors).toEqual([]);
  expect((await peer.ask(vu.GET_SHARED_OBJECT)).descriptors).toEqual([]);
  event.close();
  await end();
});

test.each([
  { what: "a name that is too short", body: new Uint8Array(15), extra: 0, without: 0n },
  { what: "a descriptor nobody asked for", body: uuid(1), extra: 1, without: 0n },
  { what: "no negotiation", body: uuid(1), extra: 0, without: featureBits(vu.PROTOCOL_F_SHARED_OBJECT) },
])("GET_SHARED_OBJECT with $what ends the connection", async ({ body, extra, without }) => {
  const { peer, errors, end } = await setUp(VERSION_1, new SharingDevice(), without);
  const descriptors = Array.from({ length: extra }, () => createEvent());
  peer.channel.send(vu.GET_SHARED_OBJECT, body, { descriptors });
  closeAll(descriptors);
  await until(() => errors.length === 1);
  await end();
});

test("answers to a look-up: one descriptor and 0, or nothing was found; all others are closed", async () => {
  const { device, asked, end } = await begin();
  const { front } = device as SharingDevice;
  for (const [value, count, found] of [
    [0, 1, true],
    [0, 0, false],
    [0, 2, false],
    [1, 1, false],
    [1, 0, false],
  ] as const) {
    const lookup = front.lookup(uuid(3));
    expect(await next(asked)).toMatchObject({
      request: vu.BACKEND_SHARED_OBJECT_LOOKUP,
      payload: uuid(3),
      needReply: false,
    });
    const descriptors = Array.from({ length: count }, () => createEvent());
    asked.send(vu.BACKEND_SHARED_OBJECT_LOOKUP, encodeU64(value), { reply: true, descriptors });
    closeAll(descriptors);
    const fd = await lookup;
    expect(fd !== undefined).toBe(found);
    if (fd !== undefined) closeSync(fd);
  }
  // Of a wrong length, and one that nobody asked for.
  const short = front.lookup(uuid(3));
  await next(asked);
  asked.send(vu.BACKEND_SHARED_OBJECT_ADD, encodeU64(0), { reply: true });
  asked.send(vu.BACKEND_SHARED_OBJECT_LOOKUP, new Uint8Array(4), { reply: true });
  expect(await short).toBeUndefined();
  await end();
});

test("without REPLY_ACK it is said, and no answer is waited for", async () => {
  const device = new SharingDevice();
  const { peer, ring, end } = await setUp(VERSION_1, device);
  const offered = (await peer.u64(vu.GET_PROTOCOL_FEATURES)) & ~featureBits(vu.PROTOCOL_F_STATUS);
  const without = offered & ~featureBits(vu.PROTOCOL_F_REPLY_ACK);
  peer.channel.send(vu.SET_PROTOCOL_FEATURES, encodeU64(without));
  const [ours, theirs] = UnixSocket.pair();
  peer.channel.send(vu.SET_BACKEND_REQ_FD, new Uint8Array(), { descriptors: [theirs.descriptor] });
  theirs.close();
  peer.upcalls = new Channel(ours);
  peer.channel.send(vu.SET_PROTOCOL_FEATURES, encodeU64(offered));
  await ring.start();
  const added = device.front.add(uuid(5));
  expect(await next(peer.upcalls)).toMatchObject({ needReply: false, payload: uuid(5) });
  expect(await added).toBe(true);
  await end();
});

test("a front-end that never answers: requests go on after a while, and nothing is asked any more", async () => {
  const { device, asked, end } = await begin();
  const { front } = device as SharingDevice;
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const all = [front.lookup(uuid(1)), front.add(uuid(2)), front.remove(uuid(2))];
  await Promise.resolve();
  vi.advanceTimersByTime(5000);
  expect(await Promise.all(all)).toEqual([undefined, false, false]);
  vi.useRealTimers();
  // An answer that comes too late is nobody's.
  const event = createEvent();
  asked.send(vu.BACKEND_SHARED_OBJECT_LOOKUP, encodeU64(0), { reply: true, descriptors: [event] });
  event.close();
  expect(await front.lookup(uuid(1))).toBeUndefined();
  for (let i = 0; i < 5; i++) await turn();
  await end();
});

test("a request that waits for an answer does not keep a dead connection from ending", async () => {
  const device = new SharingDevice();
  let served = 0;
  const [queue] = device.queues;
  if (queue === undefined) throw new Error("no queue");
  Object.assign(queue, {
    serve: async () => {
      await device.front.lookup(uuid(1));
      served++;
      return 0;
    },
  });
  for (const dies of ["the connection", "the back-end's channel"]) {
    const { peer, ring, asked, end } = await begin(device);
    ring.offer(new Uint8Array([1]), 4);
    ring.notify(true);
    await next(asked);
    if (dies === "the connection") peer.disconnect();
    else {
      asked.close();
      await ring.used();
    }
    await end();
  }
  expect(served).toBe(2);
});

test("another channel in its place: what waited for the old one is told so", async () => {
  const { device, peer, asked, end } = await begin();
  const sharing = device as SharingDevice;
  const lookup = sharing.front.lookup(uuid(1));
  await next(asked);
  const other = await backendChannel(peer);
  expect(await lookup).toBeUndefined();
  expect(sharing.history).toEqual(["here", "gone", "here"]);
  const again = sharing.front.add(uuid(1));
  expect(await next(other)).toMatchObject({ request: vu.BACKEND_SHARED_OBJECT_ADD, needReply: true });
  other.send(vu.BACKEND_SHARED_OBJECT_ADD, encodeU64(1), { reply: true });
  expect(await again).toBe(false);
  await end();
});

test("questions in great number are refused, not kept", async () => {
  const { device, end } = await begin();
  const { front } = device as SharingDevice;
  const all = Array.from({ length: 200 }, (_, i) => front.lookup(uuid(i)));
  const refused = await Promise.all(all.slice(64));
  expect(refused).toEqual(Array.from({ length: 136 }, () => undefined));
  await end();
  expect(await Promise.all(all)).toEqual(Array.from({ length: 200 }, () => undefined));
});
