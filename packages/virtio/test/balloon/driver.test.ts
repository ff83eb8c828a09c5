import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BalloonDriver } from "../../src/drivers/balloon/driver.ts";
import type { BalloonStatistics } from "../../src/drivers/balloon/statistics.ts";
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CONFIG as CONFIG,
  VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_F_PAGE_REPORTING,
  VIRTIO_BALLOON_F_STATS_VQ,
} from "../../src/spec/balloon.ts";
import { featureBits } from "../../src/spec/core.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { WAYS } from "../support/ways.ts";
import { ALL_BALLOON, TestBalloon } from "./device.ts";

const PAGE = 4096;

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i === 2000) throw new Error("it never comes to that");
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

describe.each(RINGS)("balloon over $name", ({ ring }) => {
  test("it goes where the device wants it", async () => {
    const device = new TestBalloon(ALL_BALLOON);
    device.want(700);
    const driver = await BalloonDriver.open(new Loopback(device), { ring });
    await until(() => device.actual === 700);
    for (const pages of [900, 3, 0, 257]) {
      device.want(pages);
      await until(() => driver.actual === pages && device.actual === pages);
      expect(device.pages.size).toBe(pages);
    }
    await driver.close();
  });
});

test.each(WAYS)("balloon over $name", async ({ connect }) => {
  const device = new TestBalloon(ALL_BALLOON);
  const driver = await BalloonDriver.open(connect(device));
  device.want(300);
  await until(() => device.actual === 300);
  device.want(20);
  await until(() => device.actual === 20);
  await driver.close();
});

test(
  clause("drv.balloon.features", "what is not used is not accepted, and being told first is"),
  async () => {
    const negotiated = async (offered: bigint, options = {}): Promise<bigint> => {
      const driver = await BalloonDriver.open(new Loopback(new TestBalloon(offered)), options);
      const { features } = driver.session;
      await driver.close();
      return features & ALL_BALLOON;
    };
    const basic = featureBits(VIRTIO_BALLOON_F_MUST_TELL_HOST, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
    const reporting = featureBits(VIRTIO_BALLOON_F_PAGE_REPORTING);
    expect(await negotiated(ALL_BALLOON)).toBe(basic | reporting);
    const poison = featureBits(VIRTIO_BALLOON_F_PAGE_POISON);
    expect(await negotiated(ALL_BALLOON, { poison: 1 })).toBe(basic | reporting | poison);
    // Pages that are to keep their poison are not reported to a device that does not know of it.
    expect(await negotiated(ALL_BALLOON & ~poison, { poison: 1 })).toBe(basic);
    const hints = { take: () => [], done: () => undefined };
    expect(await negotiated(ALL_BALLOON, { hints, statistics: () => ({}) })).toBe(
      basic | reporting | featureBits(VIRTIO_BALLOON_F_STATS_VQ, VIRTIO_BALLOON_F_FREE_PAGE_HINT),
    );
  },
);

test(
  clause(
    "drv.balloon.operation",
    "pages are used again when the device said so, actual is told, limits are kept",
  ),
  async () => {
    const device = new TestBalloon(ALL_BALLOON & ~featureBits(VIRTIO_BALLOON_F_DEFLATE_ON_OOM));
    const loopback = new Loopback(device);
    const driver = await BalloonDriver.open(loopback, { follow: false });
    device.want(100);
    await settle();
    expect(driver.actual).toBe(0);
    let release = (): void => undefined;
    const held = (): Promise<void> => new Promise((resolve) => (release = resolve));
    device.hold = held;
    // Deflation is not asked for before the inflation is acknowledged.
    const growing = driver.inflate(60);
    await until(() => device.messages.length === 1);
    device.want(50);
    const shrinking = driver.deflate(10);
    await settle(50);
    expect(device.messages.map(([queue]) => queue)).toEqual(["inflateq"]);
    expect([driver.actual, device.actual]).toEqual([0, 0]);
    release();
    expect(await growing).toBe(60);
    expect(device.actual).toBe(60);
    await until(() => device.messages.length === 2);
    // Not used before the acknowledgement.
    const back = device.messages[1]?.slice(1).map((page) => Number(page) * PAGE) ?? [];
    const taken = new Set(Array.from({ length: 200 }, () => loopback.memory.allocate(PAGE, PAGE)));
    for (const page of back) expect(taken.has(page)).toBe(false);
    release();
    await shrinking;
    expect([driver.actual, device.actual]).toEqual([50, 50]);
    device.hold = () => undefined;
    await expect(driver.deflate(1)).rejects.toThrow("wants 50 of the 50 pages to stay");
    await expect(driver.inflate(1)).rejects.toThrow("more than the 50 wanted");
    await expect(driver.deflate(51)).rejects.toThrow("there are 50 pages");
    for (const { offset, length } of device.writes) expect([offset, length]).toEqual([CONFIG.actual, 4]);
    await driver.close();

    const kind = new TestBalloon(ALL_BALLOON);
    kind.want(5);
    const lenient = await BalloonDriver.open(new Loopback(kind));
    await until(() => kind.actual === 5);
    await lenient.deflate(5);
    expect(kind.actual).toBe(0);
    await lenient.close();
  },
);

test("memory that runs out, and the bound of the driver, end the inflation and nothing else", async () => {
  const device = new TestBalloon(ALL_BALLOON);
  const loopback = new Loopback(device, { memorySize: 4 << 20 });
  const driver = await BalloonDriver.open(loopback);
  device.want(0xffff_ffff);
  await until(() => device.actual > 800);
  expect(device.actual).toBeLessThan(1024);
  await driver.adjust();
  device.want(10);
  await until(() => device.actual === 10);
  await driver.close();
  const bounded = await BalloonDriver.open(loopback, { maxPages: 40 });
  expect(await bounded.adjust()).toBe(10);
  device.want(0xffff_ffff);
  expect(await bounded.adjust()).toBe(40);
  await bounded.close();
});

test(
  clause("drv.balloon.stats", "one buffer at all times, the same tags every time, in whole units of 6 bytes"),
  async () => {
    let now: BalloonStatistics = { free: 5, total: 10, majorFaults: 1, caches: 2 ** 45 };
    const device = new TestBalloon(ALL_BALLOON);
    const driver = await BalloonDriver.open(new Loopback(device), { statistics: () => now });
    const expected = (free: number, caches: number) => [
      [2, 1],
      [4, free],
      [5, 10],
      [7, caches],
      [0xffff, 0],
      [0xffff, 0],
    ];
    await until(() => device.statistics.length === 1);
    expect(device.statistics[0]?.entries).toEqual(expected(5, 2 ** 45));
    now = { free: 7, total: 10, majorFaults: 1, swapIn: 4 };
    expect(device.ask()).toBe(true);
    expect(device.ask()).toBe(false);
    await until(() => device.statistics.length === 2);
    expect(device.statistics[1]?.entries).toEqual(expected(7, 2 ** 45));
    for (let i = 0; i < 5; i++) {
      const { length } = device.statistics;
      expect(device.ask()).toBe(true);
      await until(() => device.statistics.length === length + 1);
    }
    expect(device.extra).toBe(0);
    for (const { length } of device.statistics) {
      expect(length % 6).toBe(0);
      expect(length % 10).toBe(0);
    }
    await driver.close();
  },
);

test("statistics from a source that fails are those of before; a device that asks for ever is answered once a turn", async () => {
  let calls = 0;
  const device = new TestBalloon(featureBits(VIRTIO_BALLOON_F_STATS_VQ));
  const driver = await BalloonDriver.open(new Loopback(device), {
    statistics: () => {
      if (calls++ > 0) throw new Error("no numbers");
      return { free: 3 };
    },
  });
  const end = Date.now() + 50;
  while (Date.now() < end) {
    device.ask();
    await settle(1);
    if (calls > 5) break;
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  expect(device.statistics.length).toBeGreaterThan(2);
  for (const { entries } of device.statistics) expect(entries[0]).toEqual([4, 3]);
  expect(calls).toBeLessThan(60);
  await driver.close();
});

test(
  clause(
    "drv.balloon.free-page-hinting",
    "a round is one id, the ranges, and a stop; a new id is a new round",
  ),
  async () => {
    const device = new TestBalloon(ALL_BALLOON);
    const loopback = new Loopback(device);
    const gpa = loopback.memory.allocate(8 * PAGE, PAGE);
    const free = [0, 1, 2].map((i) => ({ gpa: gpa + 2 * i * PAGE, length: PAGE }));
    let finished = 0;
    const hints = { take: () => free, done: () => void finished++ };
    device.set(CONFIG.free_page_hint_cmd_id, 7);
    const driver = await BalloonDriver.open(loopback, { hints });
    await until(() => device.messages.length === 5);
    await settle(100);
    expect(device.messages).toEqual([
      ["free_page_vq", 7],
      ["free_page_vq"],
      ["free_page_vq"],
      ["free_page_vq"],
      ["free_page_vq", 0],
    ]);
    expect(device.ranges.map(({ gpa: at, length }) => ({ gpa: at, length }))).toEqual(free);
    // Another notification of the same id is no new round.
    device.set(CONFIG.free_page_hint_cmd_id, 7);
    await settle(100);
    expect(device.messages.length).toBe(5);
    // A round ends early when the device changes its mind, and still with a stop.
    device.hold = (queue) => {
      if (queue === "free_page_vq" && device.ranges.length === 4) device.set(CONFIG.free_page_hint_cmd_id, 0);
      return undefined;
    };
    device.set(CONFIG.free_page_hint_cmd_id, 8);
    await until(() => device.messages.length === 8);
    await settle(100);
    expect(device.messages.slice(5)).toEqual([["free_page_vq", 8], ["free_page_vq"], ["free_page_vq", 0]]);
    expect(finished).toBe(0);
    device.set(CONFIG.free_page_hint_cmd_id, VIRTIO_BALLOON_CMD_ID_DONE);
    await until(() => finished === 1);
    expect(device.messages.length).toBe(8);
    await driver.close();
    expect(finished).toBe(1);
  },
);

test(
  clause("drv.balloon.page-poison", "the value is there before DRIVER_OK, and in every page that comes back"),
  async () => {
    const device = new TestBalloon(ALL_BALLOON);
    const loopback = new Loopback(device);
    const driver = await BalloonDriver.open(loopback, { poison: 0x8877_6655, follow: false });
    expect(device.writes).toEqual([
      { offset: CONFIG.poison_val, length: 4, value: 0x8877_6655, live: false },
    ]);
    device.want(3);
    await driver.inflate(3);
    const pages = [...device.pages];
    for (const page of pages) loopback.bytes.fill(0xee, page * PAGE, (page + 1) * PAGE);
    device.want(0);
    await driver.deflate(3);
    for (const page of pages)
      expect([...loopback.bytes.subarray(page * PAGE, page * PAGE + 5)]).toEqual([
        0x55, 0x66, 0x77, 0x88, 0x55,
      ]);
    for (const { offset, live } of device.writes) expect(offset === CONFIG.poison_val && live).toBe(false);
    await driver.close();
  },
);

test(
  clause(
    "drv.balloon.free-page-reporting",
    "memory is filled first, and free again when the device used the report",
  ),
  async () => {
    for (const poison of [undefined, 0x01020304]) {
      const device = new TestBalloon(ALL_BALLOON);
      const loopback = new Loopback(device);
      const driver = await BalloonDriver.open(loopback, { ...(poison !== undefined && { poison }) });
      const gpa = loopback.memory.allocate(100 * PAGE, PAGE);
      const free = Array.from({ length: 40 }, (_, i) => ({ gpa: gpa + 2 * i * PAGE, length: PAGE }));
      let release = (): void => undefined;
      device.hold = () => new Promise((resolve) => (release = resolve));
      let done = false;
      const reporting = driver.report(free).then(() => (done = true));
      await until(() => device.ranges.length === 32);
      if (poison !== undefined) expect(loopback.bytes[gpa + 3]).toBe(1);
      await settle(50);
      expect(done).toBe(false);
      device.hold = () => undefined;
      release();
      await reporting;
      expect(device.ranges.map(({ gpa: at }) => at)).toEqual(free.map(({ gpa: at }) => at));
      await driver.close();
    }
  },
);

test("a device that wants something else each time leaves everybody else their turns", async () => {
  const device = new TestBalloon(ALL_BALLOON);
  const driver = await BalloonDriver.open(new Loopback(device));
  const write = device.config.write;
  let changes = 0;
  device.config.write = (offset, source) => {
    write(offset, source);
    if (++changes > 10_000) throw new Error("the event loop has no turn");
    device.want(device.actual === 0 ? 5 : 0);
  };
  device.want(5);
  // Timers have their turns while it goes on.
  await until(() => changes > 2);
  expect(driver.session.failure).toBeUndefined();
  await driver.close();
});

test("queues that do not exist may leave a gap or not", async () => {
  for (const compact of [false, true]) {
    for (let bits = 0n; bits < 64n; bits++) {
      const device = new TestBalloon(bits, compact);
      const hints = { take: () => [], done: () => undefined };
      const loopback = new Loopback(device);
      const driver = await BalloonDriver.open(loopback, { statistics: () => ({ free: 1 }), hints });
      if (driver.session.has(VIRTIO_BALLOON_F_PAGE_REPORTING)) {
        await driver.report([{ gpa: loopback.memory.allocate(PAGE, PAGE), length: PAGE }]);
        expect(device.ranges.at(-1)?.queue).toBe("reporting_vq");
      }
      if (driver.session.has(VIRTIO_BALLOON_F_STATS_VQ)) expect(device.ask()).toBe(true);
      device.set(CONFIG.free_page_hint_cmd_id, 2);
      const hinted = (): boolean => device.messages.some(([queue]) => queue === "free_page_vq");
      if (driver.session.has(VIRTIO_BALLOON_F_FREE_PAGE_HINT)) await until(hinted);
      else expect(hinted()).toBe(false);
      await driver.close();
    }
  }
});

test("a device that never answers is ended by an abort or a close; one that wants anything and everything is followed", async () => {
  const device = new TestBalloon(ALL_BALLOON);
  const loopback = new Loopback(device);
  device.want(10);
  device.hold = () => new Promise(() => undefined);
  const driver = await BalloonDriver.open(loopback, { follow: false });
  await expect(driver.inflate(10, AbortSignal.timeout(20))).rejects.toThrow(/time/);
  const waiting = driver.adjust();
  const ended = expect(waiting).rejects.toThrow();
  await driver.close();
  await ended;
  await expect(driver.inflate(1)).rejects.toThrow();
  // All of the memory is there again.
  expect(loopback.memory.allocate((16 << 20) - 0x1000, 4096)).toBe(0x1000);

  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(fc.nat(3000), fc.nat(0xffff_ffff)), { maxLength: 20 }),
      async (wants) => {
        const wild = new TestBalloon(ALL_BALLOON);
        const opened = await BalloonDriver.open(new Loopback(wild, { memorySize: 2 << 20 }), {
          maxPages: 300,
        });
        for (const pages of wants) {
          wild.want(pages);
          await settle(3);
        }
        wild.want(17);
        await until(() => wild.actual === 17);
        expect(wild.pages.size).toBe(17);
        await opened.close();
      },
    ),
    { numRuns: 20 },
  );
});
