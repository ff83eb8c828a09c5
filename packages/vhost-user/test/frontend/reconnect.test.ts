import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { VIRTIO_F_RING_PACKED, hasFeature } from "virtio/spec/core";
import { VIRTIO_ID_BLK } from "virtio/spec/ids";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";

const SECTOR = 512;
const LANES = 24;
const KILLS = 3;

let directory: string;
let program: string;
let child: ChildProcess | undefined;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "vhost-user-"));
  program = join(directory, "dist", "disk.js");
  // Node 20 runs no TypeScript: the program with all it imports as one module, but for what is native.
  await build({
    configFile: false,
    logLevel: "error",
    resolve: { conditions: ["source"] },
    ssr: { noExternal: true, external: ["koffi"], resolve: { conditions: ["source"] } },
    build: {
      ssr: fileURLToPath(new URL("disk.process.ts", import.meta.url)),
      outDir: join(directory, "dist"),
      minify: false,
      rollupOptions: { output: { entryFileNames: "disk.js" } },
    },
  });
  writeFileSync(join(directory, "package.json"), '{"type":"module"}');
  mkdirSync(join(directory, "node_modules"));
  const koffi = fileURLToPath(new URL("../../../../node_modules/koffi", import.meta.url));
  symlinkSync(koffi, join(directory, "node_modules", "koffi"));
});
afterEach(() => {
  child?.kill("SIGKILL");
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});
afterAll(() => rmSync(directory, { recursive: true }));

/** Resolves when the disk is served. */
async function serve(socket: string, file: string): Promise<ChildProcess> {
  const started = spawn(process.execPath, [program, socket, file], { stdio: ["ignore", "pipe", "inherit"] });
  child = started;
  await Promise.race([
    once(started.stdout, "data"),
    once(started, "exit").then(([code]) => Promise.reject(new Error(`the server ended with ${code}`))),
  ]);
  return started;
}

async function kill(process: ChildProcess): Promise<void> {
  const gone = once(process, "exit");
  process.kill("SIGKILL");
  await gone;
}

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => void setTimeout(resolve, milliseconds));

describe.each([{ packed: false }, { packed: true }])(
  "a back-end that is killed, packed: $packed",
  ({ packed }) => {
    test("the next one goes on: no write is lost, and none is done again after a later one", async () => {
      const file = join(directory, `disk-${packed}`);
      const socket = join(directory, `socket-${packed}`);
      writeFileSync(file, new Uint8Array(LANES * SECTOR));
      let server = await serve(socket, file);
      const transport = await VhostUserTransport.open({
        socket,
        deviceId: VIRTIO_ID_BLK,
        reconnect: { delay: 5 },
        withhold: packed ? 0n : 1n << BigInt(VIRTIO_F_RING_PACKED),
      });
      const disk = await BlkDriver.open(transport, { depth: LANES });
      expect(hasFeature(disk.features, VIRTIO_F_RING_PACKED)).toBe(packed);
      let stop = false;
      // Each lane writes 1, 2, 3 … to its own sector and reads it again. A request that is lost never ends; one that is
      // used twice is a fault of the device to the driver.
      const progress = new Uint32Array(LANES);
      const lanes = Array.from({ length: LANES }, async (_, lane) => {
        const sector = new Uint8Array(SECTOR);
        const back = new Uint8Array(SECTOR);
        let last = 0;
        while (!stop) {
          new DataView(sector.buffer).setUint32(0, ++last);
          await disk.write(lane, sector);
          await disk.read(lane, back);
          if (Buffer.compare(back, sector) !== 0) throw new Error(`lane ${lane}: write ${last} is not there`);
          progress[lane] = last;
        }
        return last;
      });
      for (let i = 0; i < KILLS; i++) {
        await pause(40 + 13 * i);
        await kill(server);
        server = await serve(socket, file);
      }
      // A busy host may not have let everybody work yet.
      while (Math.min(...progress) <= KILLS) await Promise.race([pause(10), Promise.all(lanes)]);
      stop = true;
      const written = await Promise.all(lanes);
      const content = readFileSync(file);
      const found = written.map((_, lane) => content.readUInt32BE(lane * SECTOR));
      expect(found).toEqual(written);
      expect(Math.min(...written)).toBeGreaterThan(KILLS);
      await disk.close();
      await kill(server);
    });
  },
);

test("when no other comes, it is an error", async () => {
  const file = join(directory, "disk-alone");
  const socket = join(directory, "socket-alone");
  writeFileSync(file, new Uint8Array(SECTOR));
  const server = await serve(socket, file);
  const reconnect = { delay: 5, giveUp: 50 };
  const transport = await VhostUserTransport.open({ socket, deviceId: VIRTIO_ID_BLK, reconnect });
  const disk = await BlkDriver.open(transport);
  await disk.read(0, new Uint8Array(SECTOR));
  server.kill("SIGSTOP");
  const read = disk.read(0, new Uint8Array(SECTOR));
  await Promise.all([kill(server), expect(read).rejects.toThrow("no other came")]);
  await disk.close();
});
