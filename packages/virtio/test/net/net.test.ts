import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NetDevice } from "../../src/devices/net/device.ts";
import type { NetOptions } from "../../src/devices/net/options.ts";
import { NetDriver } from "../../src/drivers/net/driver.ts";
import { featureBits } from "../../src/spec/core.ts";
import {
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_STATUS,
} from "../../src/spec/net.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { FakeCable, firstDifference } from "../support/ends.ts";
import { BROADCAST, MAC, PEER, frame, tagged } from "./frames.ts";

function device(options: Partial<NetOptions> = {}): { cable: FakeCable; device: NetDevice } {
  const cable = new FakeCable();
  return { cable, device: new NetDevice({ backend: cable, mac: MAC, ...options }) };
}

describe.each(RINGS)("net over $name", ({ ring }) => {
  test.each([true, false])("frames of every size go both ways, in order (merging: %s)", async (merge) => {
    const { cable, device: net } = device({ mtu: 9000 });
    const without = merge ? 0n : featureBits(VIRTIO_NET_F_MRG_RXBUF);
    const driver = await NetDriver.open(new Loopback(net), {
      ring,
      without,
      receiveCount: 16,
      ...(merge ? { receiveSize: 500 } : {}),
    });
    const lengths = [14, 15, 60, 487, 488, 489, 988, 989, 1514, 4000, 9014];
    for (const length of lengths) await driver.send(frame(PEER, length));
    expect(cable.frames.map((sent) => sent.length)).toEqual(lengths);
    lengths.forEach((length, i) => {
      const sent = cable.frames[i];
      expect(sent && firstDifference(sent, frame(PEER, length))).toBe(-1);
    });
    for (const length of lengths) {
      const wanted = frame(MAC, length, length);
      while (cable.port?.receive(wanted) === false) await driver.receive();
      const got = await driver.receive();
      expect(got && firstDifference(got, wanted)).toBe(-1);
    }
    await driver.close();
  });

  test("nothing is lost when the driver is slow: the backend waits", async () => {
    const { cable, device: net } = device();
    const driver = await NetDriver.open(new Loopback(net), { ring, receiveCount: 8, maxWaiting: 4 });
    const total = 500;
    let sent = 0;
    const push = (): void => {
      while (
        sent < total &&
        cable.port?.receive(frame(MAC, 60 + (sent % 100), sent), sent % 3 !== 0 && sent + 1 < total) === true
      )
        sent++;
    };
    cable.onReady = push;
    push();
    expect(sent).toBeLessThan(20);
    for (let i = 0; i < total; i++) {
      const got = await driver.receive();
      expect(got && firstDifference(got, frame(MAC, 60 + (i % 100), i))).toBe(-1);
    }
    expect(cable.readyCalls).toBeGreaterThan(0);
    await driver.close();
  });

  test("a batch is one notification", async () => {
    const { cable, device: net } = device();
    const loopback = new Loopback(net);
    const driver = await NetDriver.open(loopback, { ring });
    const before = loopback.instance.counters[0]?.notificationsSent ?? 0;
    for (let i = 0; i < 10; i++) cable.port?.receive(frame(MAC, 100, i), i < 9);
    expect((loopback.instance.counters[0]?.notificationsSent ?? 0) - before).toBe(1);
    for (let i = 0; i < 10; i++) expect(await driver.receive()).toEqual(frame(MAC, 100, i));
    await driver.close();
  });

  test(
    clause(["dev.net.ctrl.mq", "drv.net.ctrl.mq"], "flows come back on the pair they were sent on"),
    async () => {
      const { cable, device: net } = device({ queuePairs: 4 });
      const loopback = new Loopback(net);
      const driver = await NetDriver.open(loopback, { ring });
      expect(driver.maxPairs).toBe(4);
      const used = (): number[] =>
        [0, 2, 4, 6].map((index) => loopback.instance.counters[index]?.chains ?? 0);
      await expect(driver.send(flow(1), 1)).rejects.toThrow("not in use");
      for (let i = 0; i < 50; i++) cable.port?.receive(answer(i));
      // "After initialization of reset, the device MUST queue packets only on receiveq1."
      expect(used()).toEqual([50, 0, 0, 0]);
      await driver.setPairs(4);
      expect(net.pairs).toBe(4);
      for (let i = 0; i < 40; i++) {
        await driver.send(flow(i), i % 4);
        const before = used();
        cable.port?.receive(answer(i));
        const after = used();
        expect(after.map((count, pair) => count - (before[pair] ?? 0))).toEqual(
          [0, 1, 2, 3].map((pair) => (pair === i % 4 ? 1 : 0)),
        );
      }
      await expect(driver.control.setPairs(0)).rejects.toThrow("refuses");
      await expect(driver.control.setPairs(5)).rejects.toThrow("refuses");
      await driver.setPairs(1);
      const before = used();
      for (let i = 0; i < 40; i++) cable.port?.receive(answer(i));
      expect(used().slice(1)).toEqual(before.slice(1));
      // "If the destination receive queue is being reset, the device SHOULD re-select another random queue."
      await driver.setPairs(2);
      await driver.send(flow(3), 1);
      await loopback.resetQueue(2);
      const first = used()[0] ?? 0;
      cable.port?.receive(answer(3));
      expect(used()[0]).toBe(first + 1);
      await loopback.resetQueue(0);
      const dropped = net.counters.receiveDropped;
      expect(cable.port?.receive(answer(3))).toBe(true);
      expect(net.counters.receiveDropped).toBe(dropped + 1);
      await driver.close();
    },
  );
});

test(
  clause(
    ["dev.net.ctrl.rx-filter", "drv.net.ctrl.rx-filter"],
    "receive modes let in and keep out what they say",
  ),
  async () => {
    const { cable, device: net } = device();
    const driver = await NetDriver.open(new Loopback(net), { receiveCount: 64 });
    const multicast = Uint8Array.of(1, 0, 0x5e, 0, 0, 9);
    const passes = (destination: Uint8Array): boolean => {
      const before = net.counters.received;
      cable.port?.receive(frame(destination, 60));
      return net.counters.received > before;
    };
    const all = (): boolean[] => [MAC, PEER, multicast, BROADCAST].map(passes);
    // After a reset a device takes everything, for a driver without CTRL_RX cannot say otherwise.
    expect(all()).toEqual([true, true, true, true]);
    const { control } = driver;
    await control.setRxMode("promiscuous", false);
    expect(all()).toEqual([true, false, false, true]);
    await control.setRxMode("allMulticast", true);
    expect(all()).toEqual([true, false, true, true]);
    await control.setRxMode("noMulticast", true);
    expect(all()).toEqual([true, false, false, true]);
    await control.setRxMode("noBroadcast", true);
    expect(all()).toEqual([true, false, false, false]);
    await control.setRxMode("allUnicast", true);
    expect(all()).toEqual([true, true, false, false]);
    await control.setRxMode("noUnicast", true);
    expect(all()).toEqual([false, false, false, false]);
    await control.setRxMode("promiscuous", true);
    expect(all()).toEqual([true, true, true, true]);
    await driver.close();
    // "The driver MUST NOT issue commands […]" of features that were not negotiated: ours refuses to.
    const plain = await NetDriver.open(new Loopback(net), { without: featureBits(VIRTIO_NET_F_CTRL_VQ) });
    await expect(plain.control.setRxMode("promiscuous", true)).rejects.toThrow("not negotiated");
    expect(all()).toEqual([true, true, true, true]);
  },
);

test(
  clause(
    ["dev.net.ctrl.mac", "drv.net.ctrl.mac"],
    "the MAC table and the address are what frames are taken by",
  ),
  async () => {
    const { cable, device: net } = device();
    const loopback = new Loopback(net);
    const driver = await NetDriver.open(loopback);
    await driver.control.setRxMode("promiscuous", false);
    const passes = (destination: Uint8Array): boolean => {
      const before = net.counters.received;
      cable.port?.receive(frame(destination, 60));
      return net.counters.received > before;
    };
    const group = Uint8Array.of(0x33, 0x33, 0, 0, 0, 1);
    expect([MAC, PEER, group].map(passes)).toEqual([true, false, false]);
    await driver.control.setMacTable([PEER], [group]);
    expect([MAC, PEER, group].map(passes)).toEqual([true, true, true]);
    await driver.control.setMacTable([], [group]);
    expect([MAC, PEER, group].map(passes)).toEqual([true, false, true]);
    await driver.control.setMacTable([], []);
    await driver.setMac(PEER);
    expect([MAC, PEER, group].map(passes)).toEqual([false, true, false]);
    expect(driver.session.readConfig(0, 6)).toEqual(PEER);
    // Too many addresses: all of that kind come in, none of the other.
    const many = Array.from({ length: 300 }, (_, i) => Uint8Array.of(2, 0, 0, 0, i >> 8, i & 255));
    await driver.control.setMacTable(many, []);
    expect([MAC, PEER, group].map(passes)).toEqual([true, true, false]);
    // "The device MUST have an empty MAC filtering table on reset."
    await driver.close();
    expect(net.mac).toEqual(MAC);
    const again = await NetDriver.open(loopback);
    await again.control.setRxMode("promiscuous", false);
    expect([MAC, PEER, group].map(passes)).toEqual([true, false, false]);
    await again.close();
  },
);

test(clause("dev.net.ctrl.vlan", "tagged frames pass by the VLAN table when it was negotiated"), async () => {
  const { cable, device: net } = device();
  const driver = await NetDriver.open(new Loopback(net));
  const passes = (id: number): boolean => {
    const before = net.counters.received;
    cable.port?.receive(tagged(MAC, id));
    return net.counters.received > before;
  };
  await driver.control.setRxMode("promiscuous", false);
  expect([1, 7, 4095].map(passes)).toEqual([false, false, false]);
  await driver.control.setVlan(7, true);
  await driver.control.setVlan(4095, true);
  expect([1, 7, 4095].map(passes)).toEqual([false, true, true]);
  await driver.control.setVlan(7, false);
  expect([1, 7, 4095].map(passes)).toEqual([false, false, true]);
  await expect(driver.control.setVlan(4096, true)).rejects.toThrow("refuses");
  await driver.close();
  // "When VIRTIO_NET_F_CTRL_VLAN is not negotiated, the device MUST accept all VLAN tagged packets."
  const plain = await NetDriver.open(new Loopback(net), { without: featureBits(19) });
  await plain.control.setRxMode("promiscuous", false);
  expect([1, 7, 4095].map(passes)).toEqual([true, true, true]);
});

test(
  clause(
    ["dev.net.ctrl.announce", "drv.net.ctrl.announce"],
    "the driver announces itself when it is asked, once",
  ),
  async () => {
    const { device: net } = device();
    const loopback = new Loopback(net);
    expect(net.announce()).toBe(false);
    const driver = await NetDriver.open(loopback);
    let asked = 0;
    driver.onAnnounce = () => void asked++;
    expect(net.announce()).toBe(true);
    await settle();
    expect(asked).toBe(1);
    expect(driver.session.readConfig(6, 2)[0]).toBe(1);
    // After a restore the network may be another one.
    await loopback.instance.pause();
    const state = loopback.instance.save();
    loopback.instance.restore(state);
    loopback.instance.resume();
    await settle();
    expect(asked).toBe(2);
    await driver.close();
    const deaf = await NetDriver.open(loopback, { without: featureBits(VIRTIO_NET_F_CTRL_VQ) });
    expect(net.announce()).toBe(false);
    await deaf.close();
  },
);

test("the link goes down and up, and no frame passes meanwhile", async () => {
  const { cable, device: net } = device();
  const driver = await NetDriver.open(new Loopback(net));
  let changes = 0;
  driver.onChange = () => void changes++;
  expect(driver.linkUp).toBe(true);
  cable.linkUp = false;
  cable.port?.linkChanged();
  expect([driver.linkUp, changes]).toEqual([false, 1]);
  await driver.send(frame(PEER, 60));
  expect(cable.port?.receive(frame(MAC, 60))).toBe(true);
  expect([net.counters.sendDropped, net.counters.receiveDropped, cable.frames.length]).toEqual([1, 1, 0]);
  cable.linkUp = true;
  cable.port?.linkChanged();
  net.setLink(false);
  net.setLink(true);
  expect([driver.linkUp, changes]).toEqual([true, 4]);
  await driver.close();
  const plain = await NetDriver.open(new Loopback(net), { without: featureBits(VIRTIO_NET_F_STATUS) });
  net.setLink(false);
  expect(plain.linkUp).toBe(true);
});

test("a legacy driver gets the short header, and may write the address", async () => {
  const { cable, device: net } = device({ queuePairs: 2 });
  const loopback = new Loopback(net, { legacy: true });
  const without = featureBits(VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ);
  const driver = await NetDriver.open(loopback, { without });
  await driver.send(frame(PEER, 77));
  expect(cable.frames).toEqual([frame(PEER, 77)]);
  cable.port?.receive(frame(MAC, 99));
  expect(await driver.receive()).toEqual(frame(MAC, 99));
  expect(loopback.instance.counters[0]?.writtenBytes).toBe(109);
  driver.session.writeConfig(0, PEER);
  expect(net.mac).toEqual(PEER);
  await driver.close();
  expect(net.mac).toEqual(MAC);
});

test("state survives save and restore in another device, filters and pairs with it", async () => {
  const { cable, device: net } = device({ queuePairs: 2, announceOnRestore: false });
  const loopback = new Loopback(net);
  const driver = await NetDriver.open(loopback);
  await driver.setPairs(2);
  await driver.control.setRxMode("promiscuous", false);
  await driver.control.setMacTable([PEER], []);
  await driver.control.setVlan(5, true);
  await loopback.instance.pause();
  expect(cable.port?.receive(frame(MAC, 60))).toBe(false);
  const state = loopback.instance.save();
  loopback.instance.writeStatus(0);
  expect(net.pairs).toBe(1);
  loopback.instance.restore(structuredClone(state));
  loopback.instance.resume();
  expect(cable.readyCalls).toBe(1);
  expect([net.pairs, net.filter.unicast.addresses.size, net.mac]).toEqual([2, 1, MAC]);
  cable.port?.receive(frame(PEER, 61));
  expect(await driver.receive()).toEqual(frame(PEER, 61));
  await driver.send(frame(PEER, 62), 1);
  expect(cable.frames.length).toBe(1);
});

/** A UDP frame of one flow, as the driver sends it, and the answer to it. */
function flow(port: number): Uint8Array {
  return udp(MAC, PEER, [10, 0, 0, 1], [10, 0, 0, 2], 1000 + port, 53);
}

function answer(port: number): Uint8Array {
  return udp(PEER, MAC, [10, 0, 0, 2], [10, 0, 0, 1], 53, 1000 + port);
}

function udp(
  source: Uint8Array,
  destination: Uint8Array,
  from: number[],
  to: number[],
  sourcePort: number,
  destinationPort: number,
): Uint8Array {
  const bytes = new Uint8Array(60);
  bytes.set(destination, 0);
  bytes.set(source, 6);
  bytes.set([8, 0, 0x45], 12);
  bytes[23] = 17;
  bytes.set([...from, ...to], 26);
  bytes.set([sourcePort >> 8, sourcePort & 255, destinationPort >> 8, destinationPort & 255], 34);
  return bytes;
}

test("any frames through any ring sizes and buffers arrive whole and in order", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        lengths: fc.array(fc.integer({ min: 14, max: 3000 }), { minLength: 1, maxLength: 40 }),
        ring: fc.constantFrom(...RINGS.map(({ ring }) => ring)),
        queueSize: fc.constantFrom(4, 8, 64),
        merge: fc.boolean(),
        receiveSize: fc.integer({ min: 12, max: 700 }),
        receiveCount: fc.integer({ min: 4, max: 64 }),
      }),
      async ({ lengths, ring, queueSize, merge, receiveSize, receiveCount }) => {
        const { cable, device: net } = device({ queueSize });
        const count = Math.min(receiveCount, queueSize);
        const driver = await NetDriver.open(new Loopback(net), {
          ring,
          receiveCount: count,
          ...(merge ? { receiveSize } : { without: featureBits(VIRTIO_NET_F_MRG_RXBUF) }),
        });
        const room = merge ? receiveSize * count - 12 : 1518;
        for (const [i, length] of lengths.entries()) {
          const wanted = frame(MAC, length, i);
          const before = net.counters.received;
          const taken = cable.port?.receive(wanted);
          // The driver gives more buffers than it was told when the longest frame needs them.
          if (length <= room) expect([taken, net.counters.received]).toEqual([true, before + 1]);
          if (net.counters.received === before) continue;
          const got = await driver.receive();
          expect(got && firstDifference(got, wanted)).toBe(-1);
        }
        await driver.close();
      },
    ),
    { numRuns: 60 },
  );
});
