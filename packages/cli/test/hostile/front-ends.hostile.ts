import { ftruncateSync, mkdirSync, openSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

import { bound } from "@virtio/testkit/bound";
import { Descriptor, closeAll } from "@virtio/vhost-user/native/descriptor";
import { createEvent } from "@virtio/vhost-user/native/event";
import { check, natives } from "@virtio/vhost-user/native/libc";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { featureBits } from "virtio/spec/core";
import { afterEach, beforeEach, expect, test } from "vitest";
import { GUEST, PeerRing, RAM, USER, VERSION_1, type Peer } from "../../../vhost-user/test/backend/peer.ts";
import { Served } from "./lib/served.ts";

/** Front-ends that send what costs most, or take away what they gave. */

const LOG_ALL = featureBits(vu.VHOST_F_LOG_ALL);
const LOAD = payload.encodeDeviceState({ direction: vu.STATE_LOAD, phase: vu.STATE_PHASE_STOPPED });
const MFD_HUGETLB = 4;

/** The number of write(2). */
const writeCall = process.arch === "x64" ? 1 : 64;

let served: Served;
beforeEach(() => {
  served = new Served();
});
afterEach(() => served.remove());

function looseMemfd(size: number, flags = 0): Descriptor {
  const name = new TextEncoder().encode("peer\0");
  const memfd = new Descriptor(check(natives().memfd_create(name, 3 | flags), "memfd_create"));
  ftruncateSync(memfd.fd, size);
  return memfd;
}

const beyondRam = (size: number): Uint8Array =>
  payload.encodeRegion({ guestAddress: GUEST + RAM, size, userAddress: USER + RAM, mmapOffset: 0 });

/** One request for random bytes into guest memory; undefined: into the peer's RAM. */
async function ask(ring: PeerRing, gpa?: number): Promise<void> {
  if (gpa === undefined) ring.offer(new Uint8Array(), 64);
  else ring.driver.addAvailable([], [{ gpa, length: 64 }]);
  ring.notify(true);
  await ring.used();
}

async function running(name: string, features = VERSION_1): Promise<{ peer: Peer; ring: PeerRing }> {
  const peer = served.peer(name);
  await peer.open(features);
  const ring = new PeerRing(peer, features);
  await ring.start();
  return { peer, ring };
}

test("a DEVICE_STATE of 64 MB of JSON", async () => {
  mkdirSync(served.path("share"));
  await served.start("9p --socket a --share share entropy --socket b", 2);
  const states: Readonly<Record<string, string>> = {
    zeros: `{"version":1,"state":[${"0,".repeat(33_000_000)}0]}`,
    depth: "[".repeat(60_000_000),
    objects: `{"version":1,"state":[${"{},".repeat(22_000_000)}0]}`,
    names: `{"version":1,"state":{${Array.from({ length: 2_000_000 }, (_, i) => `"k${i}":0`).join(",")}}}`,
    "the most that is taken": `{"version":1,"state":[${"{},".repeat(262_000)}0]}`,
  };
  const victim = served.peer("b");
  for (const [name, text] of Object.entries(states)) {
    writeFileSync(served.path("state"), text);
    const peer = served.peer("a");
    await peer.open(VERSION_1);
    const file = new Descriptor(openSync(served.path("state"), "r"));
    const [processor, memory] = [served.processor(), served.memory()];
    expect(await peer.u64(vu.SET_DEVICE_STATE_FD, LOAD, [file])).toBe(0x100n);
    file.close();
    let peak = memory;
    let over: bigint | undefined;
    const checked = peer.u64(vu.CHECK_DEVICE_STATE).then((result) => (over = result));
    while (over === undefined) {
      await victim.u64(vu.GET_FEATURES);
      peak = Math.max(peak, served.memory());
    }
    expect(await checked).toBe(1n);
    peer.close();
    const cost = served.processor() - processor;
    bound({ what: `DEVICE_STATE of ${name}: processor time`, measured: cost, limit: 500, unit: "ms" });
    bound({ what: `DEVICE_STATE of ${name}: memory`, measured: peak - memory, limit: 100, unit: "MiB" });
  }
  victim.close();
});

test.each(["log", "inflight", "region", "hugetlb"])(
  "--sealed-memory and a file that can be taken away: %s",
  async (kind) => {
    await served.start("entropy --socket a --sealed-memory", 1);
    const { peer, ring } = await running("a", VERSION_1 | LOG_ALL);
    await ask(ring);
    const size = 4 << 20;
    const file = looseMemfd(size, kind === "hugetlb" ? MFD_HUGETLB : 0);
    if (kind === "hugetlb") check(natives().fcntl(file.fd, 1033, 2), "fcntl(F_ADD_SEALS)");
    if (kind === "log") {
      const asked = peer.ask(vu.SET_LOG_BASE, payload.encodeLog({ size, offset: 0 }), [file]);
      await expect(asked).rejects.toThrow("connection: end");
    } else if (kind === "inflight") {
      await ring.stop();
      const body = payload.encodeInflight({ size, offset: 0, queues: 1, queueSize: 128 });
      expect(await peer.acknowledged(vu.SET_INFLIGHT_FD, body, [file])).toBe(1n);
    } else expect(await peer.acknowledged(vu.ADD_MEM_REG, beyondRam(size), [file])).toBe(1n);
    file.close();
    ring.close();
    peer.close();
    const again = await running("a");
    await ask(again.ring);
    again.ring.close();
    again.peer.close();
    expect(served.text).toMatch(/can be (shrunk|taken away)/);
    const deaths = served.end === undefined ? 0 : 1;
    bound({ what: `--sealed-memory, ${kind}: ends of the process`, measured: deaths, limit: 0, unit: "" });
  },
);

test.each(["takes its memory away", "blocks a call descriptor"])(
  "--process-per-device: a front-end that %s ends nobody else's device",
  async (kind) => {
    writeFileSync(served.path("img"), new Uint8Array(1 << 20));
    await served.start(
      "--process-per-device entropy --socket a entropy --socket b blk --socket c --blk-file img",
      3,
    );
    const victim = await running("b");
    const { peer, ring } = await running("a");
    await ask(ring);
    // In the order of the devices.
    const before = served.children();
    if (kind === "takes its memory away") {
      const file = looseMemfd(1 << 20);
      await peer.must(vu.ADD_MEM_REG, beyondRam(1 << 20), [file]);
      await ask(ring, GUEST + RAM);
      ftruncateSync(file.fd, 0);
      ring.driver.addAvailable([], [{ gpa: GUEST + RAM, length: 64 }]);
      ring.notify(true);
      await served.until(() => served.text.includes("rng0: its process was ended by SIGBUS"));
      file.close();
    } else {
      const event = new Descriptor(check(natives().eventfd(0, 0), "eventfd"));
      await peer.must(vu.SET_VRING_CALL, payload.encodeU64(0), [event]);
      // It was signalled when it came. Full, and blocking again: whoever signals it waits for ever.
      const full = new Uint8Array(8);
      natives().read(event.fd, full, 8);
      full.fill(0xff);
      full[0] = 0xfe;
      expect(natives().write(event.fd, full, 8)).toBe(8);
      const flags = natives().fcntl(event.fd, 3, 0);
      natives().fcntl(event.fd, 4, flags & ~0o4000);
      ring.offer(new Uint8Array(), 64);
      ring.notify(true);
      const [own = 0] = before;
      // Its thread sleeps in the system call.
      const asleep = (): boolean => readFileSync(`/proc/${own}/syscall`, "utf8").startsWith(`${writeCall} `);
      await served.until(asleep);
      event.close();
    }
    const begun = performance.now();
    for (let i = 0; i < 20; i++) await ask(victim.ring);
    const wait = (performance.now() - begun) / 20;
    bound({ what: `a neighbour that ${kind}: a request of mine`, measured: wait, limit: 200, unit: "ms" });
    const lost = before.filter((pid) => !served.children().includes(pid)).length;
    const own = kind === "takes its memory away" ? 1 : 0;
    bound({ what: `a front-end that ${kind}: processes lost`, measured: lost, limit: own, unit: "" });
    ring.close();
    peer.close();
    if (own === 1) {
      // It is there again, behind the same socket.
      const again = await running("a");
      await ask(again.ring);
      again.ring.close();
      again.peer.close();
    }
    victim.ring.close();
    victim.peer.close();
    const end = await served.stop();
    bound({ what: `a front-end that ${kind}: SIGTERM`, measured: end, limit: 15_000, unit: "ms" });
    expect(served.end).toBe("status 0");
  },
);

test("storms of messages: descriptors, mappings and memory are given back", async () => {
  writeFileSync(served.path("img"), "");
  truncateSync(served.path("img"), 2 ** 30);
  await served.start("blk --socket a --blk-file img", 1);
  const connect = async (): Promise<void> => {
    const { peer, ring } = await running("a");
    ring.close();
    peer.close();
  };
  await connect();
  const base = [served.descriptors(), served.mappings(), served.memory()] as const;
  for (let i = 0; i < 40; i++) await connect();
  const { peer, ring } = await running("a", VERSION_1 | LOG_ALL);
  const log = createMemfd("log", 2 ** 31);
  for (let i = 0; i < 300; i++)
    await peer.ask(vu.SET_LOG_BASE, payload.encodeLog({ size: 2 ** 31, offset: 0 }), [log]);
  for (let i = 0; i < 300; i++) {
    const table = payload.encodeMemoryTable([peer.region({ size: RAM - 4096 * (i & 1) })]);
    await peer.must(vu.SET_MEM_TABLE, table, [peer.ram.memfd]);
  }
  const asked = payload.encodeInflight({ size: 0, offset: 0, queues: 1024, queueSize: 32768 });
  for (let i = 0; i < 100; i++) closeAll((await peer.ask(vu.GET_INFLIGHT_FD, asked)).descriptors);
  const huge = createMemfd("huge", 2 ** 44);
  const beyond = payload.encodeInflight({ size: 2 ** 44, offset: 0, queues: 1, queueSize: 128 });
  await ring.stop();
  await peer.acknowledged(vu.SET_INFLIGHT_FD, beyond, [huge]).catch(() => undefined);
  // Descriptors with a byte of a message that never ends.
  const flood = new UnixSocket(peer.channel.socket.descriptor);
  const event = createEvent();
  for (let i = 0; i < 10; i++)
    flood.send(
      new Uint8Array(1),
      Array.from({ length: 250 }, () => event),
    );
  closeAll([log, huge, event]);
  ring.close();
  peer.close();
  await connect();
  await served.until(() => served.descriptors() <= base[0]);
  await connect();
  const [descriptors, mappings, memory] = base;
  bound({
    what: "storms of messages: descriptors left",
    measured: served.descriptors() - descriptors,
    limit: 2,
    unit: "",
  });
  bound({
    what: "storms of messages: mappings left",
    measured: served.mappings() - mappings,
    limit: 200,
    unit: "",
  });
  bound({
    what: "storms of messages: memory left",
    measured: served.memory() - memory,
    limit: 150,
    unit: "MiB",
  });
});

test("random messages with random descriptors, and states that nobody reads or ends", async () => {
  mkdirSync(served.path("share"));
  await served.start("9p --socket a --share share", 1);
  const state = (i: number): Uint8Array => payload.encodeDeviceState({ direction: i & 1, phase: 0 });
  for (let i = 0; i < 100; i++) {
    const peer = served.peer("a");
    await peer.open(VERSION_1);
    const [left, right] = UnixSocket.pair();
    await peer.u64(vu.SET_DEVICE_STATE_FD, state(i), [right.descriptor]);
    right.close();
    peer.close();
    left.close();
  }
  const before = served.descriptors();
  let seed = 12345;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return seed % below;
  };
  const kinds = [createEvent(), createMemfd("peer", 1 << 20)];
  const lengths = [0, 8, 8, 16, 32, 40, 40, 20, 264, 296];
  let messages = 0;
  for (const end = performance.now() + 10_000; performance.now() < end;) {
    const peer = served.peer("a");
    await peer.open(VERSION_1).catch(() => undefined);
    for (let k = 0; k < 40; k++) {
      const body = new Uint8Array(lengths[random(10)] ?? 0).map(() => (random(3) > 0 ? 0 : random(256)));
      const descriptors = Array.from({ length: random(3) }, () => kinds[random(2)] ?? createEvent());
      if (!peer.channel.send(random(44), body, { descriptors, needReply: true })) break;
      messages++;
      await delay(0);
      const reply = peer.channel.receive();
      if (reply === "end") break;
      if (reply !== "later") closeAll(reply.descriptors);
    }
    peer.close();
  }
  closeAll(kinds);
  expect(messages).toBeGreaterThan(100);
  const last = served.peer("a");
  expect(await last.u64(vu.GET_FEATURES)).toBeGreaterThan(0n);
  last.close();
  await served.until(() => served.descriptors() <= before + 1);
  bound({
    what: "random messages: descriptors left",
    measured: served.descriptors() - before,
    limit: 1,
    unit: "",
  });
  expect(served.text).not.toMatch(/ {4}at /);
});
