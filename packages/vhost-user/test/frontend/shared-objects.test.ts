import { until } from "@virtio/testkit/until";
import { closeSync, fstatSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { DriverSession } from "virtio/driver/session";
import { featureBits } from "virtio/spec/core";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { SharedObjectTable, type ObjectExporter } from "@virtio/vhost-user/frontend/shared-objects";
import type { Channel } from "@virtio/vhost-user/channel/channel";
import { type Descriptor, closeAll, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createEvent } from "@virtio/vhost-user/native/event";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { decodeU64, encodeU64 } from "@virtio/vhost-user/protocol/payloads";
import { serve, turn } from "../backend/peer.ts";
import { SharingDevice, uuid } from "../backend/sharing-device.ts";
import { GOOD, pair, type FakeBackend } from "./fake-backend.ts";

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

const DEVICE_ID = 42;
const SHARING: bigint = featureBits(
  vu.PROTOCOL_F_REPLY_ACK,
  vu.PROTOCOL_F_BACKEND_REQ,
  vu.PROTOCOL_F_SHARED_OBJECT,
);

/** One of our own back-ends, with a driver that has its first virtqueue. */
async function openOne(
  device: SharingDevice,
  sharedObjects?: SharedObjectTable,
): Promise<{ transport: VhostUserTransport; run: () => Promise<void>; end: () => Promise<void> }> {
  const { server, socket } = await serve(device);
  const transport = await VhostUserTransport.open({
    socket: socket.descriptor.release(),
    deviceId: DEVICE_ID,
    configLength: 8,
    ...(sharedObjects === undefined ? {} : { sharedObjects }),
  });
  return {
    transport,
    run: async () => {
      const session = await DriverSession.open(transport, { wanted: 0n });
      session.addQueue(0);
      session.ready();
      await transport.settled();
    },
    end: async () => {
      transport.close();
      await server.closed;
    },
  };
}

test("an object travels from the back-end that exports it to the one that looks for it", async () => {
  const table = new SharedObjectTable();
  const [exporter, importer] = [new SharingDevice(), new SharingDevice()];
  const [one, other] = [await openOne(exporter, table), await openOne(importer, table)];
  await one.run();
  await other.run();
  const memfd = createMemfd("object", 4096);
  exporter.exported.set(1, memfd.fd);
  expect(await importer.front.lookup(uuid(1))).toBeUndefined();
  expect(await exporter.front.add(uuid(1))).toBe(true);
  const fd = await importer.front.lookup(uuid(1));
  if (fd === undefined) throw new Error("nothing was found");
  expect(fd).not.toBe(memfd.fd);
  expect(fstatSync(fd).ino).toBe(fstatSync(memfd.fd).ino);
  closeSync(fd);
  // Whoever exports it may look for it, too; all of them at once get it.
  const all = [exporter, importer, importer].map(({ front }) => front.lookup(uuid(1)));
  for (const found of await Promise.all(all)) closeSync(found ?? -1);
  expect(await exporter.front.remove(uuid(1))).toBe(true);
  expect(await importer.front.lookup(uuid(1))).toBeUndefined();
  memfd.close();
  await one.end();
  await other.end();
});

test("nobody takes a name twice, nor removes another's; what an exporter had goes with it", async () => {
  const table = new SharedObjectTable();
  const [exporter, thief] = [new SharingDevice(), new SharingDevice()];
  const [one, other] = [await openOne(exporter, table), await openOne(thief, table)];
  await one.run();
  await other.run();
  const event = createEvent();
  exporter.exported.set(1, event.fd);
  thief.exported.set(2, event.fd);
  expect(await exporter.front.add(uuid(1))).toBe(true);
  expect(await exporter.front.add(uuid(1))).toBe(false);
  expect(await thief.front.add(uuid(1))).toBe(false);
  expect(await thief.front.remove(uuid(1))).toBe(false);
  expect(await thief.front.add(uuid(2))).toBe(true);
  // It says that it has it, and has it not.
  expect(await thief.front.add(uuid(3))).toBe(true);
  expect(await exporter.front.lookup(uuid(3))).toBeUndefined();
  expect(table.size).toBe(3);
  const { front } = exporter;
  await one.end();
  expect(table.size).toBe(2);
  expect(await thief.front.lookup(uuid(1))).toBeUndefined();
  expect(exporter.history).toEqual(["here", "gone"]);
  // Kept by mistake, it answers all the same.
  expect(await front.add(uuid(9))).toBe(false);
  expect(await front.lookup(uuid(2))).toBeUndefined();
  expect(table.size).toBe(2);
  event.close();
  await other.end();
  expect(table.size).toBe(0);
});

test("no message while all virtqueues are stopped: what a device asks for then waits, bounded, until one runs or all is over", async () => {
  const table = new SharedObjectTable();
  const device = new SharingDevice();
  const one = await openOne(device, table);
  await until(() => device.exchange !== undefined);
  const early = Array.from({ length: 100 }, (_, i) => device.front.add(uuid(i)));
  const looked = device.front.lookup(uuid(0));
  for (let i = 0; i < 20; i++) await turn();
  expect(table.size).toBe(0);
  await one.run();
  const added = await Promise.all(early);
  expect(added.filter((done) => done === true).length).toBe(64);
  expect(await looked).toBeUndefined();
  expect(table.size).toBe(64);
  await one.end();
  const late = new SharingDevice();
  const two = await openOne(late, table);
  await until(() => late.exchange !== undefined);
  const never = late.front.add(uuid(200));
  await two.end();
  expect(await never).toBe(false);
});

test("a front-end without a table, or a device that shares nothing: it is not negotiated", async () => {
  const device = new SharingDevice();
  const one = await openOne(device);
  await one.run();
  expect(device.history).toEqual([]);
  await one.end();
});

const asked = async (channel: Channel): Promise<{ answer: bigint; descriptors: Descriptor[] }> => {
  let message = channel.receive();
  await until(() => {
    if (message === "later") message = channel.receive();
    return message !== "later";
  }, "no answer");
  if (typeof message === "string") throw new Error(message);
  return { answer: decodeU64(message.payload), descriptors: message.descriptors };
};

async function fake(table?: SharedObjectTable): Promise<[FakeBackend, VhostUserTransport]> {
  const answers = {
    ...GOOD,
    [vu.GET_PROTOCOL_FEATURES]: encodeU64(SHARING),
    [vu.GET_SHARED_OBJECT]: uuid(1),
  };
  const [backend, options] = pair(answers, table === undefined ? {} : { sharedObjects: table });
  const transport = await VhostUserTransport.open({ ...options, configLength: 0 });
  await until(() => backend.upcalls !== undefined);
  return [backend, transport];
}

test("a back-end that answers with no descriptor, or two, exports nothing; one that hangs up is forgotten", async () => {
  const table = new SharedObjectTable();
  const [liar, first] = await fake(table);
  liar.upcalls?.send(vu.BACKEND_SHARED_OBJECT_ADD, uuid(1));
  await until(() => table.size === 1);
  expect(await table.lookup(uuid(1))).toBeUndefined();
  liar.extra = true;
  liar.descriptors = 2;
  expect(await table.lookup(uuid(1))).toBeUndefined();
  liar.descriptors = 1;
  const event = await table.lookup(uuid(1));
  expect(event?.closed).toBe(false);
  event?.close();
  const hopeless = table.lookup(uuid(1));
  liar.close();
  await until(() => first.failure !== undefined);
  (await hopeless)?.close();
  expect(table.size).toBe(0);
  first.close();
});

test("what back-ends ask for wrongly is refused or not listened to, and leaks nothing", async () => {
  const table = new SharedObjectTable();
  const owner: ObjectExporter = { getSharedObject: () => Promise.resolve(createEvent()) };
  table.add(uuid(7), owner);
  const [backend, transport] = await fake(table);
  const channel = backend.upcalls;
  if (channel === undefined) throw new Error("no channel");
  const ask = async (
    request: number,
    body: Uint8Array,
    extra = 0,
  ): Promise<{ answer: bigint; descriptors: Descriptor[] }> => {
    const descriptors = Array.from({ length: extra }, () => createEvent());
    channel.send(request, body, { needReply: true, descriptors });
    closeAll(descriptors);
    return asked(channel);
  };
  expect(await ask(vu.BACKEND_SHARED_OBJECT_ADD, uuid(1), 1)).toEqual({ answer: 1n, descriptors: [] });
  expect(await ask(vu.BACKEND_SHARED_OBJECT_LOOKUP, uuid(7), 1)).toEqual({ answer: 1n, descriptors: [] });
  expect(await ask(vu.BACKEND_SHARED_OBJECT_REMOVE, uuid(7))).toEqual({ answer: 1n, descriptors: [] });
  // Many questions at once: answered in their order, one after the other.
  for (let i = 0; i < 100; i++) {
    channel.send(vu.BACKEND_SHARED_OBJECT_LOOKUP, uuid(i % 2 === 0 ? 7 : 8));
    channel.send(vu.BACKEND_SHARED_OBJECT_ADD, uuid(9), { needReply: true });
  }
  for (let i = 0; i < 100; i++) {
    const found = await asked(channel);
    expect(found.answer).toBe(i % 2 === 0 ? 0n : 1n);
    expect(found.descriptors.length).toBe(i % 2 === 0 ? 1 : 0);
    closeAll(found.descriptors);
    expect((await asked(channel)).answer).toBe(i === 0 ? 0n : 1n);
  }
  for (let i = 0; i < 1100; i++) {
    const name = new Uint8Array(16);
    new DataView(name.buffer).setUint32(4, i);
    await ask(vu.BACKEND_SHARED_OBJECT_ADD, name);
  }
  expect(table.size).toBe(1 + 1024);
  // A name of a wrong length: the rest is not read.
  channel.send(vu.BACKEND_SHARED_OBJECT_ADD, uuid(1).subarray(1), { needReply: true });
  channel.send(vu.BACKEND_SHARED_OBJECT_LOOKUP, uuid(7));
  for (let i = 0; i < 20; i++) await turn();
  expect(channel.receive()).toBe("later");
  expect(transport.failure).toBeUndefined();
  transport.close();
  expect(table.size).toBe(1);
  backend.close();
});

test("without a table everything is refused; a front-end that closes while it looks gives back what it finds", async () => {
  const [backend, transport] = await fake();
  backend.upcalls?.send(vu.BACKEND_SHARED_OBJECT_LOOKUP, uuid(1));
  if (backend.upcalls === undefined) throw new Error("no channel");
  expect(await asked(backend.upcalls)).toEqual({ answer: 1n, descriptors: [] });
  transport.close();
  backend.close();
  const table = new SharedObjectTable();
  let found: (event: Descriptor) => void = () => undefined;
  table.add(uuid(1), { getSharedObject: () => new Promise<Descriptor>((resolve) => (found = resolve)) });
  const [other, closing] = await fake(table);
  other.upcalls?.send(vu.BACKEND_SHARED_OBJECT_LOOKUP, uuid(1));
  const before = watchedDescriptors();
  await until(() => watchedDescriptors() < before);
  closing.close();
  found(createEvent());
  await turn();
  other.close();
});
