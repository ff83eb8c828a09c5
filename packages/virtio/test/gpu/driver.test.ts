import { notApplicable } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GpuDriver } from "../../src/drivers/gpu/driver.ts";
import { writeLe32 } from "../../src/memory/bytes.ts";
import { featureBits } from "../../src/spec/core.ts";
import {
  VIRTIO_GPU_CMD_GET_DISPLAY_INFO,
  VIRTIO_GPU_CMD_GET_EDID,
  VIRTIO_GPU_CMD_MOVE_CURSOR,
  VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING,
  VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
  VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING,
  VIRTIO_GPU_CMD_SET_SCANOUT,
  VIRTIO_GPU_CMD_UPDATE_CURSOR,
  VIRTIO_GPU_F_BLOB_ALIGNMENT,
  VIRTIO_GPU_F_EDID,
  VIRTIO_GPU_F_RESOURCE_BLOB,
  VIRTIO_GPU_F_VIRGL,
  VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID,
  VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY,
  VIRTIO_GPU_RESP_ERR_UNSPEC,
} from "../../src/spec/gpu.ts";
import { firstDifference, pattern } from "../support/ends.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { WAYS } from "../support/ways.ts";
import { TestCard } from "./card.ts";

const CURSOR_BYTES = 64 * 64 * 4;

describe.each(RINGS)("gpu over $name", ({ ring }) => {
  test("displays, EDID and pictures", async () => {
    const card = new TestCard();
    const driver = await GpuDriver.open(new Loopback(card), { ring });
    expect(await driver.displays()).toEqual([
      { scanout: 0, enabled: true, x: 0, y: 0, width: 640, height: 480 },
      { scanout: 1, enabled: false, x: 0, y: 0, width: 0, height: 0 },
    ]);
    expect(await driver.edid(1)).toEqual(new Uint8Array(128).fill(0xed));
    for (const [width, height] of [
      [30, 20],
      [30, 20],
      [101, 7],
    ] as const) {
      const rgba = pattern(width * height * 4, width);
      await driver.show(rgba, width, height, 1);
      expect(firstDifference(card.picture(1) ?? new Uint8Array(0), rgba)).toBe(-1);
      expect(card.flushed.at(-1)).toEqual([0, 0, width, height]);
      expect(card.resources.size).toBe(1);
    }
    await driver.hide(1);
    expect(card.scanouts.get(1)?.resource).toBe(0);
    expect(card.resources.size).toBe(0);
    await driver.close();
  });
});

test.each(WAYS.filter(({ legacy }) => !legacy))("gpu over $name", async ({ connect }) => {
  const card = new TestCard();
  const driver = await GpuDriver.open(connect(card));
  const rgba = pattern(64 * 64 * 4);
  await driver.show(rgba, 64, 64);
  expect(firstDifference(card.picture(0) ?? new Uint8Array(0), rgba)).toBe(-1);
  await driver.close();
});

test("every command has a fence of its own, and pictures are shown in the order of the calls", async () => {
  const card = new TestCard();
  card.twist = async (command) => {
    // The first take longest.
    await settle(command === VIRTIO_GPU_CMD_RESOURCE_CREATE_2D ? 100 : 1);
    return undefined;
  };
  const driver = await GpuDriver.open(new Loopback(card));
  const pictures = [10, 20, 30, 10].map((side) =>
    driver.show(new Uint8Array(side * side * 4).fill(side), side, side),
  );
  await Promise.all(pictures);
  expect(card.flushed.map(([, , width]) => width)).toEqual([10, 20, 30, 10]);
  expect(card.resources.size).toBe(1);
  const fences = card.requests.map((request) => request.subarray(4, 16).join());
  expect(new Set(fences).size).toBe(fences.length);
  for (const request of card.requests) expect(request[4]).toBe(1);
  await driver.close();
});

test("parts of a picture, and none outside of it", async () => {
  const card = new TestCard();
  const driver = await GpuDriver.open(new Loopback(card));
  const resource = await driver.createResource(20, 10);
  resource.pixels.fill(7);
  await resource.transfer({ x: 3, y: 4, width: 5, height: 2 });
  const { pixels } = card.resources.get(resource.id) ?? { pixels: new Uint8Array(0) };
  for (let i = 0; i < 200; i++) {
    const [x, y] = [i % 20, Math.floor(i / 20)];
    expect(pixels[4 * i]).toBe(x >= 3 && x < 8 && y >= 4 && y < 6 ? 7 : 0);
  }
  for (const rect of [
    { x: 16, y: 0, width: 5, height: 1 },
    { x: 0, y: 10, width: 1, height: 1 },
    { x: -1, y: 0, width: 1, height: 1 },
    { x: 0, y: 0, width: 0.5, height: 1 },
  ]) {
    await expect(resource.transfer(rect)).rejects.toThrow("not in a picture of 20x10");
    await expect(resource.flush(rect)).rejects.toThrow("not in a picture of 20x10");
    await expect(driver.setScanout(0, resource, rect)).rejects.toThrow("not in a picture of 20x10");
  }
  await expect(driver.createResource(0, 5)).rejects.toThrow("not from 1 to 16384");
  await expect(driver.createResource(16_384, 16_384)).rejects.toThrow("no room");
  await expect(driver.show(new Uint8Array(5), 1, 1)).rejects.toThrow("no picture of 1x1");
  await resource.destroy();
  expect(() => resource.pixels).toThrow("was destroyed");
  await driver.close();
});

test("the cursor goes on its own queue, in the format that devices take", async () => {
  const card = new TestCard();
  const driver = await GpuDriver.open(new Loopback(card));
  const rgba = new Uint8Array(CURSOR_BYTES);
  rgba.set([1, 2, 3, 4]);
  await driver.setCursor(rgba, 5, 6, { scanout: 1, x: 70, y: 80 });
  await driver.moveCursor({ x: 71, y: 81 });
  await driver.hideCursor(1);
  const [resource] = [...card.resources.keys()];
  expect([...(card.resources.get(resource ?? 0)?.pixels.subarray(0, 4) ?? [])]).toEqual([3, 2, 1, 4]);
  expect(card.cursors).toEqual([
    [VIRTIO_GPU_CMD_UPDATE_CURSOR, 1, 70, 80, resource, 5, 6],
    [VIRTIO_GPU_CMD_MOVE_CURSOR, 0, 71, 81, resource, 0, 0],
    [VIRTIO_GPU_CMD_UPDATE_CURSOR, 1, 0, 0, 0, 0, 0],
  ]);
  await expect(driver.setCursor(new Uint8Array(4), 0, 0, { x: 0, y: 0 })).rejects.toThrow(
    "no cursor of 64x64",
  );
  await driver.close();
});

test("a change of the displays is told once, and acknowledged", async () => {
  const card = new TestCard();
  const driver = await GpuDriver.open(new Loopback(card));
  let changes = 0;
  driver.onDisplays = () => void changes++;
  card.context?.configChanged();
  expect([changes, card.configWrites]).toEqual([0, []]);
  writeLe32(card.configBytes, 0, 0xffff_ffff);
  card.context?.configChanged();
  expect([changes, card.configWrites]).toEqual([1, [[4, 1]]]);
  await driver.close();
});

test("an error of the device is an error of the command, and memory comes back", async () => {
  const card = new TestCard();
  const loopback = new Loopback(card, { memorySize: 2 << 20 });
  const driver = await GpuDriver.open(loopback);
  card.twist = (command, response) => {
    if (command === VIRTIO_GPU_CMD_RESOURCE_CREATE_2D)
      writeLe32(response, 0, VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY);
    return undefined;
  };
  for (let i = 0; i < 20; i++)
    await expect(driver.createResource(400, 300)).rejects.toMatchObject({
      name: "GpuError",
      command: VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
      response: VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY,
    });
  // What the device may have stays away until the reset.
  card.twist = (command, response) => {
    if (command === VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING) writeLe32(response, 0, 0x12ff);
    return undefined;
  };
  await expect(driver.createResource(400, 300)).rejects.toThrow("response 0x12ff");
  await driver.close();
  expect(loopback.memory.allocate((2 << 20) - 0x1000, 4096)).toBe(0x1000);
});

test("a picture that nobody waits for any longer is taken back when it is there", async () => {
  const card = new TestCard();
  const loopback = new Loopback(card, { memorySize: 2 << 20 });
  const driver = await GpuDriver.open(loopback);
  card.twist = async () => settle(50);
  for (let i = 0; i < 20; i++) {
    const stop = new AbortController();
    const created = driver.createResource(400, 300, undefined, stop.signal);
    await settle(i * 5);
    stop.abort(new Error("enough"));
    await expect(created).rejects.toThrow("enough");
    await settle(400);
  }
  expect(card.resources.size).toBe(0);
  await driver.close();
});

test("a picture that cannot be attached is no picture", async () => {
  const card = new TestCard();
  const driver = await GpuDriver.open(new Loopback(card, { memorySize: 2 << 20 }));
  card.twist = (command, response) => {
    if (command === VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING)
      writeLe32(response, 0, VIRTIO_GPU_RESP_ERR_UNSPEC);
    return undefined;
  };
  for (let i = 0; i < 20; i++) await expect(driver.createResource(400, 300)).rejects.toThrow("ERR_UNSPEC");
  expect(card.resources.size).toBe(0);
  await driver.close();
});

test("a picture that the device does not show leaves nothing behind", async () => {
  const card = new TestCard();
  const driver = await GpuDriver.open(new Loopback(card, { memorySize: 2 << 20 }));
  const rgba = pattern(400 * 300 * 4);
  card.twist = (command, response) => {
    if (command === VIRTIO_GPU_CMD_SET_SCANOUT)
      writeLe32(response, 0, VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID);
    return undefined;
  };
  for (let i = 0; i < 20; i++)
    await expect(driver.show(rgba, 400, 300, 9)).rejects.toThrow("VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID");
  expect(card.resources.size).toBe(0);
  await driver.close();
});

test("a scanout that was switched off shows the next picture, also when the device kept the one before", async () => {
  const card = new TestCard();
  const driver = await GpuDriver.open(new Loopback(card));
  const rgba = pattern(8 * 8 * 4);
  await driver.show(rgba, 8, 8);
  card.twist = (command, response) => {
    if (command === VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING)
      writeLe32(response, 0, VIRTIO_GPU_RESP_ERR_UNSPEC);
    return undefined;
  };
  await expect(driver.hide()).rejects.toThrow("VIRTIO_GPU_RESP_ERR_UNSPEC");
  await driver.show(rgba, 8, 8);
  expect(firstDifference(card.picture(0) ?? new Uint8Array(0), rgba)).toBe(-1);
  await driver.close();
});

test("a device that lies about a response is not used any more, and nothing is read beyond it", async () => {
  const lies: { readonly name: string; readonly bytes?: Uint8Array; readonly written?: number }[] = [
    { name: "nothing written", written: 0 },
    { name: "half a header", written: 12 },
    { name: "another response", bytes: Uint8Array.of(4, 0x11, 0, 0, 1) },
    { name: "no fence", bytes: Uint8Array.of(0, 0x11, 0, 0, 0, 0, 0, 0, 1) },
    { name: "another fence", bytes: Uint8Array.of(0, 0x11, 0, 0, 1, 0, 0, 0, 99) },
  ];
  for (const { name, bytes, written } of lies) {
    const card = new TestCard();
    const driver = await GpuDriver.open(new Loopback(card));
    const whole = new Uint8Array(24);
    if (bytes !== undefined) whole.set(bytes);
    card.twist = () => ({ ...(bytes && { bytes: whole }), ...(written !== undefined && { written }) });
    await expect(driver.show(new Uint8Array(4), 1, 1), name).rejects.toThrow("dev.gpu.fencing");
    await expect(driver.displays(), name).rejects.toThrow();
    expect(driver.session.failure, name).toBeInstanceOf(Error);
    await driver.close();
  }
  await fc.assert(
    fc.asyncProperty(fc.nat(0xffff_ffff), fc.integer({ min: 24, max: 1056 }), async (size, written) => {
      const card = new TestCard();
      writeLe32(card.configBytes, 8, size);
      const driver = await GpuDriver.open(new Loopback(card));
      expect(driver.scanouts).toBeLessThanOrEqual(16);
      card.twist = (command, response) => {
        if (command === VIRTIO_GPU_CMD_GET_EDID) writeLe32(response, 24, size);
        return { written: Math.min(written, response.length) };
      };
      expect((await driver.edid()).length).toBeLessThanOrEqual(Math.min(size, Math.max(0, written - 32)));
      expect((await driver.displays()).length).toBe(driver.scanouts);
      await driver.close();
    }),
    { numRuns: 40 },
  );
});

test("a device that never answers is ended by an abort or a close", async () => {
  const card = new TestCard();
  card.twist = (command) =>
    command === VIRTIO_GPU_CMD_GET_DISPLAY_INFO ? new Promise<void>(() => undefined) : undefined;
  const driver = await GpuDriver.open(new Loopback(card));
  await expect(driver.displays(AbortSignal.timeout(10))).rejects.toThrow(/time/);
  const stuck = Promise.allSettled(Array.from({ length: 40 }, () => driver.displays()));
  await driver.close();
  for (const { status } of await stuck) expect(status).toBe("rejected");
  await expect(driver.show(new Uint8Array(4), 1, 1)).rejects.toThrow();
});

test(
  notApplicable(
    ["drv.gpu.controlq", "drv.gpu.controlq-3d"],
    "blobs and 3D are not accepted, and so VIRTIO_GPU_F_BLOB_ALIGNMENT is not",
  ),
  async () => {
    const offered = featureBits(
      VIRTIO_GPU_F_EDID,
      VIRTIO_GPU_F_VIRGL,
      VIRTIO_GPU_F_RESOURCE_BLOB,
      VIRTIO_GPU_F_BLOB_ALIGNMENT,
    );
    const driver = await GpuDriver.open(new Loopback(new TestCard(offered)));
    expect(driver.session.features & offered).toBe(featureBits(VIRTIO_GPU_F_EDID));
    await driver.close();
  },
);
