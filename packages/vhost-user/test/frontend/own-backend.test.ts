import { until } from "@virtio/testkit/until";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { fillTree } from "virtio/backends/fill-tree";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import { NetHub } from "virtio/backends/net-hub";
import { RingCharacterBackend } from "virtio/backends/ring-character";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import type { VirtioDevice } from "virtio/device/device";
import { ninePDevice } from "virtio/devices/9p/device";
import { BlkDevice } from "virtio/devices/blk/device";
import { ConsoleDevice } from "virtio/devices/console/device";
import { entropyDevice } from "virtio/devices/entropy/device";
import { NetDevice } from "virtio/devices/net/device";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { ConsoleDriver } from "virtio/drivers/console/driver";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { NetDriver } from "virtio/drivers/net/driver";
import { NinePDriver } from "virtio/drivers/9p/driver";
import { DriverSession } from "virtio/driver/session";
import {
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  featureBits,
  hasFeature,
} from "virtio/spec/core";
import { serveVhostUser, type VhostUserServer } from "@virtio/vhost-user/backend/server";
import type { FrontendOptions } from "@virtio/vhost-user/frontend/options";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import { EchoDevice } from "../backend/echo-device.ts";

const PACKED = featureBits(VIRTIO_F_RING_PACKED);
const NOT_CARRIED = featureBits(VIRTIO_F_SUSPEND, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_NOTIF_CONFIG_DATA);
const SPLIT_FEATURES = DEFAULT_CORE_FEATURES & ~NOT_CARRIED & ~PACKED;
const RINGS = [
  { name: "split", features: SPLIT_FEATURES },
  { name: "packed", features: SPLIT_FEATURES | PACKED },
  { name: "packed in order", features: SPLIT_FEATURES | PACKED | featureBits(VIRTIO_F_IN_ORDER) },
];
const SECTOR = 512;

let directory: string;
let servers: VhostUserServer[];
let transports: VhostUserTransport[];
let errors: Error[];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "vhost-user-"));
  servers = [];
  transports = [];
  errors = [];
});
afterEach(async () => {
  // Closed already, unless a test failed.
  for (const transport of transports) transport.close();
  await Promise.all(servers.map((server) => server.close()));
  rmSync(directory, { recursive: true });
  expect(errors).toEqual([]);
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

/** Serves a device, and gives the other end. */
async function plug(
  device: VirtioDevice,
  features = SPLIT_FEATURES,
  options: Partial<FrontendOptions> = {},
): Promise<VhostUserTransport> {
  const socket = join(directory, `${servers.length}`);
  const label = `device${servers.length}`;
  const onError = (error: Error): void => void errors.push(error);
  servers.push(await serveVhostUser(device, { socket, label, features, onError }));
  const transport = await VhostUserTransport.open({ socket, deviceId: device.id, ...options });
  transports.push(transport);
  return transport;
}

function pattern(length: number): Uint8Array {
  return new Uint8Array(length).map((_, i) => (i * 7) ^ (i >> 8));
}

describe.each(RINGS)("our drivers on our back-end, $name", ({ features }) => {
  test("a disk with several queues; what was written is read", async () => {
    const backend = new MemoryBlockBackend(4 << 20);
    const transport = await plug(new BlkDevice(backend, { numQueues: 3, serial: "a disk" }), features);
    const disk = await BlkDriver.open(transport, { depth: 32 });
    expect(disk.info).toMatchObject({ capacity: 8192, numQueues: 3 });
    const data = pattern(1 << 20);
    await disk.write(100, data);
    const back = new Uint8Array(data.length);
    await disk.read(100, back);
    expect(Buffer.compare(back, data)).toBe(0);
    expect(await disk.getId()).toBe("a disk");
    await disk.close();
  });

  test("hundreds of requests, so that rings wrap", async () => {
    const transport = await plug(new BlkDevice(new MemoryBlockBackend(1 << 20)), features, { queueSize: 8 });
    const disk = await BlkDriver.open(transport);
    for (let i = 0; i < 300; i++) {
      const sector = pattern(SECTOR).fill(i & 0xff, 0, 8);
      await disk.write(i, sector);
      const back = new Uint8Array(SECTOR);
      await disk.read(i, back);
      expect(Buffer.compare(back, sector)).toBe(0);
    }
    await disk.close();
  });

  test("a disk that grows is a configuration change", async () => {
    const backend = new MemoryBlockBackend(1 << 20);
    const disk = await BlkDriver.open(await plug(new BlkDevice(backend), features));
    await disk.read(0, new Uint8Array(SECTOR));
    backend.resize(2 << 20);
    await until(() => disk.info.capacity === 4096, "the driver did not hear of it");
    await disk.close();
  });

  test("a field of the configuration that the driver writes", async () => {
    const disk = await BlkDriver.open(await plug(new BlkDevice(new MemoryBlockBackend(1 << 20)), features));
    expect(disk.info.writeback).toBe(true);
    disk.setWriteback(false);
    expect(disk.info.writeback).toBe(false);
    await disk.flush();
    expect(disk.info.writeback).toBe(false);
    await disk.close();
  });

  test("a console with two ports", async () => {
    const backend = new RingCharacterBackend();
    const console = { backend: new RingCharacterBackend(), kind: "console" } as const;
    const device = new ConsoleDevice({ ports: [console, { backend, kind: "serial", name: "log" }] });
    const queueSize = (index: number): number => device.queues[index]?.maxSize ?? 0;
    const driver = await ConsoleDriver.open(await plug(device, features, { queueSize }));
    const port = await driver.port("log");
    await port.write(new TextEncoder().encode("hello host"));
    expect(new TextDecoder().decode(backend.read())).toBe("hello host");
    await driver.close();
  });

  test("entropy", async () => {
    const device = entropyDevice((target) => void target.fill(0x5a));
    const driver = await EntropyDriver.open(await plug(device, features));
    const bytes = new Uint8Array(10_000);
    await driver.read(bytes);
    expect(bytes.every((byte) => byte === 0x5a)).toBe(true);
    await driver.close();
  });

  test("frames between two network devices that have no configuration space", async () => {
    const hub = new NetHub();
    const open = async (last: number): Promise<NetDriver> => {
      const mac = new Uint8Array([2, 0, 0, 0, 0, last]);
      const options = { queuePairs: 2, mtu: 1400, speed: 1000, duplex: "full" } as const;
      const device = new NetDevice({ backend: hub.port(), mac, ...options });
      // It offers all that lives there all the same, for a hypervisor that has the fields itself.
      Object.defineProperty(device, "config", { value: undefined });
      const transport = await plug(device, features, { withhold: 0n });
      expect(transport.configLength).toBe(0);
      const fields = [3, 5, 16, 22, 63].filter((bit) => hasFeature(transport.readDeviceFeatures(), bit));
      expect(fields).toEqual([]);
      const driver = await NetDriver.open(transport);
      await transport.settled();
      return driver;
    };
    const [a, b] = [await open(1), await open(2)];
    expect([a.maxPairs, a.mtu, a.linkUp, a.speed]).toEqual([1, 1500, true, undefined]);
    for (let i = 0; i < 50; i++) {
      const frame = pattern(60 + 20 * i);
      frame.set([...b.mac, ...a.mac], 0);
      await a.send(frame);
      expect(await b.receive()).toEqual(frame);
    }
    await a.close();
    await b.close();
  });

  test.each([
    { what: "with a control virtqueue and two pairs", withhold: 0n, pairs: 2 },
    { what: "without", withhold: undefined, pairs: 1 },
  ])("frames between two network devices, $what", async ({ withhold, pairs }) => {
    const hub = new NetHub();
    const open = async (last: number): Promise<NetDriver> => {
      const mac = new Uint8Array([2, 0, 0, 0, 0, last]);
      const device = new NetDevice({ backend: hub.port(), mac, queuePairs: 2 });
      const extra = withhold === undefined ? {} : { withhold };
      const transport = await plug(device, features, extra);
      const driver = await NetDriver.open(transport);
      // A frame for a device that does not run yet is lost.
      await transport.settled();
      if (pairs > 1) await driver.setPairs(pairs);
      return driver;
    };
    const [a, b] = [await open(1), await open(2)];
    expect(a.pairs).toBe(pairs);
    expect(a.maxPairs).toBe(pairs);
    for (let i = 0; i < 50; i++) {
      const frame = pattern(60 + 20 * i);
      frame.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], 0);
      await a.send(frame);
      expect(await b.receive()).toEqual(frame);
    }
    await a.close();
    await b.close();
  });

  test("a shared directory", async () => {
    const fileSystem = new MemoryFileSystem();
    fillTree(fileSystem, { "hello.txt": "hello" });
    const driver = await NinePDriver.open(await plug(ninePDevice({ tag: "share", fileSystem }), features));
    expect(driver.tag).toBe("share");
    const root = await driver.attach();
    const file = await (await root.walk("hello.txt")).open();
    expect(new TextDecoder().decode(await file.readAll())).toBe("hello");
    await driver.close();
  });

  test("a virtqueue that is reset alone, and made anew", async () => {
    const device = new EchoDevice(2);
    const transport = await plug(device, features);
    const session = await DriverSession.open(transport, { wanted: 0n });
    expect(session.has(VIRTIO_F_RING_RESET)).toBe(true);
    session.addQueue(0);
    const queue = session.addQueue(1);
    session.ready();
    const gpa = transport.memory.allocate(64, 16);
    const echo = async (text: number, via = queue): Promise<number> => {
      transport.memory.view(gpa, 1)[0] = text;
      const written = await via.request([{ gpa, length: 8 }], [{ gpa: gpa + 32, length: 8 }]);
      return written === 8 ? (transport.memory.view(gpa + 32, 1)[0] ?? -1) : -1;
    };
    for (let i = 0; i < 5; i++) expect(await echo(i)).toBe(i);
    await session.resetQueue(1);
    await expect(echo(9)).rejects.toThrow("was reset");
    const anew = session.addQueue(1);
    for (let i = 10; i < 15; i++) expect(await echo(i, anew)).toBe(i);
    await session.close();
    expect(device.done).toEqual([0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
  });
});
