import { until } from "@virtio/testkit/until";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { BlkDevice } from "virtio/devices/blk/device";
import { DriverSession } from "virtio/driver/session";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { VirtioFault } from "virtio/fault";
import { featureBits } from "virtio/spec/core";
import { VIRTIO_ID_BLK, VIRTIO_ID_ENTROPY } from "virtio/spec/ids";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeU64 } from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "../backend/echo-device.ts";
import { serve } from "../backend/peer.ts";
import { GOOD, PROTOCOL, pair, type Answers } from "./fake-backend.ts";

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

test.each<{ what: string; answers: Answers; error: string }>([
  { what: "says nothing", answers: { [vu.GET_FEATURES]: "silence" }, error: "no answer to GET_FEATURES" },
  { what: "hangs up", answers: { [vu.GET_PROTOCOL_FEATURES]: "hang up" }, error: "the back-end is gone" },
  { what: "answers too shortly", answers: { [vu.GET_FEATURES]: new Uint8Array(4) }, error: "u64 of 4 bytes" },
  { what: "refuses us", answers: { [vu.SET_OWNER]: encodeU64(1) }, error: "refuses SET_OWNER" },
  {
    what: "has no configuration of any length",
    answers: { [vu.GET_CONFIG]: new Uint8Array() },
    error: "does not give its configuration",
  },
])("a back-end that $what: open fails", async ({ answers, error }) => {
  const [backend, options] = pair({ ...GOOD, ...answers });
  await expect(VhostUserTransport.open(options)).rejects.toThrow(error);
  backend.close();
});

test("what is no answer ends the connection", async () => {
  for (const message of [
    encodeU64(0),
    new Uint8Array(12).fill(0xff),
    Uint8Array.from([vu.GET_CONFIG, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]),
  ]) {
    const [backend, options] = pair(GOOD, { deviceId: VIRTIO_ID_ENTROPY, timeout: 1000 });
    const transport = await VhostUserTransport.open(options);
    backend.raw(message);
    await until(() => transport.failure !== undefined);
    expect(() => transport.readDeviceFeatures()).toThrow(transport.failure);
    transport.close();
    backend.close();
  }
});

test("descriptors that come with answers are closed", async () => {
  const [backend, options] = pair(GOOD);
  backend.extra = true;
  const disk = await BlkDriver.open(await VhostUserTransport.open(options));
  await until(() => backend.heard.includes(vu.SET_VRING_ENABLE));
  await disk.close();
  backend.close();
});

test("a memory table that is refused is a failure of the device", async () => {
  const [backend, options] = pair({ ...GOOD, [vu.SET_MEM_TABLE]: encodeU64(1) });
  const transport = await VhostUserTransport.open(options);
  const disk = await BlkDriver.open(transport);
  const read = disk.read(0, new Uint8Array(512));
  await expect(read).rejects.toThrow("refuses SET_MEM_TABLE");
  await disk.close();
  backend.close();
});

test("a back-end that answers no more cannot keep a driver from closing", async () => {
  const [backend, options] = pair({ ...GOOD, [vu.GET_VRING_BASE]: "silence" });
  const disk = await BlkDriver.open(await VhostUserTransport.open(options));
  const read = expect(disk.read(0, new Uint8Array(512))).rejects.toThrow("closed");
  await disk.close();
  await read;
  backend.close();
});

test("a reset that the back-end never says is over", async () => {
  const protocol = encodeU64(PROTOCOL | featureBits(vu.PROTOCOL_F_STATUS));
  const answers = { ...GOOD, [vu.GET_PROTOCOL_FEATURES]: protocol, [vu.GET_STATUS]: encodeU64(15) };
  const [backend, options] = pair(answers);
  const transport = await VhostUserTransport.open(options);
  await expect(BlkDriver.open(transport)).rejects.toThrow("the reset never completes");
  transport.close();
  backend.close();
});

test("a back-end whose answers are any bytes: an error or a transport, in bounded time, and nothing leaks", async () => {
  const answer = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    fc.constant("hang up" as const),
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(encodeU64),
  );
  const answers = fc.record({
    [vu.GET_FEATURES]: answer,
    [vu.GET_PROTOCOL_FEATURES]: answer,
    [vu.GET_QUEUE_NUM]: answer,
    [vu.GET_CONFIG]: answer,
    [vu.GET_STATUS]: answer,
    [vu.GET_VRING_BASE]: answer,
    [vu.GET_INFLIGHT_FD]: answer,
  });
  await fc.assert(
    fc.asyncProperty(answers, fc.nat({ max: 7 }), fc.boolean(), async (random, mask, reconnect) => {
      const good = Object.entries(GOOD).filter((_, i) => (mask >> i) & 1);
      const some: Answers = { ...random, ...Object.fromEntries(good) };
      const extra = { timeout: 20, ...(reconnect ? { reconnect: { delay: 1, giveUp: 1 } } : {}) };
      const [backend, options] = pair(some, extra);
      try {
        const transport = await VhostUserTransport.open(options);
        try {
          const session = await DriverSession.open(transport, { wanted: 0n });
          session.addQueue(0);
          session.ready();
          await session.close();
        } finally {
          transport.close();
        }
      } catch (error) {
        expect(error).toBeInstanceOf(Error);
        expect(error).not.toBeInstanceOf(TypeError);
      }
      backend.close();
      expect(openDescriptors()).toBe(0);
    }),
    { numRuns: 60 },
  );
});

test("a device that needs a reset is told to the driver; after the reset it works again", async () => {
  const device = new EchoDevice(1);
  const { server, socket } = await serve(device);
  const transport = await VhostUserTransport.open({
    socket: socket.descriptor.release(),
    deviceId: device.id,
    configLength: 8,
  });
  const gpa = transport.memory.allocate(64, 16);
  const begin = async (): Promise<[DriverSession, () => Promise<number>]> => {
    const session = await DriverSession.open(transport, { wanted: 0n });
    const queue = session.addQueue(0);
    session.ready();
    return [session, () => queue.request([{ gpa, length: 8 }], [{ gpa: gpa + 32, length: 8 }])];
  };
  const [, broken] = await begin();
  expect(await broken()).toBe(8);
  device.deferred = true;
  const outstanding = broken();
  await until(() => device.waiting === 1);
  device.context?.fail(new VirtioFault("drv.core.status", "a rule was broken", { queue: 0 }));
  await expect(outstanding).rejects.toThrow(/needs a reset|reports an error/);
  expect(transport.failure?.message).toMatch(/needs a reset|reports an error/);
  device.deferred = false;
  device.release();
  const [session, working] = await begin();
  expect(transport.failure).toBeUndefined();
  expect(await working()).toBe(8);
  await session.close();
  await server.close();
});

test("polling: nobody waits for notifications, the caller looks", async () => {
  const { server, socket } = await serve(new BlkDevice(new MemoryBlockBackend(1 << 20)));
  const transport = await VhostUserTransport.open({
    socket: socket.descriptor.release(),
    deviceId: VIRTIO_ID_BLK,
    polling: true,
  });
  const disk = await BlkDriver.open(transport);
  let done = false;
  const read = disk.read(0, new Uint8Array(512)).then(() => (done = true));
  await transport.settled();
  for (let i = 0; i < 20; i++) await new Promise((resolve) => void setImmediate(resolve));
  expect(done).toBe(false);
  transport.poll(0);
  await read;
  await disk.close();
  await server.close();
});
