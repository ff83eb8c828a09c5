import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { NbdBlockBackend, type NbdBlockOptions } from "../../src/nbd/nbd-block.ts";
import { FakeServer, simple, type FakeOptions } from "./fake-server.ts";
import {
  nbdkit,
  needsNbdkit,
  needsQemuNbd,
  qemuNbd,
  type RealServer,
  startNbdkit,
  startQemuNbd,
} from "./servers.ts";

const SIZE = 8 << 20;
const BLOCK = 4096;
const BLOCKS = SIZE / BLOCK;

let errors: string[];
let returns: number;
beforeEach(() => {
  errors = [];
  returns = 0;
});

function open(uri: string, options: NbdBlockOptions = {}): Promise<NbdBlockBackend> {
  return NbdBlockBackend.open(uri, {
    openTimeout: 300,
    onError: ({ message }) => errors.push(message),
    onReconnect: () => returns++,
    ...options,
  });
}

describe("a real server that is killed", () => {
  let folder: string;
  let file: string;
  let socket: string;
  let uri: string;
  let server: RealServer | undefined;
  let disk: NbdBlockBackend | undefined;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "virtio-nbd-"));
    file = join(folder, "disk.img");
    socket = join(folder, "socket");
    uri = `nbd+unix:///?socket=${socket}`;
    writeFileSync(file, "");
    truncateSync(file, SIZE);
  });
  afterEach(async () => {
    await disk?.close();
    await server?.kill();
    [disk, server] = [undefined, undefined];
    rmSync(folder, { recursive: true });
  });

  /** Workers that write and read back, each its own blocks, until `stop`. Gives the number of writes. */
  async function load(some: NbdBlockBackend, model: Uint8Array, stop: Promise<unknown>): Promise<number> {
    let [going, writes] = [true, 0];
    void stop.finally(() => (going = false));
    const worker = async (number: number, workers: number): Promise<void> => {
      const target = new Uint8Array(BLOCK);
      for (let i = 0; going; i++) {
        const block = number + workers * ((i * 7919) % Math.floor(BLOCKS / workers));
        const part = model.subarray(block * BLOCK, (block + 1) * BLOCK);
        part.fill(1 + (writes++ % 255));
        await some.write(block * BLOCK, part.slice());
        await some.read(block * BLOCK, target);
        if (Buffer.compare(target, part) !== 0) throw new Error(`block ${block} is not what was written`);
        if (i % 50 === 0) await some.flush();
      }
    };
    await Promise.all(Array.from({ length: 16 }, (_, i) => worker(i, 16)));
    return writes;
  }

  const servers = [
    {
      name: "qemu-nbd",
      title: needsQemuNbd,
      there: qemuNbd !== undefined,
      start: () => startQemuNbd(socket, file, "-e", "8"),
    },
    {
      name: "nbdkit",
      title: needsNbdkit,
      there: nbdkit !== undefined,
      start: () => startNbdkit(socket, "file", file),
    },
  ];
  for (const { name, title, there, start } of servers) {
    for (const connections of [1, 3]) {
      test.skipIf(!there)(
        title(`${name}, ${connections} connections: under load with reconnectDelay, nothing is lost`),
        async () => {
          server = start();
          disk = await open(uri, { reconnectDelay: 20, connections });
          const model = new Uint8Array(SIZE);
          const kills = (async () => {
            for (let i = 0; i < 4; i++) {
              await delay(150);
              await server?.kill();
              await delay(i * 50);
              server?.restart();
              await expect.poll(() => returns, { interval: 5 }).toBe(i + 1);
            }
            await delay(100);
          })();
          const writes = await load(disk, model, kills);
          await kills;
          await disk.flush();
          expect(Buffer.compare(readFileSync(file), model)).toBe(0);
          // It was a load, and the kills were seen: once each, however many requests and connections there were.
          expect(writes).toBeGreaterThan(200);
          expect(errors.length).toBe(4);
        },
      );
    }
  }

  test.skipIf(qemuNbd === undefined)(
    needsQemuNbd("without reconnectDelay requests fail at once, until the server is back"),
    async () => {
      server = startQemuNbd(socket, file);
      disk = await open(uri);
      const some = disk;
      await some.read(0, new Uint8Array(512));
      // It can answer nothing from now on.
      server.signal("SIGSTOP");
      const outstanding = expect(some.read(0, new Uint8Array(512))).rejects.toMatchObject({ code: "EIO" });
      await server.kill();
      await outstanding;
      await expect(some.flush()).rejects.toThrow("there is no connection to the NBD server");
      server.restart();
      await expect.poll(() => returns).toBe(1);
      await some.write(0, new Uint8Array(512).fill(3));
      expect(errors).toEqual([expect.stringContaining(`disk '${uri}': `)]);
    },
  );
});

describe("a server that comes back", () => {
  let server: FakeServer;
  let disk: NbdBlockBackend;
  afterEach(async () => {
    await disk.close();
    await server.stop();
  });
  async function start(options: FakeOptions, more: NbdBlockOptions): Promise<void> {
    server = await FakeServer.start(options);
    disk = await open(server.uri, more);
  }

  test("requests wait for it as long as reconnectDelay says, and no longer", async () => {
    let [refuse, asked] = [false, 0];
    await start(
      {
        onOption: () => {
          if (!refuse) return undefined;
          asked++;
          return Buffer.alloc(20);
        },
      },
      { reconnectDelay: 2 },
    );
    await disk.read(0, new Uint8Array(512));
    refuse = true;
    server.hangUp();
    await expect.poll(() => asked).toBeGreaterThan(0);
    const start1 = performance.now();
    await expect(disk.read(0, new Uint8Array(512))).rejects.toThrow("no connection to the NBD server");
    expect(performance.now() - start1).toBeGreaterThan(500);
    // The time is over: those that come later fail at once.
    const start2 = performance.now();
    await expect(disk.write(0, new Uint8Array(512))).rejects.toThrow("no connection to the NBD server");
    expect(performance.now() - start2).toBeLessThan(2000);
    refuse = false;
    await expect.poll(() => returns).toBe(1);
    await disk.read(0, new Uint8Array(512));
  });

  test("a request that kills the server each time fails in the end, and none beside it", async () => {
    const cursed = ({ offset }: { offset: number }): boolean => offset === 4096;
    await start({ onRequest: (request) => (cursed(request) ? "hang up" : undefined) }, { reconnectDelay: 4 });
    let failed = false;
    const failing = disk.read(4096, new Uint8Array(512)).finally(() => (failed = true));
    failing.catch(() => {});
    let served = 0;
    // Several at once, all the time, so that there is never none that waits.
    const others = [0, 1, 2, 3].map(async (i) => {
      for (; !failed; served++) {
        await disk.read(i * 512, new Uint8Array(512));
        await delay(20);
      }
    });
    await expect(failing).rejects.toMatchObject({ code: "EIO" });
    await Promise.all(others);
    expect(served).toBeGreaterThanOrEqual(12);
    const tries = server.requests.filter(cursed).length;
    expect(tries).toBeGreaterThanOrEqual(6);
    expect(tries).toBeLessThan(10);
  });

  test("NBD_ESHUTDOWN: what was not served is asked again of the next connection", async () => {
    let refused = 0;
    await start(
      {
        onRequest: ({ cookie, command }, connection) => {
          if (connection > 0 || command !== 1) return undefined;
          refused++;
          return simple(cookie, 108);
        },
      },
      { reconnectDelay: 10 },
    );
    await Promise.all([0, 1, 2].map((i) => disk.write(i * 512, new Uint8Array(512).fill(i + 1))));
    expect(refused).toBe(3);
    expect(server.connections).toBe(2);
    expect([0, 512, 1024].map((at) => server.disk[at])).toEqual([1, 2, 3]);
    // The first connection was ended by a word.
    expect(server.requests.filter(({ command }) => command === 2).length).toBe(1);
  });

  test("another size is told; a disk that can do less is not taken", async () => {
    let sizes = 0;
    const options: { size: number; flags: number } = { size: 1 << 20, flags: 0x1 | 0x4 | 0x20 };
    await start(options, { reconnectDelay: 10 });
    disk.onResize = () => sizes++;
    await server.stop();
    await expect.poll(() => errors.length).toBeGreaterThan(0);
    const said = (text: string): boolean => errors.some((error) => error.includes(text));
    for (const [flags, size, text] of [
      [0x1 | 0x2 | 0x4 | 0x20, 1 << 20, "came back read-only"],
      [0x1 | 0x4, 1 << 20, "came back with fewer commands"],
    ] as const) {
      const worse = await FakeServer.start({ flags, size, path: server.path });
      await expect.poll(() => said(text)).toBe(true);
      await worse.stop();
    }
    expect(returns).toBe(0);
    server = await FakeServer.start({ flags: options.flags, size: 2 << 20, path: server.path });
    await expect.poll(() => disk.size).toBe(2 << 20);
    expect(sizes).toBe(1);
    await disk.read(3 << 19, new Uint8Array(512));
  });

  test("many more requests than fit are under way in turn", async () => {
    let [now, most] = [0, 0];
    await start(
      {
        structured: false,
        onRequest: ({ command }) => {
          if (command === 1) most = Math.max(most, ++now);
          return undefined;
        },
      },
      {},
    );
    const writes = Array.from({ length: 1000 }, (_, i) =>
      disk.write((i % 2048) * 512, new Uint8Array(512).fill(i)).then(() => void now--),
    );
    await Promise.all(writes);
    expect(most).toBeLessThanOrEqual(128);
    expect(most).toBeGreaterThan(32);
  });

  test("closing ends what waits and waits for what is under way", async () => {
    await start(
      { onRequest: ({ command }) => (command === 3 ? "silence" : undefined) },
      { reconnectDelay: 60 },
    );
    const reading = disk.read(0, new Uint8Array(512));
    await Promise.all([reading, disk.close()]);
    await expect(disk.read(0, new Uint8Array(512))).rejects.toThrow("closed");
  });
});
