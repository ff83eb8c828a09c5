import { ftruncateSync } from "node:fs";
import { Mapping } from "@virtio/node/native/mapping";
import { featureBits } from "virtio/spec/core";
import { afterEach, expect, test } from "vitest";
import { Descriptor, closeAll, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { check, natives } from "@virtio/vhost-user/native/libc";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { GUEST, Peer, PeerRing, RAM, USER, VERSION_1, serve } from "./peer.ts";

afterEach(() => expect(openDescriptors()).toBe(0));

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
const F_ADD_SEALS = 1033;
const F_SEAL_SHRINK = 2;
const HUGE = 4 << 20;
const LOG_ALL = featureBits(vu.VHOST_F_LOG_ALL);

function memfd(size: number, { huge = false, sealed = false } = {}): Descriptor {
  const name = new TextEncoder().encode("peer\0");
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0);
  const descriptor = new Descriptor(check(natives().memfd_create(name, flags), "memfd_create"));
  ftruncateSync(descriptor.fd, size);
  if (sealed) check(natives().fcntl(descriptor.fd, F_ADD_SEALS, F_SEAL_SHRINK), "fcntl(F_ADD_SEALS)");
  return descriptor;
}

/** Every message whose descriptor is mapped, for a file of so many bytes. */
const doors: Readonly<Record<string, (size: number) => readonly [request: number, body: Uint8Array]>> = {
  SET_MEM_TABLE: (size) => [
    vu.SET_MEM_TABLE,
    payload.encodeMemoryTable([{ guestAddress: GUEST, size, userAddress: USER, mmapOffset: 0 }]),
  ],
  ADD_MEM_REG: (size) => [
    vu.ADD_MEM_REG,
    payload.encodeRegion({ guestAddress: GUEST + RAM, size, userAddress: USER + RAM, mmapOffset: 0 }),
  ],
  SET_INFLIGHT_FD: (size) => [
    vu.SET_INFLIGHT_FD,
    payload.encodeInflight({ size, offset: 0, queues: 1, queueSize: 128 }),
  ],
};

async function sealedPeer(): Promise<{ peer: Peer; errors: Error[]; end: () => Promise<void> }> {
  const { server, socket, errors } = await serve(new EchoDevice(), { sealedMemoryOnly: true });
  const peer = new Peer(socket);
  await peer.open(VERSION_1 | LOG_ALL);
  return {
    peer,
    errors,
    end: async () => {
      peer.close();
      await server.closed;
    },
  };
}

test.each(Object.entries(doors))("sealedMemoryOnly: %s takes sealed files and no others", async (_, door) => {
  const { peer, end } = await sealedPeer();
  const loose = memfd(HUGE);
  const sealed = memfd(HUGE, { sealed: true });
  // The seal does not keep a peer from punching holes into huge pages, which nothing may be there to fill.
  const huge = memfd(HUGE, { huge: true, sealed: true });
  expect(await peer.acknowledged(...door(HUGE), [loose])).toBe(1n);
  expect(await peer.acknowledged(...door(HUGE), [huge])).toBe(1n);
  expect(await peer.acknowledged(...door(HUGE), [sealed])).toBe(0n);
  closeAll([loose, sealed, huge]);
  await end();
});

test("sealedMemoryOnly: SET_LOG_BASE of a file that can be shrunk ends the connection, and says why", async () => {
  for (const [options, refusal] of [
    [{}, "PeerError: dirty log: its file can be shrunk (no F_SEAL_SHRINK)"],
    [{ huge: true, sealed: true }, "PeerError: dirty log: its huge pages can be taken away"],
  ] as const) {
    const { peer, errors, end } = await sealedPeer();
    const log = memfd(HUGE, options);
    const asked = peer.ask(vu.SET_LOG_BASE, payload.encodeLog({ size: HUGE, offset: 0 }), [log]);
    await expect(asked).rejects.toThrow("connection: end");
    expect(errors.map(String)).toEqual([refusal]);
    log.close();
    await end();
  }
  const { peer, end } = await sealedPeer();
  const log = createMemfd("log", HUGE);
  await peer.ask(vu.SET_LOG_BASE, payload.encodeLog({ size: HUGE, offset: 0 }), [log]);
  log.close();
  await end();
});

test("sealedMemoryOnly: the inflight region that we allocate comes back sealed", async () => {
  const { peer, end } = await sealedPeer();
  const asked = payload.encodeInflight({ size: 0, offset: 0, queues: 1, queueSize: 128 });
  const reply = await peer.ask(vu.GET_INFLIGHT_FD, asked);
  await peer.must(vu.SET_INFLIGHT_FD, reply.payload, reply.descriptors);
  closeAll(reply.descriptors);
  await end();
});

test("huge pages that are not there fail when they are mapped, not when they are touched", async () => {
  // More than any machine of ours has set aside.
  const size = 2 ** 40;
  const huge = memfd(size, { huge: true });
  expect(() => Mapping.map(huge.fd, 0, 2 ** 30)).toThrow(/mmap/);
  const { server, socket, errors } = await serve(new EchoDevice());
  const peer = new Peer(socket);
  await peer.open(VERSION_1);
  const region = { guestAddress: 2 ** 40, size, userAddress: 2 ** 45, mmapOffset: 0 };
  await peer.must(vu.ADD_MEM_REG, payload.encodeRegion(region), [huge]);
  huge.close();
  const ring = new PeerRing(peer, VERSION_1);
  await ring.start();
  ring.driver.addAvailable([], [{ gpa: 2 ** 40, length: 64 }]);
  ring.notify();
  // The device needs a reset; the process lives on, and serves.
  expect(await peer.u64(vu.GET_FEATURES)).toBeGreaterThan(0n);
  expect(errors.map(({ message }) => message)).toEqual([expect.stringContaining("mmap")]);
  ring.close();
  peer.close();
  await server.closed;
});
