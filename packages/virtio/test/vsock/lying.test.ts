import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { expect, test } from "vitest";
import { VsockDriver } from "../../src/drivers/vsock/driver.ts";
import { writeLe32 } from "../../src/memory/bytes.ts";
import {
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
} from "../../src/spec/vsock.ts";
import { pattern } from "../support/ends.ts";
import { Loopback, settle } from "../support/loopback.ts";
import { GUEST, HOST, TestVsock } from "./host.ts";

const PEER = { cid: HOST, port: 80 };
const to = (port: number) => ({ source: PEER, destination: { cid: GUEST, port } });

test("a packet that says it is longer than what was written is the end of the device", async () => {
  for (const [length, written] of [
    [1, 44],
    [4097, 44 + 4096],
    [0xffff_ffff, 44],
    [0, 43],
    [0, 0],
  ] as const) {
    const device = new TestVsock();
    const driver = await VsockDriver.open(new Loopback(device));
    const listener = driver.listen(1);
    const accepting = listener.accept();
    device.send({ length, op: VIRTIO_VSOCK_OP_RW }, new Uint8Array(0), written);
    await expect(accepting).rejects.toThrow("longer than what was written");
    await expect(driver.connect(PEER)).rejects.toThrow();
    await driver.close();
  }
});

test("a peer that sends more than there is room for, or what may not come, loses its connection and no other", async () => {
  const device = new TestVsock();
  const driver = await VsockDriver.open(new Loopback(device));
  const connect = async (port: number, kind: "stream" | "seqpacket" = "stream") => {
    const connecting = driver.connect(PEER, { localPort: port, receiveBuffer: 10_000, kind });
    device.send({ ...to(port), op: VIRTIO_VSOCK_OP_RESPONSE, type: kind === "stream" ? 1 : 2 });
    return connecting;
  };
  const good = await connect(1);
  const lies: ((port: number) => void)[] = [
    (port) => {
      for (let i = 0; i < 3; i++) device.send({ ...to(port), op: VIRTIO_VSOCK_OP_RW }, pattern(4096));
    },
    (port) => device.send({ ...to(port), op: VIRTIO_VSOCK_OP_RESPONSE }),
    (port) => device.send({ ...to(port), op: VIRTIO_VSOCK_OP_REQUEST }),
    (port) => device.send({ ...to(port), op: 0xffff }),
    (port) => device.send({ ...to(port), op: 0 }),
    (port) => device.send({ ...to(port), op: VIRTIO_VSOCK_OP_RW, type: 2 }),
  ];
  for (const [i, lie] of lies.entries()) {
    const bad = await connect(100 + i);
    lie(100 + i);
    expect(device.packets.at(-1)).toMatchObject({ op: VIRTIO_VSOCK_OP_RST, source: { port: 100 + i } });
    await expect(bad.write(pattern(1))).rejects.toMatchObject({ code: "protocol" });
  }
  const late = await connect(200);
  device.send({ ...to(200), op: VIRTIO_VSOCK_OP_SHUTDOWN, flags: 2 });
  device.send({ ...to(200), op: VIRTIO_VSOCK_OP_RW }, pattern(5));
  await expect(late.write(pattern(1))).rejects.toMatchObject({ code: "protocol" });
  // Messages without a byte cost no credit, and still there is an end to them.
  const messages = await connect(300, "seqpacket");
  for (let i = 0; i < 20_000 && messages.isOpen; i++)
    device.send({ ...to(300), op: VIRTIO_VSOCK_OP_RW, type: 2, flags: 1 });
  expect(messages.isOpen).toBe(false);
  device.send({ ...to(1), op: VIRTIO_VSOCK_OP_RW }, pattern(7));
  expect((await good.read())?.length).toBe(7);
  await driver.close();
});

test(
  clause(
    "drv.vsock.vq-flow-control",
    "packets are taken while the transmit queue is full, but not without end",
  ),
  async () => {
    const device = new TestVsock();
    const driver = await VsockDriver.open(new Loopback(device));
    const connecting = driver.connect(PEER, { localPort: 5 });
    device.send({ ...to(5), op: VIRTIO_VSOCK_OP_RESPONSE });
    const socket = await connecting;
    device.deaf = true;
    // Every one of these must be answered, and nothing is sent any more.
    for (let i = 0; i < 500; i++) device.send({ ...to(1000 + i), op: VIRTIO_VSOCK_OP_RW });
    expect(device.backlog).toBe(0);
    device.send({ ...to(5), op: VIRTIO_VSOCK_OP_RW }, pattern(9));
    expect((await socket.read())?.length).toBe(9);
    for (let i = 0; i < 2000; i++) device.send({ ...to(1000 + i), op: VIRTIO_VSOCK_OP_RW });
    expect(device.backlog).toBeGreaterThan(1000);
    expect(device.packets.length).toBeLessThan(200);
    await driver.close();
  },
);

test("any packets at all neither hang nor break the driver", async () => {
  const number = fc.oneof(fc.nat(3), fc.nat(100), fc.nat(0xffff_ffff));
  const packet = fc.record({
    cid: fc.oneof(fc.constant(HOST), number),
    port: fc.constantFrom(80, 81),
    local: fc.constantFrom(1, 2, 3),
    type: fc.constantFrom(1, 1, 2, 0, 7),
    op: fc.nat(9),
    flags: fc.nat(4),
    bufAlloc: number,
    fwdCnt: number,
    payload: fc.uint8Array({ maxLength: 40 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(packet, { maxLength: 60 }), async (packets) => {
      const device = new TestVsock();
      const driver = await VsockDriver.open(new Loopback(device));
      const listener = driver.listen(1, { receiveBuffer: 500, backlog: 4 });
      driver.listen(2, { kind: "seqpacket" });
      const connecting = driver.connect(PEER, { localPort: 3 }).then(
        (socket) => socket.write(pattern(1000)),
        () => undefined,
      );
      connecting.catch(() => undefined);
      for (const { cid, port, local, payload, ...rest } of packets) {
        device.send({ source: { cid, port }, destination: { cid: GUEST, port: local }, ...rest }, payload);
        if (!listener.isFull) continue;
        void listener.accept().then(
          (socket) => socket?.read().catch(() => undefined),
          () => undefined,
        );
        await settle(2);
      }
      expect(driver.session.failure).toBeUndefined();
      await driver.close();
      await connecting.catch(() => undefined);
    }),
    { numRuns: 60 },
  );
});

test("no CID, a reserved CID after a reset, and short events", async () => {
  for (const cid of [0, 1, 2, 0xffff_ffff]) {
    const device = new TestVsock();
    writeLe32(device.cid, 0, cid);
    await expect(VsockDriver.open(new Loopback(device))).rejects.toThrow("guest_cid that is reserved");
  }
  for (const short of [false, true]) {
    const device = new TestVsock();
    const driver = await VsockDriver.open(new Loopback(device));
    const accepting = driver.listen(1).accept();
    writeLe32(device.cid, 4, 1);
    device.event(0, short ? 3 : 4);
    await expect(accepting).rejects.toThrow(short ? "short event" : "reserved");
    await driver.close();
  }
});
