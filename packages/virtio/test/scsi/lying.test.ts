import fc from "fast-check";
import { expect, test } from "vitest";
import { parseLuns } from "../../src/drivers/scsi/cdb.ts";
import { ScsiDriver } from "../../src/drivers/scsi/driver.ts";
import { parseSense } from "../../src/drivers/scsi/error.ts";
import { parseEvents } from "../../src/drivers/scsi/events.ts";
import { writeLe16, writeLe32 } from "../../src/memory/bytes.ts";
import { VIRTIO_SCSI_CONFIG as CONFIG } from "../../src/spec/scsi.ts";
import { Loopback, settle } from "../support/loopback.ts";
import { BLOCK, TestHost, type Answer } from "./host.ts";

const UNIT = { target: 0, lun: 0 };
const READ = Uint8Array.of(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0);

async function open(host: TestHost): Promise<ScsiDriver> {
  writeLe16(host.configBytes, CONFIG.max_target, 1);
  return ScsiDriver.open(new Loopback(host));
}

test("whatever a device answers, nothing is read or written outside of the caller's buffer", async () => {
  const answers: fc.Arbitrary<Answer> = fc.record(
    {
      response: fc.nat(254),
      status: fc.nat(255),
      sense: fc.array(fc.nat(255), { maxLength: 96 }),
      senseLength: fc.nat(0xffff_ffff),
      residual: fc.oneof(fc.nat(2000), fc.nat(0xffff_ffff)),
      data: fc.uint8Array({ maxLength: BLOCK }),
      written: fc.integer({ min: 12, max: 2000 }),
    },
    { requiredKeys: [] },
  );
  await fc.assert(
    fc.asyncProperty(answers, async (answer) => {
      const host = new TestHost([UNIT]);
      const driver = await open(host);
      host.answer = () => answer;
      const guarded = new Uint8Array(3 * BLOCK).fill(0xa5);
      const dataIn = guarded.subarray(BLOCK, 2 * BLOCK);
      const result = await driver.command(UNIT, READ, { dataIn }).catch((error: unknown) => error);
      expect(guarded.subarray(0, BLOCK)).toEqual(new Uint8Array(BLOCK).fill(0xa5));
      expect(guarded.subarray(2 * BLOCK)).toEqual(new Uint8Array(BLOCK).fill(0xa5));
      if (result instanceof Error) expect(result.name).toBe("ScsiError");
      else {
        const { received, residual } = result as { received: number; residual: number };
        expect(received + residual).toBeLessThanOrEqual(2 * BLOCK);
        // What the device did not write is not taken for data.
        expect(received).toBeLessThanOrEqual(Math.max(0, (answer.written ?? Infinity) - 108));
        expect(dataIn.subarray(received)).toEqual(new Uint8Array(BLOCK - received).fill(0xa5));
      }
      await driver.close();
    }),
    { numRuns: 150 },
  );
});

test("a request used without a response is the end of the device, not a hang", async () => {
  for (const written of [0, 11]) {
    const host = new TestHost([UNIT]);
    const driver = await open(host);
    host.answer = () => ({ written });
    await expect(driver.command(UNIT, READ, { dataIn: new Uint8Array(BLOCK) })).rejects.toThrow(
      "without a response",
    );
    expect(driver.session.failure).toBeInstanceOf(Error);
    await expect(driver.scan()).rejects.toThrow();
    const events = driver.events();
    await expect(events.next()).rejects.toThrow("without a response");
    await driver.close();
  }
  const host = new TestHost([UNIT]);
  const driver = await open(host);
  host.control = () => ({ bytes: [0], written: 0 });
  await expect(driver.resetUnit(UNIT)).rejects.toThrow("without a response");
  await driver.close();
});

test("a device that goes away ends what is outstanding", async () => {
  const host = new TestHost([UNIT]);
  const driver = await open(host);
  host.answer = () => new Promise(() => undefined);
  const commands = Array.from({ length: 20 }, () =>
    driver.command(UNIT, READ, { dataIn: new Uint8Array(BLOCK) }),
  );
  const ends = Promise.allSettled(commands);
  await settle();
  await driver.close();
  for (const { status } of await ends) expect(status).toBe("rejected");
  await expect(driver.command(UNIT, READ)).rejects.toThrow();
});

test("a configuration of nonsense costs nothing", async () => {
  for (const value of [0, 0xffff_ffff]) {
    const host = new TestHost([UNIT]);
    for (const at of [
      CONFIG.seg_max,
      CONFIG.max_sectors,
      CONFIG.cmd_per_lun,
      CONFIG.event_info_size,
      CONFIG.max_lun,
    ])
      writeLe32(host.configBytes, at, value);
    writeLe32(host.configBytes, CONFIG.num_queues, Math.min(value, 2));
    const driver = await open(host);
    const [unit] = await driver.scan();
    await unit?.read(0, new Uint8Array(64 * BLOCK));
    await driver.close();
  }
  // Queues that are not there are an error at once.
  const host = new TestHost([UNIT]);
  writeLe32(host.configBytes, CONFIG.num_queues, 0xffff_ffff);
  await expect(open(host)).rejects.toThrow("no virtqueue 4");
});

test("lists and capacities of nonsense", async () => {
  const host = new TestHost([UNIT]);
  const driver = await open(host);
  const reply = (opcode: number, data: Uint8Array): void => {
    host.answer = ({ header, room }) =>
      header[19] === opcode ? { data: data.subarray(0, room) } : undefined;
  };
  // 2^32 - 1 bytes of LUNs, of which few come.
  const list = new Uint8Array(65_536).fill(0xff);
  reply(0xa0, list);
  expect((await driver.scan()).length).toBe(0);
  reply(0xa0, Uint8Array.of(0, 0, 0));
  expect((await driver.scan()).length).toBe(0);
  host.answer = undefined;
  const [unit] = await driver.scan();
  for (const [last, size] of [
    [63, 0],
    [63, 0xffff_ffff],
  ] as const) {
    const data = new Uint8Array(8);
    new DataView(data.buffer).setUint32(0, last);
    new DataView(data.buffer).setUint32(4, size);
    reply(0x25, data);
    await expect(unit?.capacity()).rejects.toThrow("unusable capacity");
  }
  reply(0x25, Uint8Array.of(0, 0, 0));
  await expect(unit?.read(0, new Uint8Array(BLOCK))).rejects.toThrow("3 bytes came");
  // Data that is shorter than asked for is no success.
  reply(0x28, new Uint8Array(100));
  host.answer = ({ header }) => (header[19] === 0x28 ? { data: new Uint8Array(100) } : undefined);
  await expect(unit?.read(0, new Uint8Array(BLOCK))).rejects.toThrow("412 bytes at block 0 were not moved");
  await driver.close();
});

test("events of nonsense say nothing, short ones end the device", async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 32 }), (bytes) => {
      expect(parseEvents(bytes).length).toBeLessThanOrEqual(2);
      parseSense(bytes);
      expect(parseLuns(bytes).entries.length).toBeLessThanOrEqual(4);
    }),
  );
  const host = new TestHost([UNIT]);
  const driver = await open(host);
  const next = driver.events().next();
  expect(host.event(1, 0, new Uint8Array(8).fill(0xff))).toBe(true);
  expect(host.event(77, 0, UNIT)).toBe(true);
  expect(host.event(1, 99, UNIT)).toBe(true);
  host.event(1, 0, UNIT, 15);
  await expect(next).rejects.toThrow("short event");
  await driver.close();
});
