import { bound } from "@virtio/testkit/bound";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { VIRTIO_F_ACCESS_PLATFORM, featureBits } from "virtio/spec/core";
import { afterEach, beforeEach, expect, test } from "vitest";
import { GUEST, PeerRing, RAM, USER, VERSION_1, type Peer } from "../../../vhost-user/test/backend/peer.ts";
import { Served } from "./lib/served.ts";

/** Front-ends that keep a device busy, beside another device of the same process. */

const TRANSMIT = 1;
const CHAINS = 128;

let served: Served;
beforeEach(() => {
  served = new Served();
});
afterEach(() => served.remove());

/** Processor time of the server, in milliseconds, that another device's answer takes while `busy`; the longest, in the best of three rounds. */
async function longestWait(victim: Peer, start: () => void, busy: () => boolean): Promise<number> {
  let least = Infinity;
  for (let round = 0; round < 3; round++) {
    start();
    let longest = 0;
    while (busy()) {
      const before = served.processor();
      await victim.u64(vu.GET_FEATURES);
      longest = Math.max(longest, served.processor() - before);
    }
    // A machine that does much else now and then charges the server for it; what it does by itself is there in each round.
    least = Math.min(least, longest);
  }
  return least;
}

async function transmitRing(): Promise<{ peer: Peer; ring: PeerRing; victim: Peer }> {
  await served.start("console --socket a --chardev ringbuf entropy --socket b", 2);
  const peer = served.peer("a");
  await peer.open(VERSION_1);
  const ring = new PeerRing(peer, VERSION_1, CHAINS, TRANSMIT);
  await ring.start();
  const victim = served.peer("b");
  await victim.open(VERSION_1);
  return { peer, ring, victim };
}

test("one kick of a console with long buffers", async () => {
  const { ring, victim } = await transmitRing();
  let used = 0;
  const kick = (): void => {
    used = 0;
    for (let i = 0; i < CHAINS; i++) ring.driver.addAvailable([{ gpa: GUEST, length: RAM }], []);
    ring.notify(true);
  };
  const busy = (): boolean => {
    while (ring.driver.popUsed() !== undefined) used++;
    return used < CHAINS;
  };
  bound({
    what: `${CHAINS} buffers of ${RAM >> 20} MiB to a console, one kick: processor time that another device waits`,
    measured: await longestWait(victim, kick, busy),
    limit: 20,
    unit: "ms",
  });
});

test("a driver that keeps a console's virtqueue full and kicks unasked", async () => {
  const { ring, victim } = await transmitRing();
  let left = 0;
  let flooded = 0;
  const refill = (): boolean => {
    while (ring.driver.popUsed() !== undefined) flooded++;
    while (ring.driver.addAvailable([{ gpa: GUEST, length: 16 }], []) !== undefined);
    ring.notify(true);
    return left-- > 0;
  };
  const measured = await longestWait(victim, () => void (left = 200), refill);
  expect(flooded).toBeGreaterThan(CHAINS);
  bound({
    what: "a console flooded with small buffers: processor time that another device waits",
    measured,
    limit: 20,
    unit: "ms",
  });
});

test("a flood of IOTLB updates", async () => {
  await served.start("entropy --socket a entropy --socket b", 2);
  const peer = served.peer("a");
  await peer.open(VERSION_1 | featureBits(VIRTIO_F_ACCESS_PLATFORM));
  const count = 20_000;
  const before = served.memory();
  const send = (i: number): void => {
    const update = { iova: i * 8192, size: 4096, userAddress: USER, permissions: 3, type: 2 };
    peer.channel.send(vu.IOTLB_MSG, payload.encodeIotlb(update), { needReply: true });
  };
  for (let i = 0; i < count; i += 50) {
    for (let k = 0; k < 50; k++) send(i + k);
    for (let k = 0; k < 50; k++) expect(payload.decodeU64((await peer.reply()).payload)).toBe(0n);
  }
  bound({
    what: `${count} IOTLB updates: memory`,
    measured: served.memory() - before,
    limit: 64,
    unit: "MiB",
  });
});
