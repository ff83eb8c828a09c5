import { clause, notApplicable } from "@virtio/testkit/clause";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { DeviceContext, QueueSpec, VirtioDevice } from "../../src/device/device.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { NET_DRIVER_FEATURES, NetDriver } from "../../src/drivers/net/driver.ts";
import { writeLe16, writeLe32 } from "../../src/memory/bytes.ts";
import { VIRTIO_F_ADMIN_VQ, featureBits } from "../../src/spec/core.ts";
import {
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_SPEED_DUPLEX,
  VIRTIO_NET_F_STATUS,
} from "../../src/spec/net.ts";
import { SUPPORTED_CORE_FEATURES } from "../../src/device/features.ts";
import { Loopback } from "../support/loopback.ts";
import { FakeCable, concat } from "../support/ends.ts";
import { MAC, PEER, frame } from "./frames.ts";

/** A device that says and sends whatever the test wants. */
class LyingDevice implements VirtioDevice {
  readonly id = 1;
  readonly name = "net";
  readonly features: bigint;
  readonly queues: readonly QueueSpec[] = ["receiveq1", "transmitq1"].map((name) => ({ name, maxSize: 64 }));
  readonly bytes: Uint8Array = new Uint8Array(17);
  readonly config = {
    length: 17,
    read: (offset: number, target: Uint8Array): void =>
      target.set(this.bytes.subarray(offset, offset + target.length)),
    write: (offset: number): void => void this.writes.push(offset),
  };
  readonly writes: number[] = [];
  context: DeviceContext | undefined;

  constructor(features: bigint) {
    this.features = features;
    this.bytes.set(MAC);
  }

  activate(context: DeviceContext): void {
    this.context = context;
  }

  /** Uses one receive buffer for each piece, and says that so many bytes were written. */
  send(...pieces: readonly { readonly bytes: Uint8Array; readonly written?: number }[]): void {
    const { context } = this;
    const queue = context?.queue(0);
    if (context === undefined || queue === undefined) throw new Error("not running");
    for (const { bytes, written = bytes.length } of pieces) {
      const chain = queue.popAvailable();
      const gpa = chain?.writable[0]?.gpa;
      if (chain === undefined || gpa === undefined) throw new Error("no buffer");
      context.memory.view(gpa, bytes.length).set(bytes);
      queue.addUsed(chain, written);
    }
    queue.flush();
  }
}

function header(buffers: number, flags = 0): Uint8Array {
  const bytes = new Uint8Array(12);
  bytes[0] = flags;
  writeLe16(bytes, 10, buffers);
  return bytes;
}

test(
  clause(
    ["drv.net.tx", "drv.net.rx-buffers"],
    "every buffer has a header of the same size, zero on the way out",
  ),
  async () => {
    for (const [without, legacy, size] of [
      [0n, false, 12],
      [featureBits(VIRTIO_NET_F_MRG_RXBUF), false, 12],
      [0n, true, 12],
      [featureBits(VIRTIO_NET_F_MRG_RXBUF), true, 10],
    ] as const) {
      const cable = new FakeCable();
      const device = new NetDevice({ backend: cable, mac: MAC, mtu: 4000 });
      const headers: Uint8Array[] = [];
      const rooms: number[] = [];
      const loopback: Loopback = new Loopback(device, {
        legacy,
        observer: {
          available: (_device, queue, chain) => {
            const first = chain.readable[0];
            if (queue === 1 && first !== undefined)
              headers.push(loopback.memory.view(first.gpa, chain.readableLength - 4014).slice());
            if (queue === 0) rooms.push(chain.writableLength);
          },
        },
      });
      const driver = await NetDriver.open(loopback, { without });
      // "[…] it MUST NOT transmit packets of size exceeding the value of mtu (plus low level ethernet header length)."
      await expect(driver.send(frame(PEER, 4015))).rejects.toThrow("MTU");
      await driver.send(frame(PEER, 4014));
      cable.port?.receive(frame(MAC, 4014));
      expect(await driver.receive()).toEqual(frame(MAC, 4014));
      expect(headers).toEqual([new Uint8Array(size)]);
      const mergeable = without === 0n;
      for (const room of rooms) expect(room).toBeGreaterThanOrEqual(mergeable ? 12 : 4014 + size);
      await driver.close();
    }
    // Without an MTU: "buffers of at least 1526 bytes".
    const cable = new FakeCable();
    const device = new NetDevice({ backend: cable, mac: MAC });
    let least = Infinity;
    const loopback = new Loopback(device, {
      observer: {
        available: (_device, _queue, chain) => void (least = Math.min(least, chain.writableLength)),
      },
    });
    const driver = await NetDriver.open(loopback, { without: featureBits(VIRTIO_NET_F_MRG_RXBUF) });
    cable.port?.receive(frame(MAC, 60));
    expect(least).toBeGreaterThanOrEqual(1526);
    await driver.close();
  },
);

test(clause("drv.net.rx", "flags and fields of offloads that were not accepted are ignored"), async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 10, maxLength: 10 }), async (random) => {
      const device = new LyingDevice(featureBits(VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF));
      const driver = await NetDriver.open(new Loopback(device));
      const bytes = header(1);
      bytes.set(random);
      device.send({ bytes: concat([bytes, frame(MAC, 60)]) });
      expect(await driver.receive()).toEqual(frame(MAC, 60));
      device.send({ bytes: concat([header(2, 0xff), frame(MAC, 30)]) }, { bytes: new Uint8Array(5) });
      expect(await driver.receive()).toEqual(concat([frame(MAC, 30), new Uint8Array(5)]));
      await driver.close();
    }),
    { numRuns: 20 },
  );
});

test("a device that lies about a receive buffer is not used any more", async () => {
  const lies = [
    { name: "no buffers", pieces: [{ bytes: header(0) }] },
    { name: "more buffers than there are", pieces: [{ bytes: header(65) }] },
    { name: "no header", pieces: [{ bytes: header(1), written: 11 }] },
    { name: "nothing written", pieces: [{ bytes: header(1), written: 0 }] },
  ];
  for (const { name, pieces } of lies) {
    const device = new LyingDevice(featureBits(VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF));
    const driver = await NetDriver.open(new Loopback(device));
    const receiving = driver.receive();
    device.send(...pieces);
    await expect(receiving, name).rejects.toThrow("impossible receive header");
    await expect(driver.send(frame(PEER, 60)), name).rejects.toThrow();
    expect(driver.session.failure, name).toBeInstanceOf(Error);
    await driver.close();
  }
});

test(
  clause("drv.net.config", "what the configuration says is used, and what makes no sense is unknown"),
  async () => {
    const all = featureBits(
      VIRTIO_NET_F_MAC,
      VIRTIO_NET_F_STATUS,
      VIRTIO_NET_F_MTU,
      VIRTIO_NET_F_SPEED_DUPLEX,
    );
    const device = new LyingDevice(all);
    const { bytes } = device;
    writeLe16(bytes, 10, 1280);
    writeLe32(bytes, 12, 10_000);
    bytes[16] = 1;
    const loopback = new Loopback(device);
    const driver = await NetDriver.open(loopback);
    expect([driver.mac, driver.mtu, driver.linkUp]).toEqual([MAC, 1280, false]);
    expect([driver.speed, driver.fullDuplex]).toEqual([10_000, true]);
    let changes = 0;
    driver.onChange = () => void changes++;
    for (const [speed, duplex] of [
      [0x8000_0000, 2],
      [0xffff_ffff, 0xff],
    ] as const) {
      writeLe32(bytes, 12, speed);
      bytes[16] = duplex;
      device.context?.configChanged();
      expect([driver.speed, driver.fullDuplex]).toEqual([undefined, undefined]);
    }
    expect(changes).toBe(2);
    await driver.close();
    // Without VIRTIO_NET_F_STATUS the link counts as active, without VIRTIO_NET_F_MAC the address is a local one.
    const bare = await NetDriver.open(new Loopback(new LyingDevice(0n)));
    expect(bare.linkUp).toBe(true);
    expect((bare.mac[0] ?? 0) & 3).toBe(2);
    expect(bare.speed).toBeUndefined();
    // "The driver MUST NOT write to any of the device configuration fields."
    expect(device.writes).toEqual([]);
    await bare.close();
  },
);

const NOT_OFFERED = [
  {
    ids: ["dev.net.ctrl.hash-tunnel", "drv.net.ctrl.hash-tunnel"],
    feature: "VIRTIO_NET_F_HASH_TUNNEL",
    bit: 51,
  },
  { ids: ["dev.net.ctrl.rss-processing", "drv.net.ctrl.rss"], feature: "VIRTIO_NET_F_RSS", bit: 60 },
  {
    ids: ["dev.net.ctrl.rss-context", "drv.net.ctrl.rss-context"],
    feature: "VIRTIO_NET_F_RSS_CONTEXT",
    bit: 64,
  },
  { ids: ["drv.net.ctrl.offloads"], feature: "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS", bit: 2 },
  { ids: ["dev.net.ctrl.coalescing", "drv.net.ctrl.coalescing"], feature: "VIRTIO_NET_F_NOTF_COAL", bit: 53 },
  { ids: ["dev.net.ctrl.stats", "drv.net.ctrl.stats"], feature: "VIRTIO_NET_F_DEVICE_STATS", bit: 50 },
  { ids: ["dev.net.ipsec", "drv.net.ipsec"], feature: "VIRTIO_NET_F_IPSEC", bit: 70 },
];

for (const { ids, feature, bit } of NOT_OFFERED)
  test(notApplicable(ids, `${feature} is not offered, and our driver does not take it`), () => {
    const device = new NetDevice({ backend: new FakeCable(), mac: MAC, mtu: 1500, speed: 1, queuePairs: 2 });
    expect(device.features & featureBits(bit)).toBe(0n);
    expect(NET_DRIVER_FEATURES & featureBits(bit)).toBe(0n);
  });

test(
  notApplicable(
    ["dev.net.flow-filter", "drv.net.flow-filter"],
    "flow filters are administered over an administration virtqueue, and VIRTIO_F_ADMIN_VQ is not offered",
  ),
  () => expect(SUPPORTED_CORE_FEATURES & featureBits(VIRTIO_F_ADMIN_VQ)).toBe(0n),
);
