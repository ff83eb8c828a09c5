import { afterEach, expect, test } from "vitest";
import { DmaPool } from "virtio/driver/dma";
import { RegionMemory } from "virtio/memory/region-memory";
import { Mapping } from "@virtio/node/native/mapping";
import { MemoryTable } from "@virtio/vhost-user/memory/memory-table";
import { WINDOWS } from "@virtio/vhost-user/memory/region";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import type { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import type { RegionDescription } from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { GUEST, PACKED, Peer, PeerRing, USER, VERSION_1, serve, type Ram } from "./peer.ts";

const GIB = 2 ** 30;
const PAGE = 4096;
/** What the front-end itself sees around a border. */
const AROUND = 16 << 20;
const RING_BORDER = 33 * GIB;
const BUFFER_BORDER = 20 * GIB;

afterEach(() => expect(openDescriptors()).toBe(0));

/** A front-end whose guest has 64 GiB in one region. */
class BigPeer extends Peer {
  override region(): RegionDescription {
    return { guestAddress: 0, size: 64 * GIB, userAddress: USER - GUEST, mmapOffset: 0 };
  }
}

function bigRam(): Ram & { readonly close: () => void } {
  const memfd = createMemfd("guest", 64 * GIB);
  const mappings = [BUFFER_BORDER, RING_BORDER].map((border) => ({
    gpa: border - AROUND,
    mapping: Mapping.map(memfd.fd, border - AROUND, 2 * AROUND),
  }));
  const memory = new RegionMemory(
    mappings.map(({ gpa, mapping }) => ({ gpa, bytes: mapping.view(0, mapping.length) })),
  );
  const [first] = mappings;
  if (first === undefined) throw new Error("no memory");
  const close = (): void => {
    for (const { mapping } of mappings) mapping.unmap();
    memfd.close();
  };
  return { memfd, mapping: first.mapping, memory, close };
}

async function open(socket: UnixSocket, ram: Ram, features: bigint, ringsFrom: number): Promise<BigPeer> {
  const peer = new BigPeer(socket, { ram, dma: new DmaPool(ram.memory, ringsFrom, 4 << 20) });
  await peer.open(features);
  return peer;
}

test.each([
  { name: "split", features: VERSION_1 },
  { name: "packed", features: VERSION_1 | PACKED },
])(
  "64 GiB of memory: $name rings and buffers lie across the borders of windows, and only these are mapped",
  async ({ features }) => {
    const ram = bigRam();
    // Each of the three areas of 8, 4 and 8 pages once lies across the border.
    for (const pagesBefore of [1, 7, 9, 11, 13, 18]) {
      const device = new EchoDevice();
      const { server, socket, errors } = await serve(device);
      const peer = await open(socket, ram, features, RING_BORDER - pagesBefore * PAGE);
      const ring = new PeerRing(peer, features, 2048);
      await ring.start();
      // Across a border: shorter and longer than what two windows share.
      for (const length of [100, WINDOWS.overlap + 5 * PAGE + 3]) {
        const readable = { gpa: BUFFER_BORDER - length - 7, length: length + 57 };
        const writable = { gpa: BUFFER_BORDER + (8 << 20), length: readable.length };
        const text = new Uint8Array(readable.length).map((_, i) => i * 31 + pagesBefore);
        ram.memory.view(readable.gpa, readable.length).set(text);
        ram.memory.view(writable.gpa, writable.length).fill(0);
        for (const [from, to] of [
          [readable, writable],
          // And now written across it.
          [writable, readable],
        ] as const) {
          expect(ring.driver.addAvailable([from], [to])).toBeDefined();
          ring.notify(true);
          expect((await ring.used()).written).toBe(readable.length);
          expect(Buffer.compare(ram.memory.view(to.gpa, to.length), text)).toBe(0);
          ram.memory.view(from.gpa, from.length).fill(0);
        }
      }
      // All of the ring: its indices go round.
      for (let i = 0; i < 2200; i++) {
        const gpa = BUFFER_BORDER - 2;
        expect(ring.driver.addAvailable([{ gpa, length: 4 }], [{ gpa: gpa + 8, length: 4 }])).toBeDefined();
        ring.notify(true);
        await ring.used();
      }
      expect(errors).toEqual([]);
      const memory = device.context?.memory;
      if (!(memory instanceof MemoryTable)) throw new Error("the device sees another memory");
      expect(memory.mappedBytes).toBeLessThanOrEqual(4 * (GIB + WINDOWS.overlap));
      ring.close();
      peer.close();
      await server.closed;
    }
    ram.close();
  },
);
