import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import fc from "fast-check";
import type { BlockBackend } from "virtio/backends/block";
import { OverlayBlockBackend } from "virtio/backends/overlay-block";
import { BlkDevice } from "virtio/devices/blk/device";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { VIRTIO_BLK_S_IOERR } from "virtio/spec/blk";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { NbdBlockBackend } from "../../src/nbd/nbd-block.ts";
import { FakeServer, simple } from "./fake-server.ts";
import { nbdkit, needsNbdkit, type RealServer, startNbdkit } from "./servers.ts";

const SIZE = 2 << 20;
const SECTORS = SIZE / 512;

const step = fc.record({
  kind: fc.constantFrom("read", "write", "zero", "discard", "flush"),
  sector: fc.nat(SECTORS / 8 - 1).map((block) => 8 * block),
  count: fc.nat(300).map((blocks) => 8 * blocks),
});

async function driverOn(backend: BlockBackend, errors?: unknown[]): Promise<BlkDriver> {
  const machine = new InProcessMachine();
  const device = new BlkDevice(backend, { onError: (error) => errors?.push(error) });
  const transport = machine.plugPci(device).open();
  return BlkDriver.open(transport, { depth: 8 });
}

/** Our driver and device over it hold what an array holds; steps run one after the other, each in many requests. */
async function checkModel(driver: BlkDriver, model: Uint8Array): Promise<void> {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      for (const [i, { kind, sector, count }] of steps.entries()) {
        const sectors = Math.min(count, SECTORS - sector);
        const part = model.subarray(sector * 512, (sector + sectors) * 512);
        if (kind === "flush") await driver.flush();
        else if (sectors === 0) continue;
        else if (kind === "write") {
          part.fill(i + 1);
          await driver.write(sector, part.slice());
        } else if (kind === "zero") {
          part.fill(0);
          await driver.writeZeroes(sector, sectors, i % 2 === 0);
        } else if (kind === "discard" && driver.info.discard !== undefined) {
          await driver.discard(sector, sectors);
          await driver.read(sector, part);
        } else {
          const target = new Uint8Array(part.length);
          await driver.read(sector, target);
          expect(Buffer.compare(target, part)).toBe(0);
        }
      }
    }),
    { numRuns: 25 },
  );
}

describe.skipIf(nbdkit === undefined)("our block driver and device on nbdkit", () => {
  let folder: string;
  let file: string;
  let socket: string;
  let server: RealServer | undefined;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "virtio-nbd-"));
    [file, socket] = [join(folder, "disk.img"), join(folder, "socket")];
    writeFileSync(file, new Uint8Array(SIZE));
  });
  afterEach(async () => {
    await server?.kill();
    rmSync(folder, { recursive: true });
  });

  async function open(): Promise<NbdBlockBackend> {
    return NbdBlockBackend.open({ address: { path: socket }, exportName: "" }, { openTimeout: 300 });
  }

  test(clause(["dev.blk.operation"], needsNbdkit("the file holds what was written")), async () => {
    server = startNbdkit(socket, "file", file);
    const backend = await open();
    const driver = await driverOn(backend);
    const model = new Uint8Array(SIZE);
    await checkModel(driver, model);
    await driver.flush();
    expect(Buffer.compare(readFileSync(file), model)).toBe(0);
    await driver.close();
    await backend.close();
  });

  test(
    clause(
      ["dev.blk.init"],
      needsNbdkit("blocks of 4096 are the disk's physical blocks, of 512-byte sectors"),
    ),
    async () => {
      server = startNbdkit(
        socket,
        "--filter=blocksize-policy",
        "file",
        file,
        "blocksize-minimum=4096",
        "blocksize-error-policy=error",
      );
      const backend = await open();
      const driver = await driverOn(backend);
      expect(driver.info).toMatchObject({ blkSize: 512, topology: { physicalBlockExp: 3 } });
      await checkModel(driver, new Uint8Array(SIZE));
      await driver.close();
      await backend.close();
    },
  );

  test(needsNbdkit("what is written to an overlay never comes to the server"), async () => {
    server = startNbdkit(socket, "-r", "file", file);
    const content = new Uint8Array(SIZE).map((_, i) => i >> 9);
    writeFileSync(file, content);
    const backend = await open();
    const driver = await driverOn(new OverlayBlockBackend(backend));
    expect(driver.info.readOnly).toBe(false);
    await checkModel(driver, content.slice());
    await driver.close();
    await backend.close();
    expect(Buffer.compare(readFileSync(file), content)).toBe(0);
  });
});

test(
  clause("dev.blk.operation", "the server's errors are VIRTIO_BLK_S_IOERR, and the device goes on"),
  async () => {
    let failing = true;
    const server = await FakeServer.start({
      onRequest: ({ cookie, command }) => (failing && command !== 0 ? simple(cookie, 28) : undefined),
    });
    const backend = await NbdBlockBackend.open(server.uri);
    const errors: unknown[] = [];
    const driver = await driverOn(backend, errors);
    await expect(driver.write(0, new Uint8Array(512))).rejects.toMatchObject({ status: VIRTIO_BLK_S_IOERR });
    await expect(driver.writeZeroes(0, 1, true)).rejects.toMatchObject({ status: VIRTIO_BLK_S_IOERR });
    expect(errors.map(String)).toEqual([
      expect.stringContaining("ENOSPC"),
      expect.stringContaining("ENOSPC"),
    ]);
    failing = false;
    await driver.write(0, new Uint8Array(512).fill(4));
    await driver.flush();
    expect(server.disk[511]).toBe(4);
    // A server that is gone is an error of the requests as well.
    await server.stop();
    await expect
      .poll(() => driver.read(0, new Uint8Array(512)).catch((error: unknown) => error))
      .toMatchObject({ status: VIRTIO_BLK_S_IOERR });
    await driver.close();
    await backend.close();
  },
);
