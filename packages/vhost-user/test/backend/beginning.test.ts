import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { NetHub } from "virtio/backends/net-hub";
import { TextLog } from "virtio/device/text-log";
import { NetDevice } from "virtio/devices/net/device";
import { writeLe16, writeLe32 } from "virtio/memory/bytes";
import { featureBits } from "virtio/spec/core";
import { VIRTIO_NET_F_GUEST_ANNOUNCE } from "virtio/spec/net";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { EVENT_IDX, PACKED, Peer, PeerRing, VERSION_1, serve, turn } from "./peer.ts";
import { setUp } from "./set-up.ts";

/*
 * When a device begins, with front-ends that say DRIVER_OK and such that never do (QEMU for all but block, network and vDPA
 * devices), and what is believed of a ring that no driver has used yet.
 */

const bytes = (...values: number[]): Uint8Array => new Uint8Array(values);
const WITH_STATUS = 0n;
const FEATURES_OK = 0xb;
const DRIVER_OK = 0xf;
const rings = [
  ["split", VERSION_1],
  ["split with EVENT_IDX", VERSION_1 | EVENT_IDX],
  ["packed", VERSION_1 | PACKED],
  ["packed with EVENT_IDX", VERSION_1 | PACKED | EVENT_IDX],
] as const;

const status = (peer: Peer, value: number): Promise<void> =>
  peer.must(vu.SET_STATUS, payload.encodeU64(value));
const enable = (peer: Peer, index: number): Promise<void> =>
  peer.must(vu.SET_VRING_ENABLE, payload.encodeVringState({ index, value: 1 }));

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

test.each(rings)(
  "FEATURES_OK and never DRIVER_OK, %s: the device begins when it was said, the ring is enabled, and the driver kicked",
  async (_, features) => {
    const steps = ["status", "enable", "kick"] as const;
    for (const order of permutations(steps)) {
      const { ring, end, device, peer } = await setUp(features, new EchoDevice(), WITH_STATUS);
      await ring.start(ring.first, false);
      for (const [index, step] of order.entries()) {
        if (step === "status") await status(peer, FEATURES_OK);
        if (step === "enable") await enable(peer, 0);
        if (step === "kick") {
          ring.offer(bytes(7), 4);
          ring.notify(true);
        }
        await turn();
        if (index < 2) expect(device.done, order.join()).toEqual([]);
      }
      await ring.used();
      expect(device.done).toEqual([7]);
      // Who says it all the same says nothing new.
      await status(peer, DRIVER_OK);
      ring.offer(bytes(8), 4);
      ring.notify();
      await ring.used();
      expect([device.done, device.activations]).toEqual([[7, 8], 1]);
      await end();
    }
  },
);

test.each(rings)(
  "a front-end that says DRIVER_OK, %s: buffers that are laid out before it are not touched",
  async (_, features) => {
    const { ring, end, device, peer } = await setUp(features, new EchoDevice(), WITH_STATUS);
    await status(peer, FEATURES_OK);
    await ring.start();
    ring.offer(bytes(1), 4);
    ring.publish();
    await peer.u64(vu.GET_STATUS);
    await turn();
    expect(await peer.u64(vu.GET_STATUS)).toBe(BigInt(FEATURES_OK));
    expect(device.activations).toBe(0);
    await status(peer, DRIVER_OK);
    await ring.used();
    expect(device.done).toEqual([1]);
    await end();
  },
);

test.each(rings)("a ring that is enabled later than the first, %s", async (_, features) => {
  const { ring, end, device, peer } = await setUp(features, new EchoDevice(), WITH_STATUS);
  const later = new PeerRing(peer, features, 16, 1);
  await status(peer, FEATURES_OK);
  await ring.start();
  await later.start(later.first, false);
  for (const each of [later, ring]) {
    each.offer(bytes(each.config.index), 4);
    each.notify();
  }
  await ring.used();
  expect(device.done).toEqual([0]);
  await enable(peer, 1);
  await later.used();
  expect([device.done, device.activations]).toEqual([[0, 1], 1]);
  later.close();
  await end();
});

test.each(rings)(
  "a guest that comes from elsewhere, %s: its rings go on although nobody kicks, used ones and idle ones",
  async (_, features) => {
    for (const idle of [false, true]) {
      const { ring, end, device, peer } = await setUp(features, new EchoDevice(), WITH_STATUS);
      await status(peer, FEATURES_OK);
      await ring.start();
      if (!idle) {
        ring.offer(bytes(1), 4);
        ring.notify();
        await ring.used();
      }
      const base = await ring.stop();
      ring.offer(bytes(2), 4);
      ring.publish();
      peer.disconnect();
      const { server, socket } = await serve(device);
      const next = new Peer(socket, peer);
      await next.open(features, WITH_STATUS);
      await status(next, FEATURES_OK);
      const taken = new PeerRing(next, features, 16, 0, ring);
      await taken.start(base);
      await taken.used();
      expect(device.done).toEqual(idle ? [2] : [1, 2]);
      taken.close();
      next.close();
      await server.closed;
      await end();
    }
  },
);

test.each(rings)(
  "another driver of which nobody says anything, %s: the device is reset before it, whichever ring the first one had used",
  async (_, features) => {
    for (const used of [0, 1]) {
      const { ring, end, device, peer } = await setUp(features, new EchoDevice(), WITH_STATUS);
      const first = [ring, new PeerRing(peer, features, 16, 1)];
      await status(peer, FEATURES_OK);
      for (const each of first) await each.start();
      first[used]?.offer(bytes(1), 4);
      first[used]?.notify();
      await first[used]?.used();
      for (const each of first) await each.stop();
      const before = device.resets;
      const second = [0, 1].map((index) => new PeerRing(peer, features, 16, index));
      for (const each of second) await each.start();
      expect(device.resets).toBe(before + 1);
      for (const each of second) {
        each.offer(bytes(2), 4);
        each.notify();
        await each.used();
      }
      expect([device.resets, device.activations]).toEqual([before + 1, 2]);
      for (const each of [...first.slice(1), ...second]) each.close();
      await end();
    }
  },
);

test.each(rings)("a driver that stops and goes on, %s, finds its device as it was", async (_, features) => {
  const { ring, end, device, peer } = await setUp(features, new EchoDevice(), WITH_STATUS);
  await status(peer, FEATURES_OK);
  let base = ring.first;
  for (const [round, before] of [device.resets, device.resets].entries()) {
    await ring.start(base);
    ring.offer(bytes(round), 4);
    ring.notify(true);
    await ring.used();
    base = await ring.stop();
    expect(device.resets).toBe(before);
  }
  await ring.start(base);
  expect([device.done, device.activations]).toEqual([[0, 1], 1]);
  // Status 0 resets it, and all begins anew.
  await status(peer, 0);
  await status(peer, FEATURES_OK);
  const again = new PeerRing(peer, features);
  await again.start();
  again.offer(bytes(5), 4);
  again.notify();
  await again.used();
  expect(device.activations).toBe(2);
  again.close();
  await end();
});

test.each([
  ...rings.map((each) => [...each, true] as const),
  ...rings.map((each) => [...each, false] as const),
])(
  "what firmware left where a ring is now, %s, %d, STATUS %s: the driver removes it before its first buffer, and is served",
  async (_, features, withStatus) => {
    const word = fc.oneof(fc.constantFrom(0, 1, 5, 16, 17, 0x7fff, 0x8000, 0xfff0, 0xffff), fc.nat(0xffff));
    const left = fc.record({ available: word, used: word, flags: word });
    await fc.assert(
      fc.asyncProperty(left, async ({ available, used, flags }) => {
        const { ring, end, device, peer, errors } = await setUp(
          features,
          new EchoDevice(),
          withStatus ? WITH_STATUS : undefined,
        );
        const { memory } = peer.ram;
        const { deviceArea, driverArea } = ring.config;
        const rest = [driverArea, deviceArea].map((at) => memory.view(at, 4));
        const clean = rest.map((view) => view.slice());
        const [driverView = bytes(), deviceView = bytes()] = rest;
        // Of a packed ring these are the two event suppression structures.
        writeLe16(deviceView, 0, flags);
        writeLe16(deviceView, 2, used);
        // A plausible number of buffers cannot be told from buffers.
        if (ring.packed || available > 16) writeLe16(driverView, 2, available);
        if (withStatus) await status(peer, FEATURES_OK);
        await ring.start();
        await turn();
        for (const [index, view] of rest.entries()) view.set(clean[index] ?? bytes());
        for (const value of [1, 2]) {
          ring.offer(bytes(value), 4);
          ring.notify(true);
          await ring.used();
        }
        expect([device.done, errors]).toEqual([[1, 2], []]);
        await end();
      }),
      { numRuns: 40 },
    );
  },
);

test.each(rings.filter(([, features]) => (features & PACKED) !== 0n))(
  "used descriptors that firmware left in a packed ring, %s: none is taken for a buffer, and the driver is served",
  async (_, features) => {
    const stale = fc.record({
      wrapped: fc.boolean(),
      id: fc.nat(0xffff),
      length: fc.nat(),
      address: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(stale, { minLength: 1, maxLength: 16 }),
        fc.boolean(),
        async (list, clears) => {
          const { ring, end, device, peer, errors } = await setUp(features, new EchoDevice(), WITH_STATUS);
          const table = peer.ram.memory.view(ring.config.descriptorArea, 16 * ring.config.size);
          const clean = table.slice();
          list.forEach(({ wrapped, id, length, address }, index) => {
            writeLe32(table, 16 * index, address);
            writeLe32(table, 16 * index + 8, length);
            writeLe16(table, 16 * index + 12, id);
            // "Packed Virtqueues / Driver and Device Ring Wrap Counters": used, both bits are equal.
            writeLe16(table, 16 * index + 14, wrapped ? 0x8080 : 0);
          });
          await status(peer, FEATURES_OK);
          await ring.start();
          ring.notify(true);
          await turn();
          expect(device.done).toEqual([]);
          // A driver fills its ring with zeroes, before its first buffer at the latest.
          if (clears) table.set(clean);
          const values = Array.from({ length: 40 }, (_, index) => index);
          for (const value of values) {
            if (!clears && value === 16) break;
            ring.offer(bytes(value), 4);
            ring.notify(true);
            await ring.used();
          }
          expect([device.done, errors]).toEqual([clears ? values : values.slice(0, 16), []]);
          await end();
        },
      ),
      { numRuns: 30 },
    );
  },
);

test("a kick that comes before the ring is enabled, or before FEATURES_OK: no hint, for the driver did nothing wrong", async () => {
  const hints: unknown[] = [];
  const { server, socket } = await serve(new EchoDevice(), {
    observer: { hint: (...hint) => hints.push(hint) },
  });
  const peer = new Peer(socket);
  await peer.open(VERSION_1, WITH_STATUS);
  const ring = new PeerRing(peer, VERSION_1);
  await ring.start(0, false);
  ring.offer(bytes(1), 4);
  for (const step of [() => enable(peer, 0), () => status(peer, FEATURES_OK)]) {
    ring.notify(true);
    await turn();
    await step();
  }
  await ring.used();
  expect(hints).toEqual([]);
  ring.close();
  peer.close();
  await server.closed;
});

test("a front-end that keeps the control virtqueue of a network device: nothing is refused, and the log has no alarm", async () => {
  const lines: string[] = [];
  const device = new NetDevice({ backend: new NetHub().port(), mac: bytes(0x52, 0x54, 0, 1, 2, 3) });
  const observer = new TextLog((line) => lines.push(line));
  const { server, socket } = await serve(device, { observer });
  const peer = new Peer(socket);
  // As QEMU does: it passes GUEST_ANNOUNCE on, and not CTRL_VQ.
  await peer.open(VERSION_1 | featureBits(VIRTIO_NET_F_GUEST_ANNOUNCE), WITH_STATUS);
  await status(peer, FEATURES_OK);
  expect(await peer.u64(vu.GET_STATUS)).toBe(BigInt(FEATURES_OK));
  await status(peer, DRIVER_OK);
  expect(await peer.u64(vu.GET_STATUS)).toBe(BigInt(DRIVER_OK));
  expect(server.instance.legacy).toBe(false);
  expect(lines.join("\n")).toMatch(/features/i);
  expect(lines.filter((line) => /refused/.test(line))).toEqual([]);
  peer.close();
  await server.closed;
});

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length < 2) return [[...items]];
  return items.flatMap((item, at) =>
    permutations(items.filter((_, index) => index !== at)).map((rest) => [item, ...rest]),
  );
}

test.each([
  ["a modern driver", VERSION_1],
  ["a legacy driver", 0n],
])("%s behind QEMU, which says FEATURES_OK and leaves out what came before: no hint", async (_, features) => {
  const hints: unknown[] = [];
  const device = new EchoDevice();
  const { server, socket } = await serve(device, { observer: { hint: (...hint) => hints.push(hint) } });
  const peer = new Peer(socket);
  await peer.open(features, WITH_STATUS);
  const said: bigint[] = [];
  const read = async (): Promise<void> => void said.push(await peer.u64(vu.GET_STATUS));
  await status(peer, 8);
  await read();
  const ring = new PeerRing(peer, features);
  await ring.start();
  await status(peer, DRIVER_OK);
  await read();
  ring.offer(bytes(3), 4);
  ring.notify(true);
  await ring.used();
  expect([device.done, hints]).toEqual([[3], []]);
  // It reads back what it said.
  for (const [index, value] of [8n, 15n].entries()) expect((said[index] ?? 0n) & value).toBe(value);
  ring.close();
  peer.close();
  await server.closed;
});
