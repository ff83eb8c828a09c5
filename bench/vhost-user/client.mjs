/**
 * A driver that does nothing but keep requests in flight, so that the back-end is what is measured: it never waits for a
 * notification and wants none, and writes only the sector into a request that is there already.
 */
import { DriverSession } from "virtio/driver/session";
import { createDriverQueue } from "virtio/virtqueue/create";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import {
  VIRTIO_BLK_CONFIG,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from "virtio/spec/blk";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";

const SECTOR = 512;
const QUEUE_SIZE = 256;
const MAX_DEPTH = 64;
const MAX_DATA = 128 << 10;
const FRAME = 32;
const TABLE_ENTRIES = 4;
const BLK = 2;
/** `writeback` in the configuration space. */
const WCE = VIRTIO_BLK_CONFIG.writeback;
/** Places on the disk that are drawn beforehand, a power of two. */
const ORDER = 8192;
/** Turns of the loop between two looks at the clock. */
const TURNS = 64;

export class Client {
  #transport;
  #session;
  #queue;
  #slots = [];

  static async open(socket, { packed = false } = {}) {
    const client = new Client();
    await client.#open(socket, packed);
    return client;
  }

  async #open(socket, packed) {
    const transport = await VhostUserTransport.open({
      socket,
      deviceId: BLK,
      polling: true,
      queueSize: QUEUE_SIZE,
    });
    const bits = [VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC];
    const ring = featureBits(...bits, ...(packed ? [VIRTIO_F_RING_PACKED] : []));
    // A driver that cannot flush is promised that what it writes is durable: nobody asks for that here.
    const wanted = featureBits(VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE);
    const session = await DriverSession.open(transport, { wanted, ring });
    if ((session.features & wanted) !== wanted) throw new Error("the back-end has no write cache");
    if (session.readConfig(WCE, 1)[0] === 0) session.writeConfig(WCE, Uint8Array.of(1));
    if (packed && !session.has(VIRTIO_F_RING_PACKED)) throw new Error("the back-end has no packed ring");
    const { memory } = transport;
    const config = {
      index: 0,
      size: QUEUE_SIZE,
      descriptorArea: memory.allocate(16 * QUEUE_SIZE, 4096),
      driverArea: memory.allocate(6 + 2 * QUEUE_SIZE, 4096),
      deviceArea: memory.allocate(6 + 8 * QUEUE_SIZE, 4096),
      eventIdx: session.has(VIRTIO_F_EVENT_IDX),
      indirect: session.has(VIRTIO_F_INDIRECT_DESC),
    };
    const tables = { gpa: memory.allocate(QUEUE_SIZE * TABLE_ENTRIES * 16, 4096), entries: TABLE_ENTRIES };
    this.#queue = createDriverQueue(memory, config, packed, tables);
    this.#queue.setNotifications(false);
    transport.enableQueue(config);
    session.ready();
    await transport.settled();
    this.#transport = transport;
    this.#session = session;
    this.#slots = Array.from({ length: MAX_DEPTH }, () => {
      const gpa = memory.allocate(MAX_DATA, 4096);
      const frame = memory.allocate(FRAME, 16);
      const bytes = memory.view(frame, FRAME);
      return {
        data: memory.view(gpa, MAX_DATA),
        segment: { gpa, length: 0 },
        header: { gpa: frame, length: 16 },
        status: { gpa: frame + 16, length: 1 },
        words: new Uint32Array(bytes.buffer, bytes.byteOffset, 4),
        statusByte: new Uint8Array(bytes.buffer, bytes.byteOffset + 16, 1),
        readable: [],
        writable: [],
      };
    });
  }

  /**
   * Runs for some seconds; operations done, and seconds that they took. `size` in bytes, `limit` the bytes of the disk that
   * are used; `verify(block, data)` looks at what was read.
   */
  run({ write = false, sequential = false, size, depth, seconds, limit, verify }) {
    const blocks = Math.floor(limit / size);
    const order = Uint32Array.from({ length: ORDER }, (_, i) =>
      sequential ? i % blocks : Math.floor(Math.random() * blocks),
    );
    for (const slot of this.#slots) {
      slot.segment = { gpa: slot.segment.gpa, length: size };
      slot.words[0] = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
      slot.words[1] = slot.words[3] = 0;
      slot.readable = write ? [slot.header, slot.segment] : [slot.header];
      slot.writable = write ? [slot.status] : [slot.segment, slot.status];
    }
    const queue = this.#queue;
    const transport = this.#transport;
    const free = this.#slots.slice(0, depth);
    const byToken = [];
    const sectors = size / SECTOR;
    let next = 0;
    let done = 0;
    const reap = () => {
      for (let used = queue.popUsed(); used !== undefined; used = queue.popUsed()) {
        const slot = byToken[used.token];
        if (slot.statusByte[0] !== 0) throw new Error(`status ${slot.statusByte[0]}`);
        if (verify !== undefined) verify(slot.words[2] / sectors, slot.data.subarray(0, size));
        free.push(slot);
        done++;
      }
    };
    const start = performance.now();
    const end = start + seconds * 1000;
    while (performance.now() < end) {
      for (let turn = 0; turn < TURNS; turn++) {
        while (free.length > 0) {
          const slot = free.pop();
          slot.words[2] = order[next++ & (ORDER - 1)] * sectors;
          slot.statusByte[0] = 0xff;
          byToken[queue.addAvailable(slot.readable, slot.writable)] = slot;
        }
        if (queue.takeNotification()) transport.notify(0);
        reap();
      }
    }
    const operations = done;
    const elapsed = (performance.now() - start) / 1000;
    for (const late = performance.now() + 5000; free.length < depth;) {
      reap();
      if (performance.now() > late) throw new Error("the back-end does not answer");
    }
    return { operations, seconds: elapsed };
  }

  async close() {
    await this.#session.close();
  }
}
