import { throwIfAborted } from "../../driver/abort.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import { Turns } from "../../driver/turns.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import { readLe32, writeLe32 } from "../../memory/bytes.ts";
import { featureBits } from "../../spec/core.ts";
import {
  VIRTIO_GPU_CMD_GET_DISPLAY_INFO,
  VIRTIO_GPU_CMD_GET_EDID,
  VIRTIO_GPU_CMD_MOVE_CURSOR,
  VIRTIO_GPU_CMD_SET_SCANOUT,
  VIRTIO_GPU_CMD_UPDATE_CURSOR,
  VIRTIO_GPU_CONFIG as CONFIG,
  VIRTIO_GPU_CONTROLQ,
  VIRTIO_GPU_CTRL_HDR_SIZE,
  VIRTIO_GPU_CURSORQ,
  VIRTIO_GPU_CURSOR_PIXELS as CURSOR_PIXELS,
  VIRTIO_GPU_DISPLAY_ONE as DISPLAY,
  VIRTIO_GPU_DISPLAY_ONE_SIZE,
  VIRTIO_GPU_EVENT_DISPLAY,
  VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM,
  VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM,
  VIRTIO_GPU_F_EDID,
  VIRTIO_GPU_GET_EDID,
  VIRTIO_GPU_GET_EDID_SIZE,
  VIRTIO_GPU_MAX_SCANOUTS,
  VIRTIO_GPU_RESP_DISPLAY_INFO_SIZE,
  VIRTIO_GPU_RESP_EDID,
  VIRTIO_GPU_RESP_EDID_SIZE,
  VIRTIO_GPU_RESP_OK_DISPLAY_INFO,
  VIRTIO_GPU_RESP_OK_EDID,
  VIRTIO_GPU_SET_SCANOUT as SCANOUT,
  VIRTIO_GPU_SET_SCANOUT_SIZE,
  VIRTIO_GPU_UPDATE_CURSOR as CURSOR,
  VIRTIO_GPU_UPDATE_CURSOR_SIZE,
} from "../../spec/gpu.ts";
import { VIRTIO_ID_GPU } from "../../spec/ids.ts";
import { GpuCommands } from "./commands.ts";
import { GpuResource, PIXEL_BYTES, writeRect, type GpuRect } from "./resource.ts";

export type GpuDriverOptions = DriverOpenOptions;

const TYPE = { id: VIRTIO_ID_GPU, name: "GPU device" };
/** Every device has the fields up to `num_scanouts`. */
const CONFIG_BYTES = CONFIG.num_scanouts + 4;

/** A scanout and what the user made of it: place and preferred size, in pixels. */
export interface GpuDisplay extends GpuRect {
  readonly scanout: number;
  readonly enabled: boolean;
}

/** Where a cursor is. */
export interface GpuPointer {
  readonly scanout?: number;
  readonly x: number;
  readonly y: number;
}

/** Driver of a GPU device in 2D mode ("GPU Device"). */
export class GpuDriver {
  readonly session: DriverSession;
  /** Scanouts that the device has. */
  readonly scanouts: number;
  /** Called when displays were added, removed or resized: ask for `displays` again. */
  onDisplays: (() => void) | undefined;
  readonly #commands: GpuCommands;
  readonly #turns = new Turns();
  readonly #resources = new Set<GpuResource>();
  /** What `show` made, by scanout. */
  readonly #shown = new Map<number, GpuResource>();
  #cursor: GpuResource | undefined;
  #lastId = 0;

  private constructor(session: DriverSession) {
    this.session = session;
    const count = readLe32(session.readConfig(CONFIG.num_scanouts, 4), 0);
    this.scanouts = Math.max(1, Math.min(count, VIRTIO_GPU_MAX_SCANOUTS));
    const control = session.addQueue(VIRTIO_GPU_CONTROLQ, 64);
    const cursor = session.addQueue(VIRTIO_GPU_CURSORQ, 16);
    this.#commands = new GpuCommands(session, control, cursor);
    session.onFailure = (error) => this.#commands.fail(error);
    session.onConfigChange = () => this.#changed();
    session.ready();
  }

  /** Takes the device over. Throws when it is not a GPU device, or refuses. */
  static open(transport: DriverTransport, options: GpuDriverOptions = {}): Promise<GpuDriver> {
    const { ring, signal } = options;
    const wanted = featureBits(VIRTIO_GPU_F_EDID);
    return DriverSession.start(
      transport,
      { type: TYPE, config: CONFIG_BYTES, wanted, ring, signal },
      (session) => new GpuDriver(session),
    );
  }

  /** All scanouts, enabled or not. */
  async displays(signal?: CancelSignal): Promise<readonly GpuDisplay[]> {
    const request = new Uint8Array(VIRTIO_GPU_CTRL_HDR_SIZE);
    const expected = VIRTIO_GPU_RESP_OK_DISPLAY_INFO;
    const size = VIRTIO_GPU_RESP_DISPLAY_INFO_SIZE;
    const answer = await this.#commands.send(VIRTIO_GPU_CMD_GET_DISPLAY_INFO, request, {
      expected,
      size,
      signal,
    });
    return Array.from({ length: this.scanouts }, (_, scanout) => {
      const at = VIRTIO_GPU_CTRL_HDR_SIZE + scanout * VIRTIO_GPU_DISPLAY_ONE_SIZE;
      return {
        scanout,
        enabled: readLe32(answer, at + DISPLAY.enabled) !== 0,
        x: readLe32(answer, at + DISPLAY["r.x"]),
        y: readLe32(answer, at + DISPLAY["r.y"]),
        width: readLe32(answer, at + DISPLAY["r.width"]),
        height: readLe32(answer, at + DISPLAY["r.height"]),
      };
    });
  }

  /** The EDID of a display. Rejects without VIRTIO_GPU_F_EDID. */
  async edid(scanout: number = 0, signal?: CancelSignal): Promise<Uint8Array> {
    if (!this.session.has(VIRTIO_GPU_F_EDID)) throw new Error("gpu: VIRTIO_GPU_F_EDID was not negotiated");
    const request = new Uint8Array(VIRTIO_GPU_GET_EDID_SIZE);
    writeLe32(request, VIRTIO_GPU_GET_EDID.scanout, scanout);
    const expected = VIRTIO_GPU_RESP_OK_EDID;
    const size = VIRTIO_GPU_RESP_EDID_SIZE;
    const answer = await this.#commands.send(VIRTIO_GPU_CMD_GET_EDID, request, { expected, size, signal });
    const { edid } = VIRTIO_GPU_RESP_EDID;
    return answer.slice(edid, edid + readLe32(answer, VIRTIO_GPU_RESP_EDID.size));
  }

  /** A picture of the device's with memory of its own. `format`: VIRTIO_GPU_FORMAT_…, default R8G8B8X8. */
  async createResource(
    width: number,
    height: number,
    format: number = VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM,
    signal?: CancelSignal,
  ): Promise<GpuResource> {
    throwIfAborted(signal);
    const shape = { id: ++this.#lastId, width, height, format };
    const { memory } = this.session;
    const resource = new GpuResource(this.#commands, memory, shape, this.#resources);
    await resource.create(signal);
    return resource;
  }

  /** Shows a resource, or a part of it, on a scanout; undefined switches the scanout off. */
  async setScanout(
    scanout: number,
    resource: GpuResource | undefined,
    rect?: GpuRect,
    signal?: CancelSignal,
  ): Promise<void> {
    const request = new Uint8Array(VIRTIO_GPU_SET_SCANOUT_SIZE);
    if (resource !== undefined) {
      const part = rect ?? { x: 0, y: 0, width: resource.width, height: resource.height };
      // "Scanout rectangles must be completely covered by the underlying resource."
      resource.check(part);
      writeRect(request, SCANOUT["r.x"], part);
    }
    writeLe32(request, SCANOUT.scanout_id, scanout);
    writeLe32(request, SCANOUT.resource_id, resource?.id ?? 0);
    await this.#commands.send(VIRTIO_GPU_CMD_SET_SCANOUT, request, { signal });
  }

  /**
   * Shows a picture: 4 bytes a pixel, red, green, blue and one that is not looked at, as a canvas has them. Resolves when
   * it is to be seen. Pictures are shown in the order of the calls; do not change `rgba` until it is done.
   */
  show(
    rgba: Uint8Array,
    width: number,
    height: number,
    scanout: number = 0,
    signal?: CancelSignal,
  ): Promise<void> {
    return this.#turns.take(async () => {
      if (rgba.length !== width * height * PIXEL_BYTES)
        throw new RangeError(`gpu: ${rgba.length} bytes are no picture of ${width}x${height}`);
      const before = this.#shown.get(scanout);
      if (before?.width === width && before.height === height) {
        before.pixels.set(rgba);
        await before.transfer();
        return before.flush();
      }
      const resource = await this.createResource(width, height);
      try {
        resource.pixels.set(rgba);
        await resource.transfer();
        await this.setScanout(scanout, resource);
      } catch (error) {
        await resource.destroy().catch(() => undefined);
        throw error;
      }
      this.#shown.set(scanout, resource);
      try {
        await resource.flush();
      } finally {
        await before?.destroy();
      }
    }, signal);
  }

  /** Switches a scanout off that `show` showed something on. */
  hide(scanout: number = 0, signal?: CancelSignal): Promise<void> {
    return this.#turns.take(async () => {
      await this.setScanout(scanout, undefined);
      const before = this.#shown.get(scanout);
      this.#shown.delete(scanout);
      await before?.destroy();
    }, signal);
  }

  /** Gives the cursor a shape of 64x64 pixels, red, green, blue, alpha; `hotX` and `hotY` are where it points. */
  setCursor(
    rgba: Uint8Array,
    hotX: number,
    hotY: number,
    at: GpuPointer,
    signal?: CancelSignal,
  ): Promise<void> {
    return this.#turns.take(async () => {
      if (rgba.length !== CURSOR_PIXELS * CURSOR_PIXELS * PIXEL_BYTES)
        throw new RangeError(`gpu: ${rgba.length} bytes are no cursor of ${CURSOR_PIXELS}x${CURSOR_PIXELS}`);
      // This format all devices take for cursors.
      this.#cursor ??= await this.createResource(
        CURSOR_PIXELS,
        CURSOR_PIXELS,
        VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM,
      );
      const { pixels } = this.#cursor;
      for (let i = 0; i < rgba.length; i += PIXEL_BYTES) {
        pixels[i] = rgba[i + 2] ?? 0;
        pixels[i + 1] = rgba[i + 1] ?? 0;
        pixels[i + 2] = rgba[i] ?? 0;
        pixels[i + 3] = rgba[i + 3] ?? 0;
      }
      // "[…] make sure they are completed (using VIRTIO_GPU_FLAG_FENCE)"
      await this.#cursor.transfer();
      await this.#sendCursor(VIRTIO_GPU_CMD_UPDATE_CURSOR, at, this.#cursor.id, hotX, hotY);
    }, signal);
  }

  moveCursor(at: GpuPointer, signal?: CancelSignal): Promise<void> {
    return this.#turns.take(
      () => this.#sendCursor(VIRTIO_GPU_CMD_MOVE_CURSOR, at, this.#cursor?.id ?? 0),
      signal,
    );
  }

  hideCursor(scanout: number = 0, signal?: CancelSignal): Promise<void> {
    const at = { scanout, x: 0, y: 0 };
    return this.#turns.take(() => this.#sendCursor(VIRTIO_GPU_CMD_UPDATE_CURSOR, at, 0), signal);
  }

  /** Resets the device, which forgets all pictures, and gives all memory back. */
  async close(signal?: CancelSignal): Promise<void> {
    const closed = this.session.close(signal);
    this.#commands.fail(new Error("the GPU driver was closed"));
    await closed;
    await this.#turns.take(() => Promise.resolve());
    for (const resource of this.#resources) resource.free();
  }

  async #sendCursor(
    command: number,
    { scanout = 0, x, y }: GpuPointer,
    resource: number,
    hotX: number = 0,
    hotY: number = 0,
  ): Promise<void> {
    const request = new Uint8Array(VIRTIO_GPU_UPDATE_CURSOR_SIZE);
    writeLe32(request, CURSOR["pos.scanout_id"], scanout);
    writeLe32(request, CURSOR["pos.x"], x);
    writeLe32(request, CURSOR["pos.y"], y);
    writeLe32(request, CURSOR.resource_id, resource);
    writeLe32(request, CURSOR.hot_x, hotX);
    writeLe32(request, CURSOR.hot_y, hotY);
    await this.#commands.sendCursor(command, request);
  }

  #changed(): void {
    const events = readLe32(this.session.readConfig(CONFIG.events_read, 4), 0);
    if ((events & VIRTIO_GPU_EVENT_DISPLAY) === 0) return;
    // "Writing a '1' into a bit will clear the corresponding bit in events_read"
    const clear = new Uint8Array(4);
    writeLe32(clear, 0, VIRTIO_GPU_EVENT_DISPLAY);
    this.session.writeConfig(CONFIG.events_clear, clear);
    this.onDisplays?.();
  }
}
