import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { VsockDriver } from "../../src/drivers/vsock/driver.ts";
import type { VsockSocket } from "../../src/drivers/vsock/socket.ts";
import { writeLe32 } from "../../src/memory/bytes.ts";
import { featureBits } from "../../src/spec/core.ts";
import {
  VIRTIO_VSOCK_F_NO_IMPLIED_STREAM,
  VIRTIO_VSOCK_F_SEQPACKET,
  VIRTIO_VSOCK_F_STREAM,
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
} from "../../src/spec/vsock.ts";
import { concat, firstDifference, pattern } from "../support/ends.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { WAYS } from "../support/ways.ts";
import { ALL_VSOCK, EchoPeer, GUEST, HOST, TestVsock } from "./host.ts";

const PEER = { cid: HOST, port: 80 };

async function connected(
  device: TestVsock,
  options = {},
): Promise<{ driver: VsockDriver; socket: VsockSocket; port: number }> {
  const driver = await VsockDriver.open(new Loopback(device));
  const connecting = driver.connect(PEER, options);
  const port = device.packets.at(-1)?.source.port ?? 0;
  device.send({ ...to(port), type: device.packets.at(-1)?.type ?? 1, op: VIRTIO_VSOCK_OP_RESPONSE });
  return { driver, socket: await connecting, port };
}

const to = (port: number) => ({ source: PEER, destination: { cid: GUEST, port } });

async function readAll(socket: VsockSocket): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const bytes of socket) pieces.push(bytes);
  return concat(pieces);
}

describe.each(RINGS)("vsock over $name", ({ ring }) => {
  test(
    clause(
      "drv.vsock.credit",
      "1 MiB both ways through small buffers, and never more than there is room for",
    ),
    async () => {
      const device = new TestVsock();
      const peer = new EchoPeer(device, 10_000);
      const driver = await VsockDriver.open(new Loopback(device), { ring });
      expect(driver.cid).toBe(GUEST);
      const socket = await driver.connect(PEER, { receiveBuffer: 20_000 });
      const data = pattern(1 << 20);
      const reading = readAll(socket);
      await socket.write(data);
      await socket.end();
      expect(firstDifference(await reading, data)).toBe(-1);
      expect(peer.overruns).toBe(0);
      // "All packets associated with a stream flow MUST contain valid information in buf_alloc and fwd_cnt fields."
      for (const { bufAlloc } of device.packets) expect(bufAlloc).toBe(20_000);
      const counts = device.packets.map(({ fwdCnt }) => fwdCnt);
      expect(counts).toEqual(counts.toSorted((a, b) => a - b));
      await socket.close();
      await driver.close();
    },
  );
});

test.each(WAYS.filter(({ legacy }) => !legacy))("vsock over $name", async ({ connect }) => {
  const device = new TestVsock();
  const peer = new EchoPeer(device, 65_536);
  const driver = await VsockDriver.open(connect(device));
  const socket = await driver.connect(PEER);
  const data = pattern(200_000);
  const reading = readAll(socket);
  await socket.write(data);
  await socket.end();
  expect(firstDifference(await reading, data)).toBe(-1);
  expect(peer.overruns).toBe(0);
  await driver.close();
});

test("messages and records keep their bounds", async () => {
  const device = new TestVsock();
  const peer = new EchoPeer(device, 40_000);
  const driver = await VsockDriver.open(new Loopback(device));
  const socket = await driver.connect(PEER, { kind: "seqpacket", receiveBuffer: 40_000 });
  for (const length of [1, 0, 5000, 40_000, 17]) {
    const message = pattern(length, length + 1);
    await socket.write(message, undefined, length === 17);
    const got = await socket.receive();
    expect(got?.endOfRecord).toBe(length === 17);
    expect(firstDifference(got?.bytes ?? new Uint8Array(9), message)).toBe(-1);
  }
  expect(peer.overruns).toBe(0);
  await expect(socket.write(new Uint8Array(40_001))).rejects.toThrow("room for 40000");
  await driver.close();
});

test(
  clause(
    "drv.vsock.features",
    "NO_IMPLIED_STREAM is accepted; which sockets there are follows from the features",
  ),
  async () => {
    const [stream, seqpacket, explicit] = [
      featureBits(VIRTIO_VSOCK_F_STREAM),
      featureBits(VIRTIO_VSOCK_F_SEQPACKET),
      featureBits(VIRTIO_VSOCK_F_NO_IMPLIED_STREAM),
    ];
    for (const [features, streams, messages] of [
      [0n, true, false],
      [stream, true, false],
      [seqpacket, true, true],
      [seqpacket | explicit, false, true],
      [stream | explicit, true, false],
      [ALL_VSOCK, true, true],
    ] as const) {
      const driver = await VsockDriver.open(new Loopback(new TestVsock(features)));
      expect(driver.session.features & ALL_VSOCK).toBe(features);
      expect([driver.supports("stream"), driver.supports("seqpacket")]).toEqual([streams, messages]);
      if (!streams) expect(() => driver.listen(1)).toThrow("no stream sockets");
      if (!messages)
        await expect(driver.connect(PEER, { kind: "seqpacket" })).rejects.toThrow("no seqpacket sockets");
      await driver.close();
    }
  },
);

test("connections are made, refused, given up; a port is one connection's", async () => {
  const device = new TestVsock();
  const driver = await VsockDriver.open(new Loopback(device));
  const refused = driver.connect(PEER, { localPort: 1000 });
  const [request] = device.packets;
  expect(request).toMatchObject({
    op: VIRTIO_VSOCK_OP_REQUEST,
    type: 1,
    source: { cid: GUEST, port: 1000 },
    destination: PEER,
  });
  await expect(driver.connect(PEER, { localPort: 1000 })).rejects.toThrow("is connected to 2:80");
  device.send({ ...to(1000), op: VIRTIO_VSOCK_OP_RST });
  await expect(refused).rejects.toMatchObject({ name: "VsockError", code: "refused" });
  await expect(driver.connect(PEER, { signal: AbortSignal.timeout(10) })).rejects.toThrow(/time/);
  expect(device.packets.at(-1)?.op).toBe(VIRTIO_VSOCK_OP_RST);
  const sent = device.packets.length;
  await expect(driver.connect(PEER, { signal: AbortSignal.abort() })).rejects.toThrow();
  expect(device.packets.length).toBe(sent);
  const pending = driver.connect(PEER);
  const ended = expect(pending).rejects.toMatchObject({ code: "closed" });
  await driver.close();
  await ended;
});

test("listening: accepted in order, refused beyond the backlog, and where nobody listens", async () => {
  const device = new TestVsock();
  const driver = await VsockDriver.open(new Loopback(device));
  const listener = driver.listen(22, { backlog: 2 });
  expect(() => driver.listen(22)).toThrow("somebody listens at port 22");
  const ask = (port: number, local: number, type = 1): number | undefined => {
    device.send({
      source: { cid: HOST, port },
      destination: { cid: GUEST, port: local },
      op: VIRTIO_VSOCK_OP_REQUEST,
      type,
    });
    const answer = device.packets.at(-1);
    expect(answer).toMatchObject({
      source: { cid: GUEST, port: local },
      destination: { cid: HOST, port },
      type,
    });
    return answer?.op;
  };
  expect([ask(1, 22), ask(2, 22), ask(3, 22), ask(4, 23), ask(5, 22, 2)]).toEqual([
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_RST,
  ]);
  expect((await listener.accept())?.remote.port).toBe(1);
  // One that was reset while it waited is nobody's.
  device.send({
    source: { cid: HOST, port: 2 },
    destination: { cid: GUEST, port: 22 },
    op: VIRTIO_VSOCK_OP_RST,
  });
  expect(ask(6, 22)).toBe(VIRTIO_VSOCK_OP_RESPONSE);
  expect((await listener.accept())?.remote.port).toBe(6);
  await expect(listener.accept(AbortSignal.timeout(5))).rejects.toThrow(/time/);
  // Who gave up took nothing away.
  expect(ask(7, 22)).toBe(VIRTIO_VSOCK_OP_RESPONSE);
  expect((await listener.accept())?.remote.port).toBe(7);
  expect(ask(8, 22)).toBe(VIRTIO_VSOCK_OP_RESPONSE);
  listener.close();
  expect(device.packets.at(-1)).toMatchObject({ op: VIRTIO_VSOCK_OP_RST, destination: { port: 8 } });
  expect(await listener.accept()).toBeUndefined();
  expect(ask(9, 22)).toBe(VIRTIO_VSOCK_OP_RST);
  await driver.close();
});

test("ends: of one direction, of both, by reset, and one that nobody confirms", async () => {
  const device = new TestVsock();
  const { driver, socket, port } = await connected(device);
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_RW }, pattern(10));
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_SHUTDOWN, flags: 2 });
  expect((await socket.read())?.length).toBe(10);
  expect(await socket.read()).toBeUndefined();
  await socket.write(pattern(5));
  expect(device.packets.at(-1)).toMatchObject({ op: VIRTIO_VSOCK_OP_RW, length: 5 });
  // "successive packets with bits clear do not reset them"
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_SHUTDOWN, flags: 0 });
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_SHUTDOWN, flags: 1 });
  expect(device.packets.at(-1)?.op).toBe(VIRTIO_VSOCK_OP_RST);
  await expect(socket.write(pattern(5))).rejects.toMatchObject({ code: "closed" });
  expect(await socket.read()).toBeUndefined();
  await driver.close();

  const other = await connected(new TestVsock());
  const lost = expect(other.socket.read()).rejects.toMatchObject({ code: "closed" });
  await other.driver.close();
  await lost;

  const third = new TestVsock();
  const open = await connected(third);
  third.send({ ...to(open.port), op: VIRTIO_VSOCK_OP_RW }, pattern(3));
  third.send({ ...to(open.port), op: VIRTIO_VSOCK_OP_RST });
  expect((await open.socket.read())?.length).toBe(3);
  await expect(open.socket.read()).rejects.toMatchObject({ code: "reset" });
  await expect(open.socket.write(pattern(3))).rejects.toMatchObject({ code: "reset" });
  // Nobody is answered with a reset for a reset.
  expect(third.packets.at(-1)?.op).not.toBe(VIRTIO_VSOCK_OP_RST);
  await open.driver.close();

  const fourth = new TestVsock();
  const last = await connected(fourth);
  const start = Date.now();
  await last.socket.close();
  expect(Date.now() - start).toBeGreaterThan(1500);
  expect(fourth.packets.slice(-2).map(({ op }) => op)).toEqual([
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_OP_RST,
  ]);
  await last.driver.close();
});

test("a writer waits for room, asks for it, and can give up", async () => {
  const device = new TestVsock();
  const { driver, socket, port } = await connected(device);
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_CREDIT_UPDATE, bufAlloc: 100 });
  let done = false;
  const writing = socket.write(pattern(150)).then(() => (done = true));
  await settle(100);
  expect(done).toBe(false);
  expect(device.packets.slice(-2).map(({ op, length }) => [op, length])).toEqual([
    [VIRTIO_VSOCK_OP_RW, 100],
    [VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0],
  ]);
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_CREDIT_UPDATE, bufAlloc: 100, fwdCnt: 100 });
  await writing;
  await expect(socket.write(pattern(80), AbortSignal.timeout(10))).rejects.toThrow(/time/);
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_CREDIT_REQUEST, bufAlloc: 100, fwdCnt: 100 });
  expect(device.packets.at(-1)?.op).toBe(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  await driver.close();
});

test(
  clause(
    "drv.vsock.rxtx",
    "our CID is the source of everything, and what is of no known type or socket is reset",
  ),
  async () => {
    const device = new TestVsock();
    const { driver, port } = await connected(device);
    for (const header of [
      { ...to(port), type: 3, op: VIRTIO_VSOCK_OP_RW },
      { ...to(port), type: 0, op: VIRTIO_VSOCK_OP_REQUEST },
      { ...to(port + 1), type: 2, op: VIRTIO_VSOCK_OP_RW },
      { ...to(port), destination: { cid: 99, port }, type: 1, op: VIRTIO_VSOCK_OP_RW },
    ]) {
      const before = device.packets.length;
      device.send(header);
      expect(device.packets.length).toBe(before + 1);
      const { type, source, destination } = header;
      const expected = {
        op: VIRTIO_VSOCK_OP_RST,
        type,
        destination: source,
        source: { port: destination.port },
      };
      expect(device.packets.at(-1)).toMatchObject(expected);
    }
    for (const { source } of device.packets) expect(source.cid).toBe(GUEST);
    await driver.close();
  },
);

test(
  clause("drv.vsock.events", "a transport reset ends connections, reads the CID again, and leaves listeners"),
  async () => {
    const device = new TestVsock();
    const { driver, socket } = await connected(device);
    const listener = driver.listen(5);
    const reading = socket.read();
    let resets = 0;
    driver.onTransportReset = () => void resets++;
    for (let i = 0; i < 40; i++) expect(device.event(77)).toBe(true);
    expect(resets).toBe(0);
    const before = device.packets.length;
    writeLe32(device.cid, 0, 8);
    expect(device.event(0)).toBe(true);
    await expect(reading).rejects.toMatchObject({ code: "transport-reset" });
    expect([driver.cid, resets, device.packets.length]).toEqual([8, 1, before]);
    device.send({ source: PEER, destination: { cid: 8, port: 5 }, op: VIRTIO_VSOCK_OP_REQUEST });
    expect(device.packets.at(-1)).toMatchObject({
      op: VIRTIO_VSOCK_OP_RESPONSE,
      source: { cid: 8, port: 5 },
    });
    expect((await listener.accept())?.remote).toEqual(PEER);
    await driver.close();
  },
);

test("a listener that was closed leaves the next one at its port alone", async () => {
  const device = new TestVsock();
  const driver = await VsockDriver.open(new Loopback(device));
  const first = driver.listen(9);
  first.close();
  const second = driver.listen(9);
  first.close();
  device.send({ ...to(9), op: VIRTIO_VSOCK_OP_REQUEST });
  expect(device.packets.at(-1)?.op).toBe(VIRTIO_VSOCK_OP_RESPONSE);
  expect((await second.accept())?.isOpen).toBe(true);
  await driver.close();
});

test("a stream in many small packets arrives whole, whoever reads late", async () => {
  const device = new TestVsock();
  const { driver, socket, port } = await connected(device);
  const data = pattern(40_000);
  for (let at = 0; at < data.length; at++)
    device.send({ ...to(port), op: VIRTIO_VSOCK_OP_RW }, data.subarray(at, at + 1));
  expect(socket.isOpen).toBe(true);
  device.send({ ...to(port), op: VIRTIO_VSOCK_OP_SHUTDOWN, flags: 2 });
  const pieces: Uint8Array[] = [];
  for await (const bytes of socket) pieces.push(bytes);
  expect(firstDifference(concat(pieces), data)).toBe(-1);
  expect(pieces.length).toBeLessThan(100);
  await driver.close();
});

test("messages of one byte, and one in pieces of a byte, are as good as others", async () => {
  const device = new TestVsock();
  const { driver, socket, port } = await connected(device, { kind: "seqpacket" });
  const data = pattern(40_000);
  const send = (at: number, flags: number): void =>
    device.send({ ...to(port), type: 2, op: VIRTIO_VSOCK_OP_RW, flags }, data.subarray(at, at + 1));
  for (let at = 0; at < data.length; at++) send(at, at + 1 < data.length ? 0 : 1);
  for (let at = 0; at < data.length; at++) send(at, 1);
  expect(socket.isOpen).toBe(true);
  expect(firstDifference((await socket.read()) ?? new Uint8Array(0), data)).toBe(-1);
  for (const byte of data) expect(await socket.read()).toEqual(Uint8Array.of(byte));
  await driver.close();
});

test("an end that the device does not take, or behind what the peer has no room for, has its time, too", async () => {
  const [deaf, full] = [new TestVsock(), new TestVsock()];
  const [first, second] = await Promise.all([connected(deaf), connected(full)]);
  deaf.deaf = true;
  full.send({ ...to(second.port), op: VIRTIO_VSOCK_OP_CREDIT_UPDATE, bufAlloc: 100 });
  const writing = expect(second.socket.write(pattern(150))).rejects.toMatchObject({ code: "closed" });
  await Promise.all([first.socket.close(), second.socket.close()]);
  await writing;
  expect([first.socket.isOpen, second.socket.isOpen]).toEqual([false, false]);
  await Promise.all([first.driver.close(), second.driver.close()]);
});
