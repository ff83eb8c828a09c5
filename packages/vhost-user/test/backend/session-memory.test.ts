import { until } from "@virtio/testkit/until";
import { afterEach, expect, test } from "vitest";
import { featureBits, VIRTIO_F_ACCESS_PLATFORM } from "virtio/spec/core";
import { Channel } from "@virtio/vhost-user/channel/channel";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { clearEvent, createEvent } from "@virtio/vhost-user/native/event";
import { Mapping } from "@virtio/node/native/mapping";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { GUEST, RAM, USER, VERSION_1, makeRam, turn } from "./peer.ts";
import { setUp } from "./set-up.ts";

const bytes = (...values: number[]): Uint8Array => new Uint8Array(values);
afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

test("memory comes and goes under a running ring; a buffer in what is gone is the driver's fault", async () => {
  const { ring, end, device, peer, server } = await setUp(VERSION_1);
  await ring.start();
  expect(await peer.u64(vu.GET_MAX_MEM_SLOTS)).toBe(509n);
  const more = makeRam(0x10000, GUEST + RAM);
  const region = peer.region({ guestAddress: GUEST + RAM, size: 0x10000, userAddress: USER + RAM });
  await peer.must(vu.ADD_MEM_REG, payload.encodeRegion(region), [more.memfd]);
  const segment = { gpa: GUEST + RAM + 16, length: 4 };
  more.memory.view(segment.gpa, 4).set([9, 8, 7, 6]);
  const room = peer.dma.allocate(4, 16);
  const offer = (): void => {
    ring.driver.addAvailable([segment], [{ gpa: room, length: 4 }]);
    ring.notify();
  };
  offer();
  await ring.used();
  expect([...peer.ram.memory.view(room, 4)]).toEqual([9, 8, 7, 6]);
  device.deferred = true;
  offer();
  await until(() => device.waiting === 1);
  const removed = peer.acknowledged(vu.REM_MEM_REG, payload.encodeRegion(region), [more.memfd]);
  await turn();
  device.release();
  expect(await removed).toBe(0n);
  await ring.used();
  expect(device.done).toEqual([9, 9]);
  expect(await peer.acknowledged(vu.REM_MEM_REG, payload.encodeRegion(region))).toBe(1n);
  const err = createEvent();
  await peer.must(vu.SET_VRING_ERR, payload.encodeU64(0), [err]);
  offer();
  await until(() => (server.instance.status & 64) !== 0);
  expect(clearEvent(err.fd)).toBe(true);
  err.close();
  more.mapping.unmap();
  more.memfd.close();
  await end();
});

test("the same table again changes nothing; a ring outside of the new table waits until it is back", async () => {
  const { ring, end, device, peer, server } = await setUp(VERSION_1);
  await ring.start();
  const { epoch } = server.instance.memory;
  const table = payload.encodeMemoryTable([peer.region()]);
  await peer.must(vu.SET_MEM_TABLE, table, [peer.ram.memfd]);
  expect(server.instance.memory.epoch).toBe(epoch);
  const other = makeRam(0x10000);
  const elsewhere = peer.region({ size: 0x10000, userAddress: USER - 0x10000 });
  await peer.must(vu.SET_MEM_TABLE, payload.encodeMemoryTable([elsewhere]), [other.memfd]);
  ring.offer(bytes(1), 4);
  ring.notify(true);
  await turn();
  expect(device.done).toEqual([]);
  await peer.must(vu.SET_MEM_TABLE, table, [peer.ram.memfd]);
  await ring.used();
  expect(device.done).toEqual([1]);
  other.mapping.unmap();
  other.memfd.close();
  await end();
});

test("every page that is written is in the dirty log, again when the request is done, and only while it is asked for", async () => {
  const { ring, end, device, peer } = await setUp(VERSION_1);
  await ring.start();
  const pages = Math.ceil((GUEST + RAM) / vu.LOG_PAGE);
  const log = createMemfd("log", pages / 8 + 4096);
  const mapping = Mapping.map(log.fd, 4096, pages / 8);
  const body = payload.encodeLog({ size: pages / 8, offset: 4096 });
  expect(await peer.u64(vu.SET_LOG_BASE, body, [log])).toBe(0n);
  const logged = (gpa: number): boolean => {
    const page = Math.floor(gpa / vu.LOG_PAGE);
    return ((mapping.view(page >> 3, 1)[0] ?? 0) & (1 << (page & 7))) !== 0;
  };
  const run = async (): Promise<number> => {
    const { gpa } = ring.offer(bytes(1, 2), 8192);
    ring.notify(true);
    await ring.used();
    return gpa;
  };
  expect(logged(await run())).toBe(false);
  const all = payload.encodeU64(
    VERSION_1 | featureBits(vu.VHOST_F_LOG_ALL, vu.VHOST_USER_F_PROTOCOL_FEATURES),
  );
  await peer.must(vu.SET_FEATURES, all);
  device.deferred = true;
  const { gpa } = ring.offer(bytes(1, 2), 8192);
  ring.notify(true);
  await until(() => device.waiting === 1);
  expect(logged(gpa)).toBe(false);
  mapping.view(0, mapping.length).fill(0);
  device.release();
  await ring.used();
  expect(logged(gpa)).toBe(true);
  expect(logged(ring.config.deviceArea)).toBe(true);
  expect(logged(ring.config.descriptorArea)).toBe(false);
  await peer.must(
    vu.SET_FEATURES,
    payload.encodeU64(VERSION_1 | featureBits(vu.VHOST_USER_F_PROTOCOL_FEATURES)),
  );
  device.deferred = false;
  mapping.view(0, mapping.length).fill(0);
  expect(logged(await run())).toBe(false);
  mapping.unmap();
  log.close();
  await end();
});

test("with ACCESS_PLATFORM a missing translation is asked for, and the request is served when it came", async () => {
  const features = VERSION_1 | featureBits(VIRTIO_F_ACCESS_PLATFORM);
  const { ring, end, device, peer, server } = await setUp(features);
  const [ours, theirs] = UnixSocket.pair();
  await peer.must(vu.SET_BACKEND_REQ_FD, new Uint8Array(), [theirs.descriptor]);
  theirs.close();
  const upcalls = (peer.upcalls = new Channel(ours));
  /** I/O virtual addresses lie this far from guest addresses. */
  const shift = 0x40_0000_0000;
  const answered: number[] = [];
  const answer = async (): Promise<void> => {
    const message = upcalls.receive();
    if (typeof message === "string") return;
    expect(message.request).toBe(vu.BACKEND_IOTLB_MSG);
    const iova = Math.floor(payload.decodeIotlb(message.payload).iova / 4096) * 4096;
    answered.push(iova);
    const update = {
      iova,
      size: 4096,
      userAddress: iova - shift - GUEST + USER,
      permissions: 3,
      type: vu.IOTLB_UPDATE,
    };
    expect(await peer.u64(vu.IOTLB_MSG, payload.encodeIotlb(update))).toBe(0n);
  };
  const { descriptorArea, driverArea, deviceArea } = ring.config;
  ring.address = () => ({
    index: 0,
    flags: 0,
    descriptor: descriptorArea + shift,
    available: driverArea + shift,
    used: deviceArea + shift,
    log: 0,
  });
  await ring.start();
  for (let i = 0; i < 3; i++) await answer();
  expect(new Set(answered).size).toBe(3);
  const room = peer.dma.allocate(8192, 4096);
  const source = peer.dma.allocate(8192, 4096);
  peer.ram.memory.view(source + 4090, 10).set([5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
  ring.driver.addAvailable(
    [{ gpa: source + 4090 + shift, length: 10 }],
    [{ gpa: room + 4092 + shift, length: 10 }],
  );
  ring.notify(true);
  for (let i = 0; i < 20 && device.done.length === 0; i++) {
    await answer();
    await turn();
  }
  await ring.used();
  expect(answered.length).toBe(7);
  expect([...peer.ram.memory.view(room + 4092, 10)]).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
  const gone = {
    iova: source + shift,
    size: 4096,
    userAddress: 0,
    permissions: 0,
    type: vu.IOTLB_INVALIDATE,
  };
  expect(await peer.u64(vu.IOTLB_MSG, payload.encodeIotlb(gone))).toBe(0n);
  ring.driver.addAvailable([{ gpa: source + 4090 + shift, length: 10 }], [{ gpa: room + shift, length: 10 }]);
  ring.notify(true);
  await turn();
  expect(device.done.length).toBe(1);
  await answer();
  await ring.used();
  expect(server.instance.status & 64).toBe(0);
  // What the guest's IOMMU lets the device read only is not written: the driver broke a rule.
  const readOnly = {
    iova: room + shift,
    size: 4096,
    userAddress: room - GUEST + USER,
    permissions: 1,
    type: vu.IOTLB_UPDATE,
  };
  expect(await peer.u64(vu.IOTLB_MSG, payload.encodeIotlb(readOnly))).toBe(0n);
  ring.driver.addAvailable([], [{ gpa: room + shift, length: 10 }]);
  ring.notify(true);
  for (let i = 0; i < 5; i++) await turn();
  expect(server.instance.status & 64).toBe(64);
  await end();
});
