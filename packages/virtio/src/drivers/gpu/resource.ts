import { orAborted } from "../../driver/abort.ts";
import type { DmaMemory } from "../../driver/types.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import { writeLe32, writeLe64 } from "../../memory/bytes.ts";
import type { Gpa } from "../../memory/guest-memory.ts";
import {
  VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING,
  VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
  VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING,
  VIRTIO_GPU_CMD_RESOURCE_FLUSH,
  VIRTIO_GPU_CMD_RESOURCE_UNREF,
  VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D,
  VIRTIO_GPU_MEM_ENTRY as ENTRY,
  VIRTIO_GPU_MEM_ENTRY_SIZE as ENTRY_SIZE,
  VIRTIO_GPU_RECT as RECT,
  VIRTIO_GPU_RESOURCE_ATTACH_BACKING as ATTACH,
  VIRTIO_GPU_RESOURCE_ATTACH_BACKING_SIZE,
  VIRTIO_GPU_RESOURCE_CREATE_2D as CREATE,
  VIRTIO_GPU_RESOURCE_CREATE_2D_SIZE,
  VIRTIO_GPU_RESOURCE_DETACH_BACKING as DETACH,
  VIRTIO_GPU_RESOURCE_DETACH_BACKING_SIZE,
  VIRTIO_GPU_RESOURCE_FLUSH as FLUSH,
  VIRTIO_GPU_RESOURCE_FLUSH_SIZE,
  VIRTIO_GPU_RESOURCE_UNREF as UNREF,
  VIRTIO_GPU_RESOURCE_UNREF_SIZE,
  VIRTIO_GPU_TRANSFER_TO_HOST_2D as TRANSFER,
  VIRTIO_GPU_TRANSFER_TO_HOST_2D_SIZE,
} from "../../spec/gpu.ts";
import { GpuError, type GpuCommands } from "./commands.ts";

/** A part of a picture, in pixels; 0,0 is top left. */
export interface GpuRect {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** All formats have 4 bytes a pixel. */
export const PIXEL_BYTES = 4;
/** Pixels each way. */
const MAX_SIDE = 16_384;
const PAGE = 4096;

/** A 2D resource of the device, with its backing in memory that driver and device share. */
export class GpuResource {
  /** As the device knows it. */
  readonly id: number;
  readonly width: number;
  readonly height: number;
  /** VIRTIO_GPU_FORMAT_…. */
  readonly format: number;
  readonly #commands: GpuCommands;
  readonly #memory: DmaMemory;
  readonly #gpa: Gpa;
  readonly #length: number;
  readonly #all: Set<GpuResource>;
  #gone = false;
  #destroyed: Promise<void> | undefined;

  /** Adds itself to `all` for as long as it has memory. Throws a RangeError when there is none, or too large a picture. */
  constructor(commands: GpuCommands, memory: DmaMemory, shape: ResourceShape, all: Set<GpuResource>) {
    for (const side of [shape.width, shape.height])
      if (!Number.isInteger(side) || side < 1 || side > MAX_SIDE)
        throw new RangeError(`gpu: a picture of ${side} pixels is not from 1 to ${MAX_SIDE}`);
    this.#commands = commands;
    this.#memory = memory;
    this.id = shape.id;
    this.width = shape.width;
    this.height = shape.height;
    this.format = shape.format;
    this.#length = shape.width * shape.height * PIXEL_BYTES;
    this.#gpa = memory.allocate(this.#length, PAGE);
    this.#all = all;
    all.add(this);
  }

  /** Makes the device know it. Rejects with a GpuError when the device has no memory for it; nothing is left behind then. */
  async create(signal?: CancelSignal): Promise<void> {
    const created = this.#create();
    try {
      await orAborted(created, signal);
    } catch (error) {
      // Who gave up does not want it when it is there.
      created.then(() => this.destroy()).catch(() => undefined);
      throw error;
    }
  }

  /** The pixels, rows from top to bottom without a gap. Do not keep it over an `await`. */
  get pixels(): Uint8Array {
    if (this.#gone) throw new Error(`gpu: resource ${this.id} was destroyed`);
    return this.#memory.view(this.#gpa, this.#length);
  }

  /** Copies a part of `pixels` to the device. Default all. Resolves when it has read them. */
  async transfer(rect: GpuRect = this.#whole, signal?: CancelSignal): Promise<void> {
    this.check(rect);
    const request = new Uint8Array(VIRTIO_GPU_TRANSFER_TO_HOST_2D_SIZE);
    writeRect(request, TRANSFER["r.x"], rect);
    writeLe64(request, TRANSFER.offset, (rect.y * this.width + rect.x) * PIXEL_BYTES);
    writeLe32(request, TRANSFER.resource_id, this.id);
    await this.#commands.send(VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D, request, { signal });
  }

  /** Shows a part of what was transferred, on every scanout that the resource is on. Default all. */
  async flush(rect: GpuRect = this.#whole, signal?: CancelSignal): Promise<void> {
    this.check(rect);
    const request = new Uint8Array(VIRTIO_GPU_RESOURCE_FLUSH_SIZE);
    writeRect(request, FLUSH["r.x"], rect);
    writeLe32(request, FLUSH.resource_id, this.id);
    await this.#commands.send(VIRTIO_GPU_CMD_RESOURCE_FLUSH, request, { signal });
  }

  /** Takes it away from the device, and gives its memory back. A scanout that shows it is blank from here on. */
  destroy(signal?: CancelSignal): Promise<void> {
    this.#destroyed ??= this.#destroy();
    return orAborted(this.#destroyed, signal);
  }

  /** Gives the memory back, only when the device does not have it any more. */
  free(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#all.delete(this);
    this.#memory.free(this.#gpa, this.#length);
  }

  /** Throws a RangeError unless the part lies in the picture. */
  check({ x, y, width, height }: GpuRect): void {
    const inside =
      [x, y, width, height].every((value) => Number.isInteger(value) && value >= 0) &&
      x + width <= this.width &&
      y + height <= this.height;
    if (!inside)
      throw new RangeError(
        `gpu: ${width}x${height} at ${x},${y} is not in a picture of ${this.width}x${this.height}`,
      );
  }

  get #whole(): GpuRect {
    return { x: 0, y: 0, width: this.width, height: this.height };
  }

  async #create(): Promise<void> {
    const request = new Uint8Array(VIRTIO_GPU_RESOURCE_CREATE_2D_SIZE);
    writeLe32(request, CREATE.resource_id, this.id);
    writeLe32(request, CREATE.format, this.format);
    writeLe32(request, CREATE.width, this.width);
    writeLe32(request, CREATE.height, this.height);
    try {
      await this.#commands.send(VIRTIO_GPU_CMD_RESOURCE_CREATE_2D, request);
    } catch (error) {
      // The device was never told of the memory.
      this.free();
      throw error;
    }
    try {
      await this.#attach();
    } catch (error) {
      await this.destroy().catch(() => undefined);
      throw error;
    }
  }

  async #attach(): Promise<void> {
    const request = new Uint8Array(VIRTIO_GPU_RESOURCE_ATTACH_BACKING_SIZE + ENTRY_SIZE);
    writeLe32(request, ATTACH.resource_id, this.id);
    writeLe32(request, ATTACH.nr_entries, 1);
    writeLe64(request, VIRTIO_GPU_RESOURCE_ATTACH_BACKING_SIZE + ENTRY.addr, this.#gpa);
    writeLe32(request, VIRTIO_GPU_RESOURCE_ATTACH_BACKING_SIZE + ENTRY.length, this.#length);
    await this.#commands.send(VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING, request);
  }

  /** Memory is free when the device has let go of it, or of the whole resource; else at the reset. */
  async #destroy(): Promise<void> {
    if (this.#gone) return;
    const detach = new Uint8Array(VIRTIO_GPU_RESOURCE_DETACH_BACKING_SIZE);
    writeLe32(detach, DETACH.resource_id, this.id);
    const refusal = await this.#commands.send(VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING, detach).then(
      () => undefined,
      (error: unknown) => {
        if (error instanceof GpuError) return error;
        throw error;
      },
    );
    if (refusal === undefined) this.free();
    const unref = new Uint8Array(VIRTIO_GPU_RESOURCE_UNREF_SIZE);
    writeLe32(unref, UNREF.resource_id, this.id);
    await this.#commands.send(VIRTIO_GPU_CMD_RESOURCE_UNREF, unref);
    this.free();
    if (refusal !== undefined) throw refusal;
  }
}

export interface ResourceShape {
  readonly id: number;
  readonly width: number;
  readonly height: number;
  readonly format: number;
}

export function writeRect(request: Uint8Array, at: number, { x, y, width, height }: GpuRect): void {
  writeLe32(request, at + RECT.x, x);
  writeLe32(request, at + RECT.y, y);
  writeLe32(request, at + RECT.width, width);
  writeLe32(request, at + RECT.height, height);
}
