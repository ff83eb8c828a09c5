import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { GpuDriver } from "virtio/drivers/gpu/driver";
import { VIRTIO_ID_GPU } from "virtio/spec/ids";
import { pattern, type TestDriver } from "./test-driver.ts";

const EDID_HEADER = [0, 255, 255, 255, 255, 255, 255, 0];

/** What is shown is what QEMU says is on its screen, pixel by pixel. */
export const gpu: TestDriver = {
  name: "gpu",
  deviceId: VIRTIO_ID_GPU,
  device: "virtio-gpu",
  modernOnly: true,
  plug: () => ({ properties: ",xres=1024,yres=600,max_outputs=2", argv: [] }),
  async exercise(transport, id, { folder }, { qmp }) {
    const driver = await GpuDriver.open(transport);
    const displays = await driver.displays();
    expect(displays[0]).toEqual({ scanout: 0, enabled: true, x: 0, y: 0, width: 1024, height: 600 });
    expect(displays.map(({ enabled }) => enabled)).toEqual([true, false]);
    expect([...(await driver.edid()).subarray(0, 8)]).toEqual(EDID_HEADER);
    const seen = async (): Promise<Ppm> => {
      const filename = join(folder, `${id}.ppm`);
      await qmp.execute("screendump", { filename, device: id, head: 0 });
      return parsePpm(readFileSync(filename));
    };
    for (const [width, height] of [
      [64, 48],
      [64, 48],
      // A multiple of 4: QEMU 7.2 pads the rows of its picture files to that.
      [332, 101],
      [800, 600],
    ] as const) {
      const rgba = pattern(width * height * 4, width + Date.now());
      await driver.show(rgba, width, height);
      const { rgb, ...size } = await seen();
      expect(size).toEqual({ width, height });
      expect(Buffer.compare(rgb, withoutAlpha(rgba))).toBe(0);
    }
    // A part of a picture that is updated alone, on a scanout that shows a part.
    const resource = await driver.createResource(100, 80);
    resource.pixels.fill(10);
    await resource.transfer();
    await driver.setScanout(0, resource, { x: 10, y: 20, width: 52, height: 40 });
    resource.pixels.fill(200);
    await resource.transfer({ x: 30, y: 30, width: 5, height: 6 });
    await resource.flush({ x: 30, y: 30, width: 5, height: 6 });
    const { rgb, width, height } = await seen();
    expect([width, height]).toEqual([52, 40]);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const inside = x >= 20 && x < 25 && y >= 10 && y < 16;
        if (rgb[(y * width + x) * 3] !== (inside ? 200 : 10)) throw new Error(`wrong pixel at ${x},${y}`);
      }
    await driver.setCursor(pattern(64 * 64 * 4, 1), 3, 4, { x: 20, y: 30 });
    await driver.moveCursor({ x: 25, y: 35 });
    await driver.hideCursor();
    await driver.hide();
    await resource.destroy();
    await expect(driver.setScanout(7, undefined)).rejects.toThrow("VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID");
    await expect(driver.createResource(10, 10, 0xffff)).rejects.toThrow(
      "VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER",
    );
    await driver.close();
  },
};

interface Ppm {
  readonly width: number;
  readonly height: number;
  readonly rgb: Buffer;
}

function parsePpm(file: Buffer): Ppm {
  const [header = "", width, height] =
    /^P6\n(?:#.*\n)?(\d+) (\d+)\n255\n/.exec(file.toString("latin1")) ?? [];
  return { width: Number(width), height: Number(height), rgb: file.subarray(header.length) };
}

function withoutAlpha(rgba: Uint8Array): Buffer {
  const rgb = Buffer.alloc((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3)
    rgb.set(rgba.subarray(from, from + 3), to);
  return rgb;
}
