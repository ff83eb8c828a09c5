import type { DeviceContext, QueueSpec, VirtioDevice } from "../../src/device/device.ts";
import { readLe16, readLe32, writeLe16, writeLe32 } from "../../src/memory/bytes.ts";
import { VIRTIO_ID_INPUT } from "../../src/spec/ids.ts";
import {
  VIRTIO_INPUT_CFG_ABS_INFO,
  VIRTIO_INPUT_CFG_EV_BITS,
  VIRTIO_INPUT_CFG_ID_DEVIDS,
  VIRTIO_INPUT_CFG_ID_NAME,
  VIRTIO_INPUT_CFG_ID_SERIAL,
  VIRTIO_INPUT_CFG_PROP_BITS,
} from "../../src/spec/input.ts";

export type Event = readonly [type: number, code: number, value: number];

/** An input device of the test's own. */
export class TestInput implements VirtioDevice {
  readonly id = VIRTIO_ID_INPUT;
  readonly name = "input";
  readonly features = 0n;
  readonly queues: readonly QueueSpec[];
  /** By `select * 256 + subsel`. */
  readonly information = new Map<number, Uint8Array>();
  /** Instead of the length of the information. */
  size: number | undefined;
  /** Offsets and values that the driver wrote. */
  readonly writes: (readonly [number, number])[] = [];
  readonly status: Event[] = [];
  /** Status requests that the device keeps. */
  keep = false;
  context: DeviceContext | undefined;
  readonly #selected = new Uint8Array(2);
  readonly config = {
    length: 136,
    read: (offset: number, target: Uint8Array): void => {
      const bytes = new Uint8Array(136 + 256);
      const found = this.information.get((this.#selected[0] ?? 0) * 256 + (this.#selected[1] ?? 0));
      bytes.set(this.#selected);
      bytes[2] = this.size ?? found?.length ?? 0;
      bytes.set(found ?? [], 8);
      target.set(bytes.subarray(offset, offset + target.length));
    },
    write: (offset: number, source: Uint8Array): void => {
      for (const [i, byte] of source.entries()) {
        this.writes.push([offset + i, byte]);
        if (offset + i < 2) this.#selected[offset + i] = byte;
      }
    },
  };

  constructor() {
    this.tell(VIRTIO_INPUT_CFG_ID_NAME, 0, new TextEncoder().encode("Tästatur"));
    this.tell(VIRTIO_INPUT_CFG_ID_SERIAL, 0, new TextEncoder().encode("S1\0rest"));
    this.tell(VIRTIO_INPUT_CFG_ID_DEVIDS, 0, Uint8Array.of(6, 0, 0x34, 0x12, 1, 0, 2, 0));
    this.tell(VIRTIO_INPUT_CFG_PROP_BITS, 0, Uint8Array.of(0b101));
    this.tell(VIRTIO_INPUT_CFG_EV_BITS, 1, Uint8Array.of(0, 0b10, 0, 0x80));
    this.tell(VIRTIO_INPUT_CFG_EV_BITS, 3, Uint8Array.of(0b11));
    this.tell(VIRTIO_INPUT_CFG_EV_BITS, 0x11, Uint8Array.of(0b111));
    const axis = new Uint8Array(20);
    [-100, 1000, 2, 3, 40].forEach((value, i) => writeLe32(axis, 4 * i, value));
    this.tell(VIRTIO_INPUT_CFG_ABS_INFO, 0, axis);
    this.queues = [
      { name: "eventq", maxSize: 64 },
      {
        name: "statusq",
        maxSize: 64,
        serve: (chain, { memory }) => {
          if (this.keep) return new Promise<number>(() => undefined);
          const [segment] = chain.readable;
          if (segment === undefined) throw new Error("an empty status");
          const bytes = memory.view(segment.gpa, segment.length);
          this.status.push([readLe16(bytes, 0), readLe16(bytes, 2), readLe32(bytes, 4) | 0]);
          return 0;
        },
      },
    ];
  }

  tell(select: number, subsel: number, bytes: Uint8Array): void {
    this.information.set(select * 256 + subsel, bytes);
  }

  activate(context: DeviceContext): void {
    this.context = context;
  }

  /** Sends events; how many of them found a buffer. */
  send(events: readonly Event[], written: number = 8): number {
    const queue = this.context?.queue(0);
    let sent = 0;
    for (const [type, code, value] of events) {
      const chain = queue?.popAvailable();
      const gpa = chain?.writable[0]?.gpa;
      if (queue === undefined || chain === undefined || gpa === undefined) break;
      const bytes = this.context?.memory.view(gpa, 8) ?? new Uint8Array(8);
      writeLe16(bytes, 0, type);
      writeLe16(bytes, 2, code);
      writeLe32(bytes, 4, value);
      queue.addUsed(chain, written);
      sent++;
    }
    queue?.flush();
    return sent;
  }
}
