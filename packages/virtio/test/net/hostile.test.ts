import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { expect, test } from "vitest";
import { NetDevice } from "../../src/devices/net/device.ts";
import type { NetOptions } from "../../src/devices/net/options.ts";
import { NET_DRIVER_FEATURES, NetDriver } from "../../src/drivers/net/driver.ts";
import { readLe16, writeLe16, writeLe32 } from "../../src/memory/bytes.ts";
import { featureBits } from "../../src/spec/core.ts";
import { VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF } from "../../src/spec/net.ts";
import { Loopback, RINGS } from "../support/loopback.ts";
import { FakeCable, concat, firstDifference } from "../support/ends.ts";
import { RawDriver, cutsArbitrary } from "../support/raw.ts";
import { MAC, PEER, frame } from "./frames.ts";

interface Rig {
  readonly cable: FakeCable;
  readonly device: NetDevice;
  readonly loopback: Loopback;
}

function rig(options: Partial<NetOptions> = {}): Rig {
  const cable = new FakeCable();
  const device = new NetDevice({ backend: cable, mac: MAC, ...options });
  return { cable, device, loopback: new Loopback(device, { memorySize: 2 << 20 }) };
}

const NOTHING = new Uint8Array(0);
const HEADER = 12;
const ANY_RING = fc.constantFrom(...RINGS.map(({ ring }) => ring));

test(
  clause("dev.net.tx", "any header before any frame, cut anywhere: sent as it is, or dropped"),
  async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: HEADER, maxLength: HEADER }),
        fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 255 })),
        fc.integer({ min: 0, max: 3000 }),
        cutsArbitrary(2000),
        ANY_RING,
        async (random, gso, length, readable, ring) => {
          const { cable, device, loopback } = rig();
          const driver = await RawDriver.open(loopback, NET_DRIVER_FEATURES, [0, 1], ring);
          const header = random.slice();
          header[1] = gso;
          const wanted = length >= 14 ? frame(PEER, length) : new Uint8Array(length);
          const { used } = driver.offer(1, concat([header, wanted]), 0, { readable });
          expect(used?.written).toBe(0);
          // No offload was negotiated: unknown flags and the checksum fields are not used, segmentation is not accepted.
          const accepted = gso === 0 && ((header[0] ?? 0) & 8) === 0 && length >= 14;
          expect(cable.frames.length).toBe(accepted ? 1 : 0);
          if (accepted) expect(firstDifference(cable.frames[0] ?? NOTHING, wanted)).toBe(-1);
          expect([device.counters.sent, device.counters.sendDropped]).toEqual(accepted ? [1, 0] : [0, 1]);
          expect(loopback.faults).toEqual([]);
        },
      ),
      { numRuns: 150 },
    );
  },
);

test("a transmit buffer without room for a header is a fault", async () => {
  for (const length of [1, 11]) {
    const { cable, loopback } = rig();
    const driver = await RawDriver.open(loopback, NET_DRIVER_FEATURES, [0, 1]);
    driver.offer(1, new Uint8Array(length), 0);
    expect(loopback.faults.map((fault) => [fault.clause, fault.queue, fault.value])).toEqual([
      ["drv.net.tx", 1, length],
    ]);
    const again = await NetDriver.open(loopback);
    await again.send(frame(PEER, 60));
    expect(cable.frames.length).toBe(1);
  }
});

test("frames beyond the bound or the MTU are dropped both ways", async () => {
  const { cable, device, loopback } = rig({ mtu: 1000 });
  const driver = await RawDriver.open(loopback, NET_DRIVER_FEATURES, [0, 1]);
  for (const length of [1014, 1018, 1019, 100_000]) driver.offer(1, new Uint8Array(HEADER + length), 0);
  expect(cable.frames.map((sent) => sent.length)).toEqual([1014, 1018]);
  for (let i = 0; i < 4; i++) driver.offer(0, NOTHING, 4000);
  expect(cable.port?.receive(new Uint8Array(13))).toBe(true);
  for (const length of [1014, 1015, 70_000]) expect(cable.port?.receive(frame(MAC, length))).toBe(true);
  expect([device.counters.received, device.counters.receiveDropped]).toEqual([1, 3]);
});

const commands = fc.oneof(
  // Close to what is right …
  fc
    .tuple(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 0, max: 6 }), fc.uint8Array({ maxLength: 40 }))
    .map(([kind, command, data]) => concat([Uint8Array.of(kind, command), data])),
  fc
    .tuple(fc.nat(0xffff_ffff), fc.nat(0xffff_ffff), fc.uint8Array({ maxLength: 100 }))
    .map(([unicast, multicast, rest]) => macTables(unicast, multicast, rest)),
  fc
    .tuple(fc.nat(300), fc.nat(300))
    .map(([unicast, multicast]) => macTables(unicast, multicast, new Uint8Array(6 * unicast), multicast)),
  // … and far from it.
  fc.uint8Array({ minLength: 1, maxLength: 300 }),
);

function macTables(unicast: number, multicast: number, rest: Uint8Array, real = 0): Uint8Array {
  const counts = [new Uint8Array(4), new Uint8Array(4)];
  writeLe32(counts[0] ?? NOTHING, 0, unicast);
  writeLe32(counts[1] ?? NOTHING, 0, multicast);
  return concat([
    Uint8Array.of(1, 0),
    counts[0] ?? NOTHING,
    rest,
    counts[1] ?? NOTHING,
    new Uint8Array(6 * real),
  ]);
}

test("any control command, cut anywhere, is acknowledged with one byte; a refused one changes nothing", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(commands, cutsArbitrary(300), fc.integer({ min: 1, max: 20 })), {
        minLength: 1,
        maxLength: 8,
      }),
      ANY_RING,
      async (list, ring) => {
        const { device, loopback } = rig({ queuePairs: 2 });
        const driver = await RawDriver.open(loopback, NET_DRIVER_FEATURES, [0, 1, 2, 3, 4], ring);
        for (const [bytes, cuts, room] of list) {
          const before = device.save();
          const { used } = driver.offer(4, bytes, room, { readable: cuts, writable: [1] });
          expect(used?.written).toBe(1);
          const ack = used?.data[0];
          expect([0, 1]).toContain(ack);
          expect(used?.data.slice(1)).toEqual(new Uint8Array(room - 1));
          if (ack === 1) expect(device.save()).toEqual(before);
          expect(device.filter.unicast.addresses.size).toBeLessThanOrEqual(256);
        }
        expect(loopback.faults).toEqual([]);
      },
    ),
    { numRuns: 200 },
  );
});

test("a control command without room for its ack is a fault", async () => {
  const { loopback } = rig();
  const driver = await RawDriver.open(loopback, NET_DRIVER_FEATURES, [0, 1, 2]);
  driver.offer(2, Uint8Array.of(0, 0, 1), 0);
  expect(loopback.faults.map(({ queue, clause }) => [queue, clause])).toEqual([[2, "own.net-control"]]);
});

test("the control virtqueue is called by its name, wherever it is", async () => {
  for (const [features, index] of [
    [NET_DRIVER_FEATURES, 4],
    [NET_DRIVER_FEATURES & ~featureBits(VIRTIO_NET_F_MQ), 2],
  ] as const) {
    const { loopback } = rig({ queuePairs: 2 });
    await RawDriver.open(loopback, features, [0, 1, 2]);
    const names = loopback.instance.queueNames;
    expect(names.slice(0, index + 1).filter((name) => name === "controlq")).toEqual(["controlq"]);
    expect(names[index]).toBe("controlq");
  }
});

test(
  clause(
    ["dev.net.ctrl.rx-filter", "dev.net.ctrl.mac"],
    "commands of features that were not negotiated are refused",
  ),
  async () => {
    const { device, loopback } = rig();
    const driver = await RawDriver.open(loopback, featureBits(17), [0, 1, 2]);
    const before = device.save();
    const all = [
      Uint8Array.of(0, 0, 0),
      Uint8Array.of(0, 2, 1),
      macTables(0, 0, NOTHING),
      concat([Uint8Array.of(1, 1), PEER]),
      Uint8Array.of(2, 0, 5, 0),
      Uint8Array.of(3, 0),
      Uint8Array.of(4, 0, 1, 0),
    ];
    expect(all.map((bytes) => driver.offer(2, bytes, 1).used?.data[0])).toEqual(all.map(() => 1));
    expect(device.save()).toEqual(before);
  },
);

test(
  clause(
    ["dev.net.rx", "dev.net.rx-buffers"],
    "the header says how many buffers; all but the last are used whole",
  ),
  async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: HEADER, max: 400 }), { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 14, max: 3000 }),
        cutsArbitrary(400),
        ANY_RING,
        async (sizes, length, writable, ring) => {
          const { cable, device, loopback } = rig();
          const driver = await RawDriver.open(loopback, NET_DRIVER_FEATURES, [0, 1], ring);
          const buffers = sizes.map((size) => driver.offer(0, NOTHING, size, { writable }));
          const wanted = frame(MAC, length);
          const room = sizes.reduce((sum, size) => sum + size, 0);
          const taken = cable.port?.receive(wanted);
          if (room < HEADER + length) {
            // Nothing is used; a frame that fits still goes in, and so does this one once there is more room.
            expect([taken, buffers.filter(({ used }) => used).length]).toEqual([false, 0]);
            for (let more = room; more < HEADER + length; more += 1600) {
              expect(cable.readyCalls).toBe(0);
              buffers.push(driver.offer(0, NOTHING, 1600));
              if (cable.readyCalls > 0) break;
            }
            expect(cable.readyCalls).toBe(1);
            while (cable.port?.receive(wanted) === false) buffers.push(driver.offer(0, NOTHING, 1600));
          } else expect(taken).toBe(true);
          const used = buffers.flatMap((buffer) => (buffer.used === undefined ? [] : [buffer.used]));
          const [first] = used;
          expect(first && [...first.data.subarray(0, 10)]).toEqual(new Array(10).fill(0));
          expect(first && readLe16(first.data, 10)).toBe(used.length);
          used.slice(0, -1).forEach(({ written, data }) => expect(written).toBe(data.length));
          const all = concat(used.map(({ written, data }) => data.subarray(0, written)));
          expect(firstDifference(all.subarray(HEADER), wanted)).toBe(-1);
          expect([device.counters.received, loopback.faults.length]).toEqual([1, 0]);
        },
      ),
      { numRuns: 150 },
    );
  },
);

test(
  clause(["dev.net.rx", "dev.net.rx-buffers"], "without merging a frame has one buffer, or is dropped"),
  async () => {
    const { cable, device, loopback } = rig();
    const features = NET_DRIVER_FEATURES & ~featureBits(VIRTIO_NET_F_MRG_RXBUF);
    const driver = await RawDriver.open(loopback, features, [0, 1]);
    const small = driver.offer(0, NOTHING, 100);
    const large = driver.offer(0, NOTHING, 1526);
    expect(cable.port?.receive(frame(MAC, 89))).toBe(true);
    expect([device.counters.receiveDropped, small.used, large.used]).toEqual([1, undefined, undefined]);
    expect(cable.port?.receive(frame(MAC, 88))).toBe(true);
    expect([small.used?.written, readLe16(small.used?.data ?? NOTHING, 10)]).toEqual([100, 1]);
    expect(cable.port?.receive(frame(MAC, 1514))).toBe(true);
    expect([large.used?.written, readLe16(large.used?.data ?? NOTHING, 10)]).toEqual([1526, 1]);
    expect(cable.port?.receive(frame(MAC, 60))).toBe(false);
  },
);

test("a mergeable buffer smaller than the header is a fault", async () => {
  const { cable, loopback } = rig();
  const driver = await RawDriver.open(loopback, NET_DRIVER_FEATURES, [0, 1]);
  driver.offer(0, NOTHING, 11);
  expect(cable.port?.receive(frame(MAC, 60))).toBe(true);
  expect(loopback.faults.map((fault) => [fault.clause, fault.value])).toEqual([["drv.net.rx-buffers", 11]]);
});

test("a frame that a full ring cannot hold is dropped, and does not block the next", async () => {
  const cable = new FakeCable();
  const device = new NetDevice({ backend: cable, mac: MAC, queueSize: 4 });
  const driver = await RawDriver.open(new Loopback(device), NET_DRIVER_FEATURES, [0, 1]);
  for (let i = 0; i < 4; i++) driver.offer(0, NOTHING, 50);
  expect(cable.port?.receive(frame(MAC, 189))).toBe(true);
  expect(device.counters.receiveDropped).toBe(1);
  expect(cable.port?.receive(frame(MAC, 188))).toBe(true);
  expect(device.counters.received).toBe(1);
});

test("a mutated state is adopted whole or refused", () => {
  const { device } = rig({ queuePairs: 2 });
  const good = device.save();
  fc.assert(
    fc.property(
      fc.constantFrom("mac", "pairs", "announce", "modes", "unicast", "multicast", "vlans"),
      fc.oneof(
        fc.anything(),
        fc.uint8Array({ maxLength: 600 }),
        fc.record({ addresses: fc.array(fc.anything()), overflow: fc.boolean() }),
      ),
      (key, value) => {
        try {
          device.restore({ ...good, [key]: value });
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect(error).not.toBeInstanceOf(TypeError);
          expect(device.save()).toEqual(good);
          return;
        }
        device.restore(good);
        expect(device.save()).toEqual(good);
      },
    ),
  );
});

test(
  clause("dev.net.config", "fields have the values that the spec allows, or the device is not made"),
  () => {
    const make = (options: Partial<NetOptions>) => (): Rig => rig(options);
    for (const mtu of [67, 65536, 1500.5]) expect(make({ mtu })).toThrow("mtu");
    for (const speed of [-1, 0x8000_0000]) expect(make({ speed })).toThrow("speed");
    for (const queuePairs of [0, 0x8001]) expect(make({ queuePairs })).toThrow("queuePairs");
    expect(make({ mac: Uint8Array.of(1, 2, 3, 4, 5, 6) })).toThrow("mac");
    const { device, loopback } = rig({ mtu: 9000, speed: 1000, duplex: "half", queuePairs: 3 });
    const bytes = new Uint8Array(17);
    loopback.readConfig(0, bytes);
    const wanted = new Uint8Array(17);
    wanted.set(MAC);
    writeLe16(wanted, 6, 1);
    writeLe16(wanted, 8, 3);
    writeLe16(wanted, 10, 9000);
    writeLe32(wanted, 12, 1000);
    expect(bytes).toEqual(wanted);
    // CTRL_RX_EXTRA is not offered without CTRL_VQ.
    const bare = rig({ queuePairs: 3, without: featureBits(17) }).device;
    for (const bit of [18, 19, 20, 21, VIRTIO_NET_F_MQ, 23])
      expect(bare.features & featureBits(bit)).toBe(0n);
    expect(device.features & featureBits(VIRTIO_NET_F_MQ)).not.toBe(0n);
  },
);
