import type { DeviceContext, QueueSpec, VirtioDevice } from "../../src/device/device.ts";
import { encodeAddress, type ScsiAddress } from "../../src/drivers/scsi/address.ts";
import { readLe32, writeLe16, writeLe32 } from "../../src/memory/bytes.ts";
import { VIRTIO_ID_SCSI } from "../../src/spec/ids.ts";
import { featureBits } from "../../src/spec/core.ts";
import {
  VIRTIO_SCSI_CONFIG as CONFIG,
  VIRTIO_SCSI_CONFIG_SIZE,
  VIRTIO_SCSI_EVENT as EVENT,
  VIRTIO_SCSI_F_CHANGE,
  VIRTIO_SCSI_F_HOTPLUG,
  VIRTIO_SCSI_F_INOUT,
  VIRTIO_SCSI_REQ_CMD as REQUEST,
  VIRTIO_SCSI_S_BAD_TARGET,
} from "../../src/spec/scsi.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";

export const BLOCK = 512;

/** What a test makes of a command. */
export interface Answer {
  readonly response?: number;
  readonly status?: number;
  readonly sense?: readonly number[];
  readonly senseLength?: number;
  readonly residual?: number;
  readonly data?: Uint8Array;
  /** Used length to claim. */
  readonly written?: number;
}

/** One command as it came. */
export interface Seen {
  readonly header: Uint8Array;
  readonly dataOut: Uint8Array;
  /** Bytes of room for data. */
  readonly room: number;
  /** Lengths of the descriptors. */
  readonly segments: readonly number[];
}

/** A SCSI host of the test's own: one disk of 64 blocks at each of its addresses, or whatever `answer` says. */
export class TestHost implements VirtioDevice {
  readonly id = VIRTIO_ID_SCSI;
  readonly name = "scsi";
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly configBytes = new Uint8Array(VIRTIO_SCSI_CONFIG_SIZE);
  readonly configWrites: number[] = [];
  readonly config = {
    length: VIRTIO_SCSI_CONFIG_SIZE,
    read: (offset: number, target: Uint8Array): void =>
      target.set(this.configBytes.subarray(offset, offset + target.length)),
    write: (offset: number, source: Uint8Array): void => {
      this.configWrites.push(offset);
      this.configBytes.set(source, offset);
    },
  };
  readonly disks = new Map<string, Uint8Array>();
  readonly commands: Seen[] = [];
  readonly messages: Uint8Array[] = [];
  /** Instead of what a disk would do; undefined: the disk does it. */
  answer: ((seen: Seen) => Answer | undefined | Promise<Answer>) | undefined;
  /** The device-writable part of a control message. */
  control: (message: Uint8Array) => { readonly bytes: readonly number[]; readonly written?: number } =
    () => ({
      bytes: [0],
    });
  inFlight = 0;
  mostInFlight = 0;
  context: DeviceContext | undefined;

  constructor(
    units: readonly ScsiAddress[],
    features = featureBits(VIRTIO_SCSI_F_INOUT, VIRTIO_SCSI_F_HOTPLUG, VIRTIO_SCSI_F_CHANGE),
  ) {
    this.features = features;
    for (const unit of units) this.plug(unit);
    const fields = {
      num_queues: 2,
      seg_max: 126,
      max_sectors: 0xffff,
      cmd_per_lun: 128,
      event_info_size: 16,
    };
    for (const [name, value] of Object.entries(fields))
      writeLe32(this.configBytes, CONFIG[name as keyof typeof fields], value);
    writeLe32(this.configBytes, CONFIG.sense_size, 96);
    writeLe32(this.configBytes, CONFIG.cdb_size, 32);
    writeLe16(this.configBytes, CONFIG.max_target, 7);
    const request = {
      maxSize: 128,
      serve: (chain: DescriptorChain, context: DeviceContext) => this.#serve(chain, context),
    };
    this.queues = [
      { name: "controlq", maxSize: 64, serve: (chain, context) => this.#serveControl(chain, context) },
      { name: "eventq", maxSize: 64 },
      { name: "requestq1", ...request },
      { name: "requestq2", ...request },
    ];
  }

  plug(unit: ScsiAddress): Uint8Array {
    const disk = new Uint8Array(64 * BLOCK);
    this.disks.set(encodeAddress(unit).join(), disk);
    return disk;
  }

  unplug(unit: ScsiAddress): void {
    this.disks.delete(encodeAddress(unit).join());
  }

  activate(context: DeviceContext): void {
    this.context = context;
  }

  /** Reports an event; `length`: bytes that the device says it wrote. */
  event(event: number, reason: number, unit: ScsiAddress | Uint8Array, length = 16): boolean {
    const queue = this.context?.queue(1);
    const chain = queue?.popAvailable();
    const gpa = chain?.writable[0]?.gpa;
    if (queue === undefined || chain === undefined || gpa === undefined) return false;
    const bytes = this.context?.memory.view(gpa, 16);
    if (bytes === undefined) return false;
    writeLe32(bytes, EVENT.event, event);
    bytes.set(unit instanceof Uint8Array ? unit : encodeAddress(unit), EVENT.lun);
    writeLe32(bytes, EVENT.reason, reason);
    queue.addUsed(chain, length);
    queue.flush();
    return true;
  }

  async #serve(chain: DescriptorChain, { memory }: DeviceContext): Promise<number> {
    const readable = gather(memory, chain.readable);
    const seen: Seen = {
      header: readable.subarray(0, 51),
      dataOut: readable.subarray(51),
      room: chain.writableLength - 108,
      segments: [...chain.readable, ...chain.writable].map(({ length }) => length),
    };
    this.commands.push(seen);
    this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
    // Later than the next request, so that several are in flight.
    await Promise.resolve();
    const answer = (await this.answer?.(seen)) ?? this.#execute(seen);
    this.inFlight--;
    const { sense = [], data = new Uint8Array(0) } = answer;
    const reply = new Uint8Array(108 + data.length);
    writeLe32(reply, 0, answer.senseLength ?? sense.length);
    writeLe32(
      reply,
      4,
      answer.residual ?? seen.dataOut.length + seen.room - Math.max(data.length, seen.dataOut.length),
    );
    reply[10] = answer.status ?? 0;
    reply[11] = answer.response ?? 0;
    reply.set(sense, 12);
    reply.set(data, 108);
    scatter(memory, chain.writable, reply);
    return answer.written ?? reply.length;
  }

  #execute({ header, dataOut, room }: Seen): Answer {
    const target = header[1] ?? 0;
    const disk = this.disks.get(header.subarray(0, 8).join());
    const others = [...this.disks.keys()].filter((each) => each.startsWith(`1,${target},`));
    if (others.length === 0) return { response: VIRTIO_SCSI_S_BAD_TARGET, written: 12 };
    const cdb = header.subarray(REQUEST.cdb);
    const view = new DataView(cdb.buffer, cdb.byteOffset, 32);
    switch (cdb[0]) {
      case 0x12: {
        const data = new Uint8Array(36);
        data[0] = disk === undefined ? 0x7f : 0;
        data.set(new TextEncoder().encode("TEST    RAM disk        1.0 "), 8);
        return { data };
      }
      case 0xa0: {
        const data = new Uint8Array(8 + 8 * others.length);
        new DataView(data.buffer).setUint32(0, 8 * others.length);
        others.forEach((each, i) => data.set(each.split(",").map(Number).slice(2, 4), 8 + 8 * i));
        return { data: data.subarray(0, room) };
      }
      case 0x25:
        return { data: Uint8Array.of(0, 0, 0, 63, 0, 0, BLOCK >> 8, 0) };
      case 0x28:
      case 0x2a: {
        const from = view.getUint32(2) * BLOCK;
        const end = from + view.getUint16(7) * BLOCK;
        if (cdb[0] === 0x28) return { data: disk?.slice(from, end) ?? new Uint8Array(0) };
        disk?.set(dataOut, from);
        return {};
      }
      case 0x00:
      case 0x35:
        return {};
      default:
        return { status: 2, sense: [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0] };
    }
  }

  #serveControl(chain: DescriptorChain, { memory }: DeviceContext): number {
    const message = gather(memory, chain.readable);
    this.messages.push(message);
    const { bytes, written } = this.control(message);
    scatter(memory, chain.writable, Uint8Array.from(bytes));
    return written ?? bytes.length;
  }
}

/** The subtype of a task management function. */
export function subtypeOf(message: Uint8Array | undefined): number {
  return message === undefined ? -1 : readLe32(message, 4);
}

type Memory = DeviceContext["memory"];

function gather(memory: Memory, segments: DescriptorChain["readable"]): Uint8Array {
  const bytes = new Uint8Array(segments.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const { gpa, length } of segments) {
    bytes.set(memory.view(gpa, length), at);
    at += length;
  }
  return bytes;
}

function scatter(memory: Memory, segments: DescriptorChain["writable"], bytes: Uint8Array): void {
  let at = 0;
  for (const { gpa, length } of segments) {
    memory.view(gpa, length).set(bytes.subarray(at, at + length));
    at += length;
  }
}
