import { orAborted } from "../../driver/abort.ts";
import { DmaBlocks } from "../../driver/dma-blocks.ts";
import type { DriverSession } from "../../driver/session.ts";
import type { CancelSignal, DriverVirtqueue } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import { readLe32, readLe64, writeLe32, writeLe64 } from "../../memory/bytes.ts";
import type { Gpa } from "../../memory/guest-memory.ts";
import {
  VIRTIO_GPU_CTRL_HDR as HEADER,
  VIRTIO_GPU_CTRL_HDR_SIZE as HEADER_SIZE,
  VIRTIO_GPU_FLAG_FENCE,
  VIRTIO_GPU_RESP_EDID_SIZE,
  VIRTIO_GPU_RESP_ERR_INVALID_CONTEXT_ID,
  VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER,
  VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID,
  VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID,
  VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY,
  VIRTIO_GPU_RESP_ERR_UNSPEC,
  VIRTIO_GPU_RESP_OK_NODATA,
} from "../../spec/gpu.ts";

const NAMES: Readonly<Record<number, string>> = {
  [VIRTIO_GPU_RESP_ERR_UNSPEC]: "VIRTIO_GPU_RESP_ERR_UNSPEC",
  [VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY]: "VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY",
  [VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID]: "VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID",
  [VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID]: "VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID",
  [VIRTIO_GPU_RESP_ERR_INVALID_CONTEXT_ID]: "VIRTIO_GPU_RESP_ERR_INVALID_CONTEXT_ID",
  [VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER]: "VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER",
};

/** The device ended a command with one of VIRTIO_GPU_RESP_ERR_…. */
export class GpuError extends Error {
  override readonly name = "GpuError";
  /** VIRTIO_GPU_CMD_…. */
  readonly command: number;
  readonly response: number;

  constructor(command: number, response: number) {
    super(
      `gpu: command 0x${command.toString(16)}: ${NAMES[response] ?? `response 0x${response.toString(16)}`}`,
    );
    this.command = command;
    this.response = response;
  }
}

/** More than the longest request. */
const REQUEST_BYTES = 64;
const RESPONSE_BYTES = VIRTIO_GPU_RESP_EDID_SIZE;
/** Commands in flight. */
const DEPTH = 16;
/** What is above this is an error. */
const FIRST_ERROR = VIRTIO_GPU_RESP_ERR_UNSPEC;

/** Sends commands on the control queue and on the cursor queue, each with a fence. */
export class GpuCommands {
  readonly #session: DriverSession;
  readonly #control: DriverVirtqueue;
  readonly #cursor: DriverVirtqueue;
  readonly #blocks: DmaBlocks;
  #fence = 0;

  constructor(session: DriverSession, control: DriverVirtqueue, cursor: DriverVirtqueue) {
    this.#session = session;
    this.#control = control;
    this.#cursor = cursor;
    const { memory } = session;
    this.#blocks = new DmaBlocks(memory, DEPTH, REQUEST_BYTES + RESPONSE_BYTES, 16);
  }

  /**
   * Sends `request`, whose header is filled here, and resolves with the response once it is processed. `size` is how long
   * that may be. Rejects with a GpuError when the device says no.
   */
  send(
    command: number,
    request: Uint8Array,
    { expected = VIRTIO_GPU_RESP_OK_NODATA, size = HEADER_SIZE, signal }: SendOptions = {},
  ): Promise<Uint8Array> {
    return orAborted(
      this.#inBlock(signal, async (block) => {
        const id = ++this.#fence;
        this.#write(block, command, request, id);
        const { memory } = this.#session;
        const answer = { gpa: block + REQUEST_BYTES, length: size };
        memory.view(answer.gpa, size).fill(0);
        const written = await this.#control.request([{ gpa: block, length: request.length }], [answer]);
        // Copied: the block is used again.
        const response = new Uint8Array(memory.view(answer.gpa, written));
        this.#check(command, response, expected, id);
        return response;
      }),
      signal,
    );
  }

  /** Sends a cursor command; what becomes of it nobody says. Resolves when the device has taken it. */
  sendCursor(command: number, request: Uint8Array, signal?: CancelSignal): Promise<void> {
    return orAborted(
      this.#inBlock(signal, async (block) => {
        this.#write(block, command, request, undefined);
        await this.#cursor.request([{ gpa: block, length: request.length }], []);
      }),
      signal,
    );
  }

  /** Ends what waits; for a device that is gone. */
  fail(error: Error): void {
    this.#blocks.fail(error);
  }

  async #inBlock<T>(signal: CancelSignal | undefined, work: (block: Gpa) => Promise<T>): Promise<T> {
    const block = await this.#blocks.take(signal);
    try {
      return await work(block);
    } finally {
      this.#blocks.give(block);
    }
  }

  #write(block: Gpa, command: number, request: Uint8Array, fence: number | undefined): void {
    writeLe32(request, HEADER.type, command);
    if (fence !== undefined) {
      writeLe32(request, HEADER.flags, VIRTIO_GPU_FLAG_FENCE);
      writeLe64(request, HEADER.fence_id, fence);
    }
    this.#session.memory.view(block, request.length).set(request);
  }

  #check(command: number, response: Uint8Array, expected: number, fence: number): void {
    const type = readLe32(response, HEADER.type);
    if (response.length < HEADER_SIZE) this.#fault("a response without a header", response.length);
    if (type >= FIRST_ERROR) throw new GpuError(command, type);
    if (type !== expected) this.#fault(`a response to command 0x${command.toString(16)}`, type);
    const fenced = (readLe32(response, HEADER.flags) & VIRTIO_GPU_FLAG_FENCE) !== 0;
    if (!fenced || readLe64(response, HEADER.fence_id) !== fence)
      this.#fault(`a response without the fence ${fence}`, readLe64(response, HEADER.fence_id));
  }

  #fault(what: string, value: number): never {
    const fault = new VirtioFault("dev.gpu.fencing", what, { queue: this.#control.index, value });
    this.#session.fail(fault);
    throw fault;
  }
}

interface SendOptions {
  readonly expected?: number;
  readonly size?: number;
  readonly signal?: CancelSignal | undefined;
}
