import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { InputDriver, type InputEvent } from "../../src/drivers/input/driver.ts";
import { VIRTIO_INPUT_CFG_EV_BITS, VIRTIO_INPUT_CFG_ID_NAME } from "../../src/spec/input.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { WAYS } from "../support/ways.ts";
import { TestInput, type Event } from "./keyboard.ts";

const SYN: Event = [0, 0, 0];
const triple = ({ type, code, value }: InputEvent): Event => [type, code, value];

describe.each(RINGS)("input over $name", ({ ring }) => {
  test("what the device is, what it sends and what it is told", async () => {
    const device = new TestInput();
    const driver = await InputDriver.open(new Loopback(device), { ring });
    expect(driver.info).toEqual({
      name: "Tästatur",
      serial: "S1",
      ids: { bustype: 6, vendor: 0x1234, product: 1, version: 2 },
      properties: new Set([0, 2]),
      events: new Map([
        [1, new Set([9, 31])],
        [3, new Set([0, 1])],
        [0x11, new Set([0, 1, 2])],
      ]),
      axes: new Map([[0, { min: -100, max: 1000, fuzz: 2, flat: 3, resolution: 40 }]]),
    });
    const sent: Event[] = [];
    for (let i = 0; i < 500; i++) sent.push([3, i % 2, i - 250]);
    const received: Event[] = [];
    const reading = (async () => {
      for await (const event of driver) if (received.push(triple(event)) === sent.length) break;
    })();
    for (const event of sent) {
      expect(device.send([event])).toBe(1);
      await settle(2);
    }
    await reading;
    expect(received).toEqual(sent);
    await driver.setLed(1, true);
    expect(device.status).toEqual([[0x11, 1, 1], SYN]);
    await expect(driver.setLed(9, true)).rejects.toThrow("there is no light 9");
    await driver.close();
    expect(await driver.receive()).toBeUndefined();
  });
});

test.each(WAYS.filter(({ legacy }) => !legacy))("input over $name", async ({ connect }) => {
  const device = new TestInput();
  const driver = await InputDriver.open(connect(device));
  expect(driver.info.name).toBe("Tästatur");
  device.send([[1, 30, 1], SYN]);
  expect(await driver.receive()).toEqual({ type: 1, code: 30, value: 1 });
  await driver.close();
});

test(
  clause(
    "drv.input.init",
    "select and subsel are both set for every query, nothing else is written, size is looked at",
  ),
  async () => {
    const device = new TestInput();
    const driver = await InputDriver.open(new Loopback(device));
    expect(device.writes.length % 2).toBe(0);
    for (let i = 0; i < device.writes.length; i += 2)
      expect(device.writes.slice(i, i + 2).map(([offset]) => offset)).toEqual([0, 1]);
    await driver.close();
    // Information that is shorter than a structure is no structure; what is longer than the space is cut.
    const odd = new TestInput();
    odd.tell(VIRTIO_INPUT_CFG_ID_NAME, 0, new Uint8Array(200).fill(0x41));
    odd.size = 255;
    const long = await InputDriver.open(new Loopback(odd));
    expect(long.info.name).toBe("A".repeat(128));
    await long.close();
    odd.size = 3;
    const short = await InputDriver.open(new Loopback(odd));
    expect(short.info.ids).toBeUndefined();
    expect(short.info.axes.size).toBe(0);
    await short.close();
  },
);

test(
  clause(
    "drv.input.operation",
    "buffers are as large as an event and come back; events nobody knows are passed on",
  ),
  async () => {
    const device = new TestInput();
    const rooms: number[] = [];
    const observer = {
      available: (
        _device: unknown,
        queue: number,
        chain: { readonly readableLength: number; readonly writableLength: number },
      ) => void rooms.push(queue === 0 ? chain.writableLength - chain.readableLength : chain.readableLength),
    };
    const driver = await InputDriver.open(new Loopback(device, { observer }));
    for (let i = 0; i < 1000; i++) {
      expect(device.send([[0xffff, 0xffff, -1]])).toBe(1);
      expect(await driver.receive()).toEqual({ type: 0xffff, code: 0xffff, value: -1 });
    }
    await driver.send({ type: 0x12, code: 7, value: -5 });
    expect(device.status).toEqual([[0x12, 7, -5]]);
    for (const room of rooms) expect(room).toBeGreaterThanOrEqual(8);
    await driver.close();
  },
);

test("reports hold what belongs together, and leave out what was lost", async () => {
  const device = new TestInput();
  const driver = await InputDriver.open(new Loopback(device));
  const reports = driver.reports();
  device.send([[2, 0, 5], [2, 1, -3], SYN, SYN, [1, 30, 1], [0, 3, 0], [1, 31, 1], SYN, [1, 32, 1], SYN]);
  expect((await reports.next()).value?.map(triple)).toEqual([
    [2, 0, 5],
    [2, 1, -3],
  ]);
  expect((await reports.next()).value?.map(triple)).toEqual([[1, 32, 1]]);
  // A report that never ends is not collected for ever.
  const next = reports.next();
  for (let i = 0; i < 2000; i++) {
    device.send([[2, 0, i]]);
    await settle(3);
  }
  device.send([SYN, [1, 33, 1], SYN]);
  expect((await next).value?.map(triple)).toEqual([[1, 33, 1]]);
  await driver.close();
});

test("without a reader the device runs out of buffers, and gets them back when somebody reads", async () => {
  const device = new TestInput();
  const driver = await InputDriver.open(new Loopback(device), { maxWaiting: 10 });
  let sent = 0;
  while (device.send([[1, 1, sent]]) === 1) sent++;
  expect(sent).toBe(10 + 63);
  for (let i = 0; i < sent; i++) expect((await driver.receive())?.value).toBe(i);
  expect(device.send([[1, 1, 7]])).toBe(1);
  expect((await driver.receive())?.value).toBe(7);
  await driver.close();
});

test("a lying device: short events, queues that never answer, information of nonsense", async () => {
  for (const written of [0, 7]) {
    const device = new TestInput();
    const driver = await InputDriver.open(new Loopback(device));
    const next = driver.receive();
    device.send([[1, 1, 1]], written);
    await expect(next).rejects.toThrow("short event");
    await expect(driver.send({ type: 1, code: 1, value: 1 })).rejects.toThrow();
    await driver.close();
  }
  const device = new TestInput();
  device.keep = true;
  const driver = await InputDriver.open(new Loopback(device));
  await expect(driver.setLed(1, true, AbortSignal.timeout(20))).rejects.toThrow(/time/);
  const stuck = Promise.allSettled(Array.from({ length: 40 }, () => driver.setLed(0, true)));
  await driver.close();
  for (const { status } of await stuck) expect(status).toBe("rejected");

  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(255), fc.nat(255), fc.uint8Array({ maxLength: 128 })), { maxLength: 40 }),
      fc.option(fc.nat(255), { nil: undefined }),
      async (pieces, size) => {
        const random = new TestInput();
        for (const [select, subsel, bytes] of pieces) {
          random.tell(select, subsel, bytes);
          random.tell(VIRTIO_INPUT_CFG_EV_BITS, subsel & 31, bytes);
        }
        random.size = size;
        const opened = await InputDriver.open(new Loopback(random));
        expect(opened.info.name.length).toBeLessThanOrEqual(128);
        expect(opened.info.axes.size).toBeLessThanOrEqual(64);
        await opened.close();
      },
    ),
    { numRuns: 30 },
  );
});
