import { until } from "@virtio/testkit/until";
import { readSync, readdirSync, writeSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { NetHub } from "virtio/backends/net-hub";
import { NetDevice } from "virtio/devices/net/device";
import { featureBits } from "virtio/spec/core";
import { Channel } from "@virtio/vhost-user/channel/channel";
import { Descriptor, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { natives } from "@virtio/vhost-user/native/libc";
import { Mapping } from "@virtio/node/native/mapping";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { EVENT_IDX, PACKED, Peer, PeerRing, RAM, VERSION_1, serve, turn } from "./peer.ts";
import { setUp } from "./set-up.ts";

const bytes = (...values: number[]): Uint8Array => new Uint8Array(values);
const rings = [
  ["split", VERSION_1],
  ["split with EVENT_IDX", VERSION_1 | EVENT_IDX],
  ["packed", VERSION_1 | PACKED],
  ["packed with EVENT_IDX", VERSION_1 | PACKED | EVENT_IDX],
] as const;

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

test.each(rings)("requests on a %s ring are served, used and notified", async (_, features) => {
  const { ring, end, device, peer } = await setUp(features);
  await ring.start();
  for (let i = 0; i < 40; i++) {
    const { gpa, token } = ring.offer(bytes(i, 2, 3), 8);
    ring.notify();
    expect(await ring.used()).toEqual({ token, written: 3 });
    expect([...peer.ram.memory.view(gpa, 3)]).toEqual([i, 2, 3]);
  }
  expect(device.activations).toBe(1);
  await end();
});

test("a ring of any size that a front-end says is taken: QEMU's virtio-mmio lets drivers have 1024 entries", async () => {
  const { end, device, peer } = await setUp(VERSION_1);
  expect(device.queues[0]?.maxSize).toBe(256);
  const ring = new PeerRing(peer, VERSION_1, 1024);
  await ring.start();
  for (let i = 0; i < 1024; i++) ring.offer(bytes(i & 0xff), 0);
  ring.notify();
  for (let i = 0; i < 1024; i++) await ring.used();
  expect(device.done).toEqual(Array.from({ length: 1024 }, (_, i) => i & 0xff));
  ring.close();
  await end();
});

test("SEND_RARP: a network device tells its peers where it is now", async () => {
  const hub = new NetHub();
  const heard: Uint8Array[] = [];
  hub.port().attach({ receive: (frame) => heard.push(frame.slice()) > 0, linkChanged: () => undefined });
  const mac = bytes(0x52, 0x54, 0, 1, 2, 3);
  const { server, socket } = await serve(new NetDevice({ backend: hub.port(), mac }));
  const peer = new Peer(socket);
  await peer.open(VERSION_1);
  expect((await peer.u64(vu.GET_PROTOCOL_FEATURES)) & featureBits(vu.PROTOCOL_F_RARP)).not.toBe(0n);
  await peer.must(vu.SEND_RARP, bytes(...mac, 0, 0));
  expect(heard.length).toBe(1);
  const [frame = bytes()] = heard;
  expect(Buffer.from(frame).toString("hex")).toBe(
    "ffffffffffff525400010203803500010800060400035254000102030000000052540001020300000000".padEnd(120, "0"),
  );
  peer.close();
  await server.closed;
});

test.each(rings)(
  "GET_VRING_BASE on a %s ring waits for what is in flight, and the ring goes on from there",
  async (_, features) => {
    const { ring, end, device } = await setUp(features);
    await ring.start();
    device.deferred = true;
    for (const i of [1, 2, 3]) ring.offer(bytes(i), 4);
    ring.notify();
    await until(() => device.waiting === 3);
    const base = ring.stop();
    await turn();
    ring.offer(bytes(4), 4);
    ring.notify(true);
    await turn();
    expect(device.waiting).toBe(3);
    device.release();
    const value = await base;
    expect(value).toBe(ring.packed ? 0x80068006 : 3);
    for (let i = 0; i < 3; i++) await ring.used();
    expect(device.done).toEqual([1, 2, 3]);
    device.deferred = false;
    await ring.start(value);
    await ring.used();
    expect(device.done).toEqual([1, 2, 3, 4]);
    expect(device.resets).toBe(0);
    await end();
  },
);

test("another driver on the same connection, which begins at the first index, finds the device reset", async () => {
  const { ring, end, device, peer } = await setUp(VERSION_1);
  await ring.start();
  ring.offer(bytes(1), 4);
  ring.notify();
  await ring.used();
  await ring.stop();
  const before = device.resets;
  const again = new PeerRing(peer, VERSION_1);
  await again.start();
  again.offer(bytes(2), 4);
  again.notify();
  await again.used();
  expect(device.resets).toBe(before + 1);
  expect(device.activations).toBe(2);
  again.close();
  await end();
});

test("with STATUS the device runs from DRIVER_OK on, and 0 resets it", async () => {
  const { ring, end, device, peer } = await setUp(VERSION_1, new EchoDevice(), 0n);
  await peer.must(vu.SET_STATUS, payload.encodeU64(0xb));
  await ring.start();
  ring.offer(bytes(1), 4);
  ring.publish();
  await turn();
  expect(device.done).toEqual([]);
  expect(await peer.u64(vu.GET_STATUS)).toBe(0xbn);
  await peer.must(vu.SET_STATUS, payload.encodeU64(0xf));
  await ring.used();
  expect(device.done).toEqual([1]);
  await peer.must(vu.SET_STATUS, payload.encodeU64(0));
  expect(await peer.u64(vu.GET_STATUS)).toBe(0n);
  expect(await ring.stop()).toBe(1);
  await end();
});

test("a disabled ring holds its requests; one that never had protocol features runs at once", async () => {
  const { ring, end, device, peer } = await setUp(VERSION_1);
  await ring.start(0, false);
  ring.offer(bytes(1), 4);
  ring.notify();
  await turn();
  expect(device.done).toEqual([]);
  await peer.must(vu.SET_VRING_ENABLE, payload.encodeVringState({ index: 0, value: 1 }));
  await ring.used();
  await peer.must(vu.RESET_OWNER);
  ring.offer(bytes(2), 4);
  ring.notify();
  await turn();
  expect(device.done).toEqual([1]);
  await peer.must(vu.SET_FEATURES, payload.encodeU64(VERSION_1));
  await ring.used();
  expect(device.done).toEqual([1, 2]);
  await end();
});

test("a disabled transmit queue of a network device gives its buffers back unserved", async () => {
  const { ring, end, device } = await setUp(VERSION_1, new EchoDevice(2, "net", "transmitq"));
  await ring.start(0, false);
  const { token } = ring.offer(bytes(1), 0);
  ring.notify();
  expect(await ring.used()).toEqual({ token, written: 0 });
  expect(device.done).toEqual([]);
  await end();
});

test.each([
  ["a legacy driver", 0n, 0n],
  // Bit 1 needs bit 0.
  ["a front-end that keeps what a feature needs for itself", VERSION_1 | 2n, VERSION_1],
])(
  "%s is served with the features whose needs it has, and none is refused",
  async (_, features, accepted) => {
    for (const without of [undefined, 0n]) {
      const { ring, end, device, peer } = await setUp(features, new EchoDevice(), without);
      await ring.start();
      if (without === 0n) {
        await peer.must(vu.SET_STATUS, payload.encodeU64(0xb));
        await peer.must(vu.SET_STATUS, payload.encodeU64(0xf));
      }
      ring.offer(bytes(1), 4);
      ring.notify(true);
      await ring.used();
      expect(device.accepted).toBe(accepted);
      await end();
    }
  },
);

test("what was not offered is not accepted, and features stay while rings run", async () => {
  const { ring, end, peer, server } = await setUp(VERSION_1);
  expect(await peer.u64(vu.GET_QUEUE_NUM)).toBe(2n);
  await ring.start();
  expect(await peer.acknowledged(vu.SET_FEATURES, payload.encodeU64(VERSION_1 | 4n))).toBe(1n);
  expect(await peer.acknowledged(vu.SET_FEATURES, payload.encodeU64(VERSION_1 | 1n))).toBe(1n);
  expect(await peer.acknowledged(vu.SET_FEATURES, payload.encodeU64(VERSION_1))).toBe(0n);
  for (const bit of [2, 6, 7, 8, 11, 14, 17, 18])
    expect((await peer.u64(vu.GET_PROTOCOL_FEATURES)) & featureBits(bit)).toBe(0n);
  expect(server.connected).toBe(true);
  expect(await peer.acknowledged(vu.SEND_RARP, payload.encodeU64(0))).toBe(1n);
  await end();
});

test("RESET_DEVICE disables the rings and resets the device", async () => {
  const { ring, end, peer, device } = await setUp(VERSION_1);
  await ring.start();
  ring.offer(bytes(1), 4);
  ring.notify();
  await ring.used();
  const { resets } = device;
  await peer.must(vu.RESET_DEVICE);
  expect(device.resets).toBe(resets + 1);
  ring.offer(bytes(2), 4);
  await ring.start(1, false);
  await turn();
  expect(device.done).toEqual([1]);
  await peer.must(vu.SET_VRING_ENABLE, payload.encodeVringState({ index: 0, value: 1 }));
  ring.notify(true);
  await ring.used();
  expect(device.done).toEqual([1, 2]);
  await end();
});

test("configuration space is read, written, and its changes are told", async () => {
  const { ring, end, device, peer } = await setUp(VERSION_1);
  const read = async (offset: number, size: number): Promise<number[]> => {
    const body = payload.encodeConfig({ offset, flags: 0, bytes: new Uint8Array(size) });
    return [...payload.decodeConfig((await peer.ask(vu.GET_CONFIG, body)).payload).bytes];
  };
  expect(await read(2, 4)).toEqual([3, 4, 5, 6]);
  expect(await read(6, 4)).toEqual([7, 8, 0, 0]);
  await peer.must(vu.SET_CONFIG, payload.encodeConfig({ offset: 0, flags: 0, bytes: bytes(42) }));
  expect(await read(0, 1)).toEqual([42]);
  const [ours, theirs] = UnixSocket.pair();
  await peer.must(vu.SET_BACKEND_REQ_FD, new Uint8Array(), [theirs.descriptor]);
  theirs.close();
  peer.upcalls = new Channel(ours);
  await ring.start();
  device.context?.configChanged();
  const change = peer.upcalls.receive();
  expect(change).toMatchObject({ request: vu.BACKEND_CONFIG_CHANGE_MSG, size: 0 });
  await ring.stop();
  device.context?.configChanged();
  expect(peer.upcalls.receive()).toBe("later");
  await ring.start();
  expect(peer.upcalls.receive()).toMatchObject({ request: vu.BACKEND_CONFIG_CHANGE_MSG });
  await end();
});

test("a device's state travels through pipes to another back-end", async () => {
  const source = await setUp(VERSION_1);
  await source.ring.start();
  source.ring.offer(bytes(7), 4);
  source.ring.notify();
  await source.ring.used();
  const pipe = (): [Descriptor, Descriptor] => {
    const fds = new Int32Array(2);
    natives().pipe2(fds, 0o2000000);
    return [new Descriptor(fds[0] ?? -1), new Descriptor(fds[1] ?? -1)];
  };
  const save = payload.encodeDeviceState({ direction: vu.STATE_SAVE, phase: 0 });
  const [reader, writer] = pipe();
  expect(await source.peer.u64(vu.SET_DEVICE_STATE_FD, save, [writer])).toBe(1n);
  await source.ring.stop();
  expect(await source.peer.u64(vu.SET_DEVICE_STATE_FD, save, [writer])).toBe(0x100n);
  writer.close();
  expect(await source.peer.u64(vu.CHECK_DEVICE_STATE)).toBe(0n);
  const state = Buffer.alloc(65536);
  const length = readSync(reader.fd, state);
  reader.close();
  const target = await setUp(VERSION_1);
  for (const [text, result] of [
    [Buffer.from("{}"), 1n],
    [state.subarray(0, length), 0n],
  ] as const) {
    const [from, to] = pipe();
    const load = payload.encodeDeviceState({ direction: vu.STATE_LOAD, phase: 0 });
    expect(await target.peer.u64(vu.SET_DEVICE_STATE_FD, load, [from])).toBe(0x100n);
    from.close();
    writeSync(to.fd, text);
    to.close();
    expect(await target.peer.u64(vu.CHECK_DEVICE_STATE)).toBe(result);
  }
  expect(target.device.done).toEqual([7]);
  await target.ring.start();
  expect(target.device.done).toEqual([7]);
  await source.end();
  await target.end();
});

test.each([0n, VERSION_1 | PACKED])(
  "what a dead back-end held is served by the next one, once (features %s)",
  async (extra) => {
    const features = VERSION_1 | extra;
    const first = new EchoDevice();
    const one = await serve(first);
    const peer = new Peer(one.socket);
    const { ram } = peer;
    await peer.open(features);
    const ring = new PeerRing(peer, features);
    const asked = payload.encodeInflight({ size: 0, offset: 0, queues: 2, queueSize: 16 });
    const reply = await peer.ask(vu.GET_INFLIGHT_FD, asked);
    const inflight = reply.descriptors[0]!;
    await peer.must(vu.SET_INFLIGHT_FD, reply.payload, [inflight]);
    await ring.start();
    first.deferred = true;
    for (const i of [1, 2, 3, 4]) ring.offer(bytes(i), 4);
    ring.notify();
    await until(() => first.waiting === 4);
    first.release(2);
    for (let i = 0; i < 2; i++) await ring.used();
    ring.offer(bytes(5), 4);
    ring.notify();
    await until(() => first.waiting === 3);
    // The process dies: its memory is another's now, nothing that it does reaches the ring.
    const snapshot = ram.mapping.view(0, RAM).slice();
    const record = Mapping.map(inflight.fd, 0, payload.decodeInflight(reply.payload).size);
    const recorded = record.view(0, record.length).slice();
    peer.disconnect();
    first.release();
    await one.server.closed;
    ram.mapping.view(0, RAM).set(snapshot);
    record.view(0, record.length).set(recorded);
    const second = new EchoDevice();
    const two = await serve(second);
    const next = new Peer(two.socket, peer);
    await next.open(features);
    await next.must(vu.SET_INFLIGHT_FD, reply.payload, [inflight]);
    const taken = new PeerRing(next, features, 16, 0, ring);
    await taken.start(ring.packed ? 0 : 2);
    for (let i = 0; i < 3; i++) await taken.used();
    expect(second.done).toEqual([3, 4, 5]);
    taken.offer(bytes(6), 4);
    taken.notify(true);
    await taken.used();
    expect(second.done).toEqual([3, 4, 5, 6]);
    inflight.close();
    ring.close();
    taken.close();
    record.unmap();
    next.close();
    peer.close();
    await two.server.closed;
  },
);

test("a device state that never ends, or that nobody reads, does not keep a session", async () => {
  for (const direction of [vu.STATE_LOAD, vu.STATE_SAVE]) {
    const { peer, end, device } = await setUp(VERSION_1);
    device.done = Array.from({ length: 100_000 }, (_, i) => i);
    const fds = new Int32Array(2);
    natives().pipe2(fds, 0o2000000);
    const [reader, writer] = [...fds].map((fd) => new Descriptor(fd));
    const ours = direction === vu.STATE_LOAD ? reader : writer;
    const body = payload.encodeDeviceState({ direction, phase: 0 });
    expect(await peer.u64(vu.SET_DEVICE_STATE_FD, body, [ours!])).toBe(0x100n);
    await turn();
    expect(await peer.u64(vu.GET_FEATURES)).not.toBe(0n);
    await end();
    reader!.close();
    writer!.close();
  }
});

test("a ring without kicks is polled; close waits for what is in flight", async () => {
  const { ring, end, device, peer, server } = await setUp(VERSION_1);
  await ring.start();
  await peer.must(vu.SET_VRING_KICK, payload.encodeU64(vu.VRING_NOFD_MASK));
  ring.offer(bytes(1), 4);
  ring.driver.takeNotification();
  await ring.used();
  device.deferred = true;
  ring.offer(bytes(2), 4);
  ring.driver.takeNotification();
  await until(() => device.waiting === 1);
  let closed = false;
  const closing = server.close().then(() => (closed = true));
  await turn();
  expect(closed).toBe(false);
  device.release();
  await closing;
  expect(device.done).toEqual([1, 2]);
  await ring.used();
  await end();
});

test("no descriptor stays open", () => {
  expect(readdirSync("/proc/self/fd").length).toBeLessThan(100);
});

test("a ring that is taken up notifies: what a dead back-end published last, it may not have told", async () => {
  const { peer, ring, end } = await setUp(VERSION_1);
  const { index, size } = ring.config;
  // What it served was used; it was killed before it said so.
  const tell = async (base: number): Promise<void> => {
    await peer.must(vu.SET_VRING_CALL, payload.encodeU64(index), [ring.call]);
    await peer.must(vu.SET_VRING_NUM, payload.encodeVringState({ index, value: size }));
    await peer.must(vu.SET_VRING_BASE, payload.encodeVringState({ index, value: base }));
    await peer.must(vu.SET_VRING_ADDR, payload.encodeVringAddress(ring.address()));
    await peer.must(vu.SET_VRING_KICK, payload.encodeU64(index), [ring.kick]);
    await peer.must(vu.SET_VRING_ENABLE, payload.encodeVringState({ index, value: 1 }));
  };
  await tell(0);
  ring.offer(bytes(1), 4);
  ring.notify();
  await ring.used();
  const base = await ring.stop();
  expect(base).toBe(1);
  const told = (): boolean => natives().read(ring.call.fd, new Uint8Array(8), 8) === 8;
  told();
  await tell(base);
  expect(told()).toBe(true);
  await end();
});
