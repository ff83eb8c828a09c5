import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { NbdBlockBackend, type NbdBlockOptions } from "../../src/nbd/nbd-block.ts";
import { keepAliveTimers } from "../tcp-timers.ts";
import { EVERYTHING, FakeServer, type FakeOptions } from "./fake-server.ts";
import {
  nbdkit,
  needsNbdkit,
  needsQemuNbd,
  qemuNbd,
  type RealServer,
  startNbdkit,
  startQemuNbd,
} from "./servers.ts";

/** How long requests wait for a server that is slow, silent or away. */

const CAN_MULTI_CONN = 0x100;

let errors: string[];
let returns: boolean[];
let folder: string;
let socket: string;
let real: RealServer | undefined;
let fake: FakeServer | undefined;
let disk: NbdBlockBackend | undefined;
beforeEach(() => {
  [errors, returns] = [[], []];
  folder = mkdtempSync(join(tmpdir(), "virtio-nbd-"));
  socket = join(folder, "socket");
});
afterEach(async () => {
  vi.useRealTimers();
  await disk?.close();
  await real?.kill();
  await fake?.stop();
  [disk, real, fake] = [undefined, undefined, undefined];
  rmSync(folder, { recursive: true });
});

async function open(uri: string, options: NbdBlockOptions): Promise<NbdBlockBackend> {
  disk = await NbdBlockBackend.open(uri, {
    openTimeout: 300,
    onError: ({ message }) => errors.push(message),
    onReconnect: (unflushed) => returns.push(unflushed),
    ...options,
  });
  return disk;
}

async function openFake(server: FakeOptions, options: NbdBlockOptions): Promise<NbdBlockBackend> {
  fake = await FakeServer.start(server);
  return open(fake.uri, options);
}

const openReal = (options: NbdBlockOptions): Promise<NbdBlockBackend> =>
  open(`nbd+unix:///?socket=${socket}`, options);

function emptyImage(): string {
  const file = join(folder, "disk.img");
  writeFileSync(file, "");
  truncateSync(file, 1 << 20);
  return file;
}

const sector = (value = 0): Uint8Array => new Uint8Array(512).fill(value);

describe("a server that hangs", () => {
  test.skipIf(qemuNbd === undefined)(
    needsQemuNbd("requests fail after requestTimeout, and are served again when it goes on"),
    async () => {
      real = startQemuNbd(socket, emptyImage(), "-e", "8");
      const some = await openReal({ requestTimeout: 1 });
      await some.write(0, sector(7));
      real.signal("SIGSTOP");
      const start = performance.now();
      await expect(some.read(0, sector())).rejects.toThrow("has not answered for 1 s");
      expect(performance.now() - start).toBeGreaterThan(950);
      await expect(some.read(0, sector())).rejects.toThrow("no connection");
      real.signal("SIGCONT");
      await expect.poll(() => returns.length).toBe(1);
      const target = sector();
      await some.read(0, target);
      expect(target).toEqual(sector(7));
    },
  );

  test.skipIf(qemuNbd === undefined)(
    needsQemuNbd("with reconnectDelay requests are sent again to the one that takes its place"),
    async () => {
      real = startQemuNbd(socket, emptyImage(), "-e", "8");
      const some = await openReal({ requestTimeout: 1, reconnectDelay: 20 });
      await some.write(0, sector(7));
      await some.flush();
      real.signal("SIGSTOP");
      const target = sector();
      const reading = some.read(0, target);
      await expect.poll(() => errors.length).toBe(1);
      expect(errors[0]).toContain("has not answered for 1 s");
      await real.kill();
      real.restart();
      await reading;
      expect(target).toEqual(sector(7));
    },
  );

  test.skipIf(nbdkit === undefined)(
    needsNbdkit("one that is slow and does something all the time is waited for"),
    async () => {
      // One after the other: the last answer comes after 3 seconds.
      real = startNbdkit(socket, "-t", "1", "--filter=delay", "memory", "1M", "rdelay=500ms");
      const some = await openReal({ requestTimeout: 1 });
      await Promise.all(Array.from({ length: 6 }, (_, i) => some.read(i * 512, sector())));
      expect(errors).toEqual([]);
    },
  );

  test.skipIf(nbdkit === undefined)(
    needsNbdkit("one that takes longer for a request than requestTimeout never gets to answer it"),
    async () => {
      real = startNbdkit(socket, "--filter=delay", "memory", "1M", "rdelay=3");
      const some = await openReal({ requestTimeout: 1 });
      await some.write(0, sector());
      await expect(some.read(0, sector())).rejects.toThrow("has not answered for 1 s");
    },
  );

  test("without requestTimeout requests wait, and it is told once", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    let silent = true;
    const some = await openFake(
      { onRequest: ({ command }) => (silent && command === 0 ? "silence" : undefined) },
      {},
    );
    // Time in which nothing is asked is no silence.
    await vi.advanceTimersByTimeAsync(100_000);
    let settled = false;
    const reading = some.read(0, sector()).finally(() => (settled = true));
    reading.catch(() => {});
    await vi.advanceTimersByTimeAsync(29_000);
    expect(errors).toEqual([]);
    await vi.advanceTimersByTimeAsync(200_000);
    expect(errors).toEqual([expect.stringContaining("has not answered for 30 s")]);
    expect(settled).toBe(false);
    // It goes on, and hangs once more.
    silent = false;
    await some.flush();
    silent = true;
    await vi.advanceTimersByTimeAsync(100_000);
    expect(errors.length).toBe(2);
    fake?.hangUp();
    await expect(reading).rejects.toMatchObject({ code: "EIO" });
  });

  test("openTimeout is the limit also where the server says nothing at all", async () => {
    fake = await FakeServer.start({ greeting: Buffer.alloc(0) });
    const start = performance.now();
    await expect(NbdBlockBackend.open(fake.uri, { openTimeout: 1 })).rejects.toThrow("no NBD handshake");
    expect(performance.now() - start).toBeGreaterThan(900);
    // Half of what it is without the option.
    expect(performance.now() - start).toBeLessThan(15_000);
  });
});

describe.skipIf(process.platform !== "linux")("a server whose machine vanishes", () => {
  test("TCP asks for it after half a minute in which nothing came", async () => {
    fake = await FakeServer.start({ port: true });
    await open(fake.uri, {});
    const timers = keepAliveTimers(fake.port);
    // Ours; the server's end has none.
    expect(timers.length).toBe(2);
    const ours = timers.filter((timer) => timer !== undefined);
    expect(ours.length).toBe(1);
    expect(ours[0]).toBeLessThanOrEqual(30_000);
  });
});

describe("a server that is lost again and again", () => {
  test("a request is sent as often as it takes while reconnectDelay lasts", async () => {
    let losses = 0;
    const some = await openFake(
      { onRequest: ({ command }) => (command === 0 && losses++ < 6 ? "hang up" : undefined) },
      { reconnectDelay: 60 },
    );
    await some.read(0, sector());
    expect(losses).toBe(7);
  });

  test("all connections come back, though one attempt failed in between", async () => {
    let refuse = false;
    const some = await openFake(
      {
        flags: EVERYTHING | CAN_MULTI_CONN,
        onOption: () => (refuse ? Buffer.alloc(20) : undefined),
      },
      { connections: 3, reconnectDelay: 20 },
    );
    await expect.poll(() => fake?.live).toBe(3);
    refuse = true;
    fake?.hangUpOne();
    await expect.poll(() => (fake?.connections ?? 0) > 3).toBe(true);
    await expect.poll(() => fake?.live).toBe(2);
    refuse = false;
    fake?.hangUp();
    await some.read(0, sector());
    await expect.poll(() => fake?.live).toBe(3);
  });

  test("one that comes back and is no longer one disk for several connections gets one", async () => {
    const some = await openFake(
      { flags: EVERYTHING | CAN_MULTI_CONN },
      { connections: 3, reconnectDelay: 20 },
    );
    await expect.poll(() => fake?.live).toBe(3);
    const path = fake?.path ?? "";
    await fake?.stop();
    fake = await FakeServer.start({ flags: EVERYTHING, path });
    await some.read(0, sector());
    await expect.poll(() => returns.length).toBe(1);
    // Another one would have been there by now.
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(fake.connections).toBe(1);
  });
});

describe("what a server forgets that crashes", () => {
  test("that there was something to forget is told when it is back", async () => {
    const some = await openFake({}, { reconnectDelay: 20 });
    const back = async (step: () => Promise<void>): Promise<boolean | undefined> => {
      await step();
      const before = returns.length;
      fake?.hangUp();
      await expect.poll(() => returns.length).toBe(before + 1);
      return returns[before];
    };
    expect(await back(() => some.read(0, sector()))).toBe(false);
    expect(await back(() => some.write(0, sector(1)))).toBe(true);
    // It is told once: what happened happened.
    expect(await back(() => some.read(0, sector()))).toBe(false);
    expect(await back(() => some.write(0, sector(1)).then(() => some.flush()))).toBe(false);
    expect(await back(async () => some.writeZeroes?.(0, 512, false))).toBe(true);
    expect(await back(async () => some.discard?.(0, 512))).toBe(true);
  });

  test("a flush speaks for what was acknowledged before it was sent", async () => {
    let answer: (() => void) | undefined;
    const some = await openFake(
      {
        onRequest: ({ command }) => (command === 3 ? "later" : undefined),
        onLater: (send) => (answer = send),
      },
      { reconnectDelay: 20 },
    );
    const flushing = some.flush();
    await some.write(0, sector(1));
    await expect.poll(() => answer !== undefined).toBe(true);
    answer?.();
    await flushing;
    fake?.hangUp();
    await expect.poll(() => returns).toEqual([true]);
  });

  test.skipIf(nbdkit === undefined).each([
    ["writeback", 0],
    ["writethrough", 9],
  ] as const)(
    needsNbdkit("killed with its cache, cache=%s: a write that was not flushed is then %i"),
    async (cache, there) => {
      const file = emptyImage();
      // Its cache is a file that nobody finds again.
      real = startNbdkit(socket, "--filter=cache", "file", file, "cache=writeback");
      const some = await openReal({ cache, reconnectDelay: 20 });
      await some.write(512, sector(9));
      await real.kill();
      real.restart();
      const target = sector(1);
      await some.read(512, target);
      expect(target).toEqual(sector(there));
      expect(returns).toEqual([there === 0]);
    },
  );
});
