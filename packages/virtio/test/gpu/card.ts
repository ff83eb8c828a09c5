import type { DeviceContext, QueueSpec, VirtioDevice } from "../../src/device/device.ts";
import { readLe32, readLe64, writeLe32, writeLe64 } from "../../src/memory/bytes.ts";
import { featureBits } from "../../src/spec/core.ts";
import {
  VIRTIO_GPU_CMD_GET_DISPLAY_INFO,
  VIRTIO_GPU_CMD_GET_EDID,
  VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING,
  VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
  VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING,
  VIRTIO_GPU_CMD_RESOURCE_FLUSH,
  VIRTIO_GPU_CMD_RESOURCE_UNREF,
  VIRTIO_GPU_CMD_SET_SCANOUT,
  VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D,
  VIRTIO_GPU_F_EDID,
  VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID,
  VIRTIO_GPU_RESP_OK_DISPLAY_INFO,
  VIRTIO_GPU_RESP_OK_EDID,
  VIRTIO_GPU_RESP_OK_NODATA,
} from "../../src/spec/gpu.ts";
import { VIRTIO_ID_GPU } from "../../src/spec/ids.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";

interface Resource {
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8Array;
  backing: { readonly gpa: number; readonly length: number } | undefined;
}

/** What a test makes of a response before it is sent: other bytes, another used length, or later. */
export type Twist = (
  command: number,
  response: Uint8Array,
) => { readonly bytes?: Uint8Array; readonly written?: number } | Promise<void> | undefined;

/** A graphics card of the test's own. */
export class TestCard implements VirtioDevice {
  readonly id = VIRTIO_ID_GPU;
  readonly name = "gpu";
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly configBytes = new Uint8Array(16);
  readonly configWrites: (readonly [offset: number, value: number])[] = [];
  readonly resources = new Map<number, Resource>();
  /** What each scanout shows: the resource and its rectangle. */
  readonly scanouts = new Map<number, { readonly resource: number; readonly rect: readonly number[] }>();
  readonly flushed: number[][] = [];
  readonly cursors: number[][] = [];
  readonly requests: Uint8Array[] = [];
  twist: Twist = () => undefined;
  context: DeviceContext | undefined;
  readonly config = {
    length: 16,
    read: (offset: number, target: Uint8Array): void =>
      target.set(this.configBytes.subarray(offset, offset + target.length)),
    write: (offset: number, source: Uint8Array): void => {
      const value = readLe32(source, 0);
      this.configWrites.push([offset, value]);
      if (offset === 4) writeLe32(this.configBytes, 0, readLe32(this.configBytes, 0) & ~value);
    },
  };

  constructor(features: bigint = featureBits(VIRTIO_GPU_F_EDID)) {
    this.features = features;
    writeLe32(this.configBytes, 8, 2);
    this.queues = [
      { name: "controlq", maxSize: 64, serve: (chain, context) => this.#control(chain, context) },
      { name: "cursorq", maxSize: 16, serve: (chain, context) => this.#cursor(chain, context) },
    ];
  }

  activate(context: DeviceContext): void {
    this.context = context;
  }

  /** The pixels that a scanout shows. */
  picture(scanout: number): Uint8Array | undefined {
    return this.resources.get(this.scanouts.get(scanout)?.resource ?? 0)?.pixels;
  }

  async #control(chain: DescriptorChain, { memory }: DeviceContext): Promise<number> {
    const request = copyOf(chain, memory);
    this.requests.push(request);
    const command = readLe32(request, 0);
    const body = this.#execute(command, request, memory);
    const response = new Uint8Array(24 + (body.data?.length ?? 0));
    response.set(body.data ?? [], 24);
    writeLe32(response, 0, body.type);
    writeLe32(response, 4, readLe32(request, 4) & 1);
    writeLe64(response, 8, readLe64(request, 8));
    const twisted = await this.twist(command, response);
    const bytes = twisted?.bytes ?? response;
    const [segment] = chain.writable;
    if (segment === undefined) return 0;
    const room = Math.min(bytes.length, segment.length);
    memory.view(segment.gpa, room).set(bytes.subarray(0, room));
    return twisted?.written ?? room;
  }

  #cursor(chain: DescriptorChain, { memory }: DeviceContext): number {
    const request = copyOf(chain, memory);
    this.cursors.push([0, 24, 28, 32, 40, 44, 48].map((at) => readLe32(request, at)));
    return 0;
  }

  #execute(
    command: number,
    request: Uint8Array,
    memory: DeviceContext["memory"],
  ): { type: number; data?: Uint8Array } {
    const field = (at: number): number => readLe32(request, at);
    const rect = [24, 28, 32, 36].map(field);
    const ok = { type: VIRTIO_GPU_RESP_OK_NODATA };
    const bad = { type: VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID };
    switch (command) {
      case VIRTIO_GPU_CMD_GET_DISPLAY_INFO: {
        const data = new Uint8Array(384);
        [0, 0, 640, 480, 1].forEach((value, i) => writeLe32(data, 4 * i, value));
        return { type: VIRTIO_GPU_RESP_OK_DISPLAY_INFO, data };
      }
      case VIRTIO_GPU_CMD_GET_EDID: {
        const data = new Uint8Array(1032);
        writeLe32(data, 0, 128);
        data.fill(0xed, 8, 8 + 128);
        return { type: VIRTIO_GPU_RESP_OK_EDID, data };
      }
      case VIRTIO_GPU_CMD_RESOURCE_CREATE_2D: {
        const [width, height] = [field(32), field(36)];
        this.resources.set(field(24), {
          width,
          height,
          pixels: new Uint8Array(4 * width * height),
          backing: undefined,
        });
        return ok;
      }
      case VIRTIO_GPU_CMD_RESOURCE_UNREF:
        return this.resources.delete(field(24)) ? ok : bad;
      case VIRTIO_GPU_CMD_SET_SCANOUT:
        this.scanouts.set(field(40), { resource: field(44), rect });
        return ok;
      case VIRTIO_GPU_CMD_RESOURCE_FLUSH:
        this.flushed.push(rect);
        return ok;
      case VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING:
      case VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING: {
        const resource = this.resources.get(field(24));
        if (resource === undefined) return bad;
        const attach = command === VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING;
        resource.backing = attach ? { gpa: readLe64(request, 32), length: field(40) } : undefined;
        return ok;
      }
      case VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D: {
        const resource = this.resources.get(field(48));
        if (resource?.backing === undefined) return bad;
        const [x = 0, y = 0, width = 0, height = 0] = rect;
        const from = memory.view(resource.backing.gpa, resource.backing.length);
        const stride = 4 * resource.width;
        for (let row = 0; row < height; row++) {
          const source = readLe64(request, 40) + row * stride;
          resource.pixels.set(from.subarray(source, source + 4 * width), (y + row) * stride + 4 * x);
        }
        return ok;
      }
      default:
        return bad;
    }
  }
}

function copyOf(chain: DescriptorChain, memory: DeviceContext["memory"]): Uint8Array {
  const [segment] = chain.readable;
  return segment === undefined ? new Uint8Array(0) : memory.view(segment.gpa, segment.length).slice();
}
