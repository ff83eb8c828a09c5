import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { ConsoleDriver } from "virtio/drivers/console/driver";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { NetDriver } from "virtio/drivers/net/driver";
import { NinePDriver } from "virtio/drivers/9p/driver";
import {
  VIRTIO_ID_9P,
  VIRTIO_ID_BLK,
  VIRTIO_ID_CONSOLE,
  VIRTIO_ID_ENTROPY,
  VIRTIO_ID_NET,
} from "virtio/spec/ids";
import { balloon } from "./balloon.ts";
import { gpu } from "./gpu.ts";
import { keyboard, mouse, tablet } from "./input.ts";
import { scsi } from "./scsi.ts";
import { pattern, type TestDriver } from "./test-driver.ts";

const DISK_SIZE = 1 << 20;

const entropy: TestDriver = {
  name: "entropy",
  deviceId: VIRTIO_ID_ENTROPY,
  device: "virtio-rng",
  plug: () => ({ properties: "", argv: [] }),
  async exercise(transport) {
    const driver = await EntropyDriver.open(transport);
    const bytes = new Uint8Array(10_000);
    await driver.read(bytes);
    // Chance gives all 256 values, but once in 10^14.
    expect(new Set(bytes).size).toBe(256);
    await driver.close();
  },
};

const blk: TestDriver = {
  name: "blk",
  deviceId: VIRTIO_ID_BLK,
  device: "virtio-blk",
  plug(id, { folder }) {
    const path = join(folder, `${id}.img`);
    writeFileSync(path, pattern(DISK_SIZE, 1));
    return {
      properties: `,drive=${id}-disk`,
      argv: ["-blockdev", `driver=file,node-name=${id}-disk,filename=${path}`],
    };
  },
  async exercise(transport, id, { folder }) {
    const driver = await BlkDriver.open(transport);
    expect(driver.info.capacity).toBe(DISK_SIZE / 512);
    const whole = new Uint8Array(DISK_SIZE);
    const written = pattern(200 * 512, transport.name.length + Date.now());
    await driver.write(17, written);
    await driver.flush();
    await driver.read(0, whole);
    expect(Buffer.compare(whole.subarray(17 * 512, 217 * 512), written)).toBe(0);
    expect(Buffer.compare(whole.subarray(0, 17 * 512), pattern(17 * 512, 1))).toBe(0);
    expect(Buffer.compare(readFileSync(join(folder, `${id}.img`)), whole)).toBe(0);
    await expect(driver.read(DISK_SIZE / 512, new Uint8Array(512))).rejects.toThrow(/end|beyond|sector/i);
    await driver.close();
  },
};

const net: TestDriver = {
  name: "net",
  deviceId: VIRTIO_ID_NET,
  device: "virtio-net",
  plug: (id, { echo }) => ({
    properties: `,netdev=${id}-net,mac=52:54:00:01:02:03`,
    argv: ["-netdev", `stream,id=${id}-net,server=off,addr.type=unix,addr.path=${echo}`],
  }),
  async exercise(transport) {
    const driver = await NetDriver.open(transport);
    expect([...driver.mac]).toEqual([0x52, 0x54, 0, 1, 2, 3]);
    expect(driver.linkUp).toBe(true);
    await driver.control.setRxMode("promiscuous", true);
    const frames = [60, 61, 590, 1514, 64].map((length, i) => {
      const frame = pattern(length, i);
      // To everybody, so that no filter is in the way.
      frame.fill(0xff, 0, 6);
      return frame;
    });
    for (const frame of frames) await driver.send(frame);
    const received: Uint8Array[] = [];
    for await (const frame of driver) if (received.push(frame) === frames.length) break;
    expect(received.map(hex)).toEqual(frames.map(hex));
    await driver.close();
  },
};

const consoleDriver: TestDriver = {
  name: "console",
  deviceId: VIRTIO_ID_CONSOLE,
  device: "virtio-serial",
  plug: (id, { echo }) => ({
    properties: "",
    argv: [
      "-chardev",
      `socket,id=${id}-char,path=${echo}`,
      "-device",
      `virtserialport,bus=${id}.0,chardev=${id}-char,name=${id}.port`,
    ],
  }),
  async exercise(transport, id) {
    const driver = await ConsoleDriver.open(transport);
    const port = await driver.port(`${id}.port`);
    port.open();
    const sent = pattern(10_000, 3);
    const reading = readSome(port, sent.length);
    await port.write(sent);
    expect(Buffer.compare(await reading, sent)).toBe(0);
    await driver.close();
  },
};

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

async function readSome(port: AsyncIterable<Uint8Array>, length: number): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let got = 0;
  for await (const piece of port) {
    pieces.push(piece);
    got += piece.length;
    if (got >= length) break;
  }
  return Buffer.concat(pieces);
}

const nineP: TestDriver = {
  name: "9p",
  deviceId: VIRTIO_ID_9P,
  device: "virtio-9p",
  plug(id, { folder }) {
    const path = join(folder, `${id}-share`);
    mkdirSync(path);
    writeFileSync(join(path, "file"), pattern(300_000, 4));
    return {
      properties: `,fsdev=${id}-fs,mount_tag=${id}`,
      argv: ["-fsdev", `local,id=${id}-fs,path=${path},security_model=none`],
    };
  },
  async exercise(transport, id, { folder }) {
    const driver = await NinePDriver.open(transport);
    expect(driver.tag).toBe(id);
    const root = await driver.attach();
    const file = await (await root.walk("file")).open();
    expect(Buffer.compare(await file.readAll(), pattern(300_000, 4))).toBe(0);
    const name = `made-${Date.now()}`;
    const made = await root.create(name);
    await made.write(0, pattern(150_000, 5));
    await made.close();
    expect(Buffer.compare(readFileSync(join(folder, `${id}-share`, name)), pattern(150_000, 5))).toBe(0);
    await expect(root.walk("none")).rejects.toThrow();
    await driver.close();
  },
};

export const DRIVERS: readonly TestDriver[] = [
  entropy,
  blk,
  net,
  consoleDriver,
  nineP,
  scsi,
  keyboard,
  mouse,
  tablet,
  balloon,
  gpu,
];
