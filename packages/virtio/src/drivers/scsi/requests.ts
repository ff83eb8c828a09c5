import { orAborted } from "../../driver/abort.ts";
import { DmaBlocks } from "../../driver/dma-blocks.ts";
import type { DriverSession } from "../../driver/session.ts";
import type { CancelSignal, DriverVirtqueue } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import { readLe32, writeLe32, writeLe64 } from "../../memory/bytes.ts";
import type { Gpa } from "../../memory/guest-memory.ts";
import {
  VIRTIO_SCSI_CDB_DEFAULT as CDB,
  VIRTIO_SCSI_CTRL_AN as AN,
  VIRTIO_SCSI_CTRL_AN_SIZE,
  VIRTIO_SCSI_CTRL_TMF as TMF,
  VIRTIO_SCSI_CTRL_TMF_SIZE,
  VIRTIO_SCSI_F_INOUT,
  VIRTIO_SCSI_REQ_CMD as REQUEST,
  VIRTIO_SCSI_REQ_CMD_REPLY as REPLY,
  VIRTIO_SCSI_S_FUNCTION_SUCCEEDED,
  VIRTIO_SCSI_S_OK,
  VIRTIO_SCSI_SENSE_DEFAULT as SENSE,
  VIRTIO_SCSI_T_AN_QUERY,
  VIRTIO_SCSI_T_AN_SUBSCRIBE,
  VIRTIO_SCSI_T_TMF,
  VIRTIO_SCSI_T_TMF_ABORT_TASK,
} from "../../spec/scsi.ts";
import { encodeAddress, type ScsiAddress } from "./address.ts";
import { ScsiError, parseSense, SCSI_CHECK_CONDITION, SCSI_GOOD } from "./error.ts";

/** Data of a command, and when to give up. */
export interface ScsiCommandOptions {
  /** Sent with the command. */
  readonly dataOut?: Uint8Array;
  /** Filled with what comes back. */
  readonly dataIn?: Uint8Array;
  /** An abort also sends the device an ABORT TASK. */
  readonly signal?: CancelSignal;
}

/** How a command with status GOOD went. */
export interface ScsiResult {
  /** Bytes of `dataIn` that came. */
  readonly received: number;
  /** Bytes asked for that were not transferred, both ways together. */
  readonly residual: number;
}

export interface RequestLimits {
  /** Commands in flight at a time. */
  readonly depth: number;
  /** Bytes of data in one command. */
  readonly dataSize: number;
}

const REQUEST_BYTES = REQUEST.cdb + CDB;
const REPLY_BYTES = REPLY.sense + SENSE;
/** Where the reply starts in the frame that follows a block's data. */
const REPLY_AT = 64;
const FRAME = REPLY_AT + REPLY_BYTES;
const PAGE = 4096;
const NONE = new Uint8Array(0);
/** No message has this response; a byte that still holds it was never written. */
const UNWRITTEN = 0xff;
/** Control messages in flight. */
const CONTROL_DEPTH = 8;
const CONTROL_BYTES = 32;

/** Commands and task management of one SCSI host device ("Device Operation"). */
export class ScsiRequests {
  /** Bytes of data in one command at most. */
  readonly dataSize: number;
  readonly #session: DriverSession;
  readonly #control: DriverVirtqueue;
  readonly #queues: readonly DriverVirtqueue[];
  readonly #blocks: DmaBlocks;
  readonly #messages: DmaBlocks;
  #turn = 0;
  #lastId = 0;

  constructor(
    session: DriverSession,
    control: DriverVirtqueue,
    queues: readonly DriverVirtqueue[],
    { depth, dataSize }: RequestLimits,
  ) {
    this.#session = session;
    this.#control = control;
    this.#queues = queues;
    this.dataSize = dataSize;
    const { memory } = session;
    this.#blocks = new DmaBlocks(memory, depth, dataSize + FRAME, PAGE);
    this.#messages = new DmaBlocks(memory, CONTROL_DEPTH, CONTROL_BYTES, 8);
  }

  /** Resolves when the command ended in GOOD. Rejects with a ScsiError otherwise, and as `request` of a virtqueue. */
  async command(
    address: ScsiAddress,
    cdb: Uint8Array,
    { dataOut = NONE, dataIn = NONE, signal }: ScsiCommandOptions = {},
  ): Promise<ScsiResult> {
    const lun = encodeAddress(address);
    this.#check(cdb, dataOut, dataIn);
    const id = ++this.#lastId;
    let sent = false;
    let done = false;
    const run = async (): Promise<ScsiResult> => {
      const block = await this.#blocks.take(signal);
      try {
        sent = true;
        return await this.#run(block, { lun, id, cdb, dataOut, dataIn, signal });
      } finally {
        done = true;
        this.#blocks.give(block);
      }
    };
    try {
      return await orAborted(run(), signal);
    } catch (error) {
      // The caller does not wait for what becomes of it.
      if (sent && !done)
        void this.taskManagement(VIRTIO_SCSI_T_TMF_ABORT_TASK, address, id).catch(() => undefined);
      throw error;
    }
  }

  /**
   * A task management function, by its VIRTIO_SCSI_T_TMF_… `subtype`. True: FUNCTION SUCCEEDED, false: FUNCTION
   * COMPLETE, which of a query means that there is no such task. Rejects with a ScsiError when it is not done.
   */
  async taskManagement(
    subtype: number,
    address: ScsiAddress,
    id: number = 0,
    signal?: CancelSignal,
  ): Promise<boolean> {
    const message = new Uint8Array(TMF.response);
    writeLe32(message, TMF.type, VIRTIO_SCSI_T_TMF);
    writeLe32(message, TMF.subtype, subtype);
    message.set(encodeAddress(address), TMF.lun);
    writeLe64(message, TMF.id, id);
    const answer = await orAborted(this.#send(message, VIRTIO_SCSI_CTRL_TMF_SIZE, signal), signal);
    const response = answer.at(-1) ?? UNWRITTEN;
    if (response === VIRTIO_SCSI_S_FUNCTION_SUCCEEDED) return true;
    if (response === VIRTIO_SCSI_S_OK) return false;
    throw new ScsiError(`task management function ${subtype} of ${name(address)}`, response);
  }

  /** Asks which of these VIRTIO_SCSI_EVT_ASYNC_… events a unit can report, or subscribes to them; gives those it has. */
  async asyncNotifications(
    address: ScsiAddress,
    events: number,
    subscribe: boolean,
    signal?: CancelSignal,
  ): Promise<number> {
    const message = new Uint8Array(AN.event_actual);
    writeLe32(message, AN.type, subscribe ? VIRTIO_SCSI_T_AN_SUBSCRIBE : VIRTIO_SCSI_T_AN_QUERY);
    message.set(encodeAddress(address), AN.lun);
    writeLe32(message, AN.event_requested, events);
    const answer = await orAborted(this.#send(message, VIRTIO_SCSI_CTRL_AN_SIZE, signal), signal);
    const response = answer.at(-1) ?? UNWRITTEN;
    if (response !== VIRTIO_SCSI_S_OK)
      throw new ScsiError(`asynchronous notifications of ${name(address)}`, response);
    return readLe32(answer, 0);
  }

  /** Ends what waits; for a device that is gone. */
  fail(error: Error): void {
    this.#blocks.fail(error);
    this.#messages.fail(error);
  }

  #check(cdb: Uint8Array, dataOut: Uint8Array, dataIn: Uint8Array): void {
    if (cdb.length === 0 || cdb.length > CDB)
      throw new RangeError(`scsi: a CDB of ${cdb.length} bytes is not from 1 to ${CDB}`);
    const length = dataOut.length + dataIn.length;
    if (length > this.dataSize)
      throw new RangeError(`scsi: ${length} bytes of data are more than ${this.dataSize} in one command`);
    if (dataOut.length > 0 && dataIn.length > 0 && !this.#session.has(VIRTIO_SCSI_F_INOUT))
      throw new Error("scsi: data both ways needs VIRTIO_SCSI_F_INOUT, which was not negotiated");
  }

  async #run(block: Gpa, { lun, id, cdb, dataOut, dataIn, signal }: Command): Promise<ScsiResult> {
    const { memory } = this.#session.transport;
    const frame = block + this.dataSize;
    const header = memory.view(frame, FRAME).fill(0);
    header.set(lun, REQUEST.lun);
    writeLe64(header, REQUEST.id, id);
    header.set(cdb, REQUEST.cdb);
    header[REPLY_AT + REPLY.response] = UNWRITTEN;
    memory.view(block, dataOut.length).set(dataOut);
    const queue = this.#queues[this.#turn++ % this.#queues.length];
    // One descriptor for each part, as the legacy interface wants it ("Framing Requirements").
    const readable = [{ gpa: frame, length: REQUEST_BYTES }];
    if (dataOut.length > 0) readable.push({ gpa: block, length: dataOut.length });
    const writable = [{ gpa: frame + REPLY_AT, length: REPLY_BYTES }];
    if (dataIn.length > 0) writable.push({ gpa: block + dataOut.length, length: dataIn.length });
    const used = (await queue?.request(readable, writable)) ?? 0;
    // "When using the legacy interface, the driver SHOULD ignore the used length values."
    const written = this.#session.transport.legacy ? REPLY_BYTES + dataIn.length : used;
    const reply = memory.view(frame + REPLY_AT, REPLY_BYTES);
    const response = this.#response(queue?.index ?? 0, reply, written);
    const status = reply[REPLY.status] ?? 0;
    if (response !== VIRTIO_SCSI_S_OK || status !== SCSI_GOOD)
      throw new ScsiError(commandName(cdb, lun), response, status, sense(reply, status, written));
    const residual = Math.min(readLe32(reply, REPLY.residual), dataOut.length + dataIn.length);
    const arrived = Math.min(Math.max(0, written - REPLY_BYTES), dataIn.length);
    const received = Math.min(Math.max(0, dataIn.length - residual), arrived);
    // Who gave up may use the memory for something else.
    if (signal?.aborted !== true) dataIn.set(memory.view(block + dataOut.length, received));
    return { received, residual };
  }

  /** The response byte, which must lie inside what the device says that it wrote. */
  #response(queue: number, reply: Uint8Array, written: number): number {
    const response = reply[REPLY.response] ?? UNWRITTEN;
    if (written >= REPLY.sense && response !== UNWRITTEN) return response;
    const fault = new VirtioFault("dev.scsi.request-queues", "a command used without a response", {
      queue,
      value: written,
    });
    this.#session.fail(fault);
    throw fault;
  }

  /** One message on the control queue; `size` is that of the whole structure. Gives the device-writable part. */
  async #send(message: Uint8Array, size: number, signal?: CancelSignal): Promise<Uint8Array> {
    const { memory } = this.#session;
    const { legacy } = this.#session.transport;
    const block = await this.#messages.take(signal);
    try {
      const bytes = memory.view(block, size).fill(UNWRITTEN);
      bytes.set(message);
      const length = size - message.length;
      const readable = [{ gpa: block, length: message.length }];
      const used = await this.#control.request(readable, [{ gpa: block + message.length, length }]);
      const answer = new Uint8Array(memory.view(block + message.length, length));
      if ((used === length || legacy) && answer.at(-1) !== UNWRITTEN) return answer;
      const fault = new VirtioFault("dev.scsi.request-queues", "a control message used without a response", {
        queue: this.#control.index,
        value: used,
      });
      this.#session.fail(fault);
      throw fault;
    } finally {
      this.#messages.give(block);
    }
  }
}

interface Command {
  readonly lun: Uint8Array;
  readonly id: number;
  readonly cdb: Uint8Array;
  readonly dataOut: Uint8Array;
  readonly dataIn: Uint8Array;
  readonly signal: CancelSignal | undefined;
}

function sense(reply: Uint8Array, status: number, written: number): ReturnType<typeof parseSense> {
  if (status !== SCSI_CHECK_CONDITION) return undefined;
  const length = Math.min(readLe32(reply, REPLY.sense_len), SENSE, written - REPLY.sense);
  // Copied: the block is used again.
  return parseSense(new Uint8Array(reply.subarray(REPLY.sense, REPLY.sense + length)));
}

function name({ target, lun }: ScsiAddress): string {
  return `unit ${target}:${lun}`;
}

function commandName(cdb: Uint8Array, lun: Uint8Array): string {
  const unit = name({ target: lun[1] ?? 0, lun: (((lun[2] ?? 0) & 0x3f) << 8) | (lun[3] ?? 0) });
  return `command 0x${(cdb[0] ?? 0).toString(16)} of ${unit}`;
}
