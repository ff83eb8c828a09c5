import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { VIRTIO_ID_BLK } from "virtio/spec/ids";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import { needsStorageDaemon, serveFile, storageDaemon, type StorageDaemon } from "./storage-daemon.ts";

const SIZE = 8 << 20;
const SECTOR = 512;

let directory: string;
let file: string;
let socket: string;
let daemon: StorageDaemon | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "vhost-user-"));
  file = join(directory, "disk");
  socket = join(directory, "socket");
  writeFileSync(
    file,
    Uint8Array.from({ length: SIZE }, (_, i) => (i >> 9) + i),
  );
});
afterEach(async () => {
  await daemon?.kill();
  daemon = undefined;
  rmSync(directory, { recursive: true });
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

const open = (extra = {}): Promise<VhostUserTransport> =>
  VhostUserTransport.open({ socket, deviceId: VIRTIO_ID_BLK, ...extra });

describe.skipIf(storageDaemon === undefined)("QEMU's own vhost-user back-end", () => {
  test(needsStorageDaemon("our disk driver reads, writes, flushes and asks who it is"), async () => {
    daemon = await serveFile(file, socket, ",num-queues=2,logical-block-size=512");
    const disk = await BlkDriver.open(await open(), { depth: 16 });
    expect(disk.info).toMatchObject({ capacity: SIZE / SECTOR, numQueues: 2, readOnly: false });
    const content = new Uint8Array(readFileSync(file));
    const whole = new Uint8Array(SIZE);
    await disk.read(0, whole);
    expect(Buffer.compare(whole, content)).toBe(0);
    const piece = new Uint8Array(300 * SECTOR).map((_, i) => i % 251);
    await disk.write(7, piece);
    await disk.writeZeroes(1000, 64, false);
    await disk.flush();
    content.set(piece, 7 * SECTOR);
    content.fill(0, 1000 * SECTOR, 1064 * SECTOR);
    expect(Buffer.compare(readFileSync(file), content)).toBe(0);
    expect(await disk.getId()).not.toBe("");
    await disk.close();
  });

  test(needsStorageDaemon("one driver after the other, on a connection each"), async () => {
    daemon = await serveFile(file, socket);
    for (let i = 0; i < 3; i++) {
      const disk = await BlkDriver.open(await open({ queueSize: 16 << i }));
      const sector = new Uint8Array(SECTOR);
      await disk.read(i, sector);
      expect([...sector.subarray(0, 2)]).toEqual([i & 0xff, (i + 1) & 0xff]);
      await disk.close();
    }
  });

  test(
    needsStorageDaemon("its death is an error of what is outstanding, and of what comes after"),
    async () => {
      daemon = await serveFile(file, socket);
      const transport = await open();
      const disk = await BlkDriver.open(transport);
      await disk.read(0, new Uint8Array(SECTOR));
      // It can answer nothing from now on.
      daemon.signal("SIGSTOP");
      const outstanding = disk.read(1, new Uint8Array(SECTOR));
      const refused = expect(outstanding).rejects.toThrow("the back-end is gone");
      await daemon.kill();
      await refused;
      await expect(disk.read(2, new Uint8Array(SECTOR))).rejects.toThrow("the back-end is gone");
      expect(() => transport.readDeviceFeatures()).toThrow("the back-end is gone");
      await disk.close();
      await expect(open()).rejects.toThrow("ECONNREFUSED");
    },
  );
});
