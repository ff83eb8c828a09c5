import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { ScsiDriver } from "../../src/drivers/scsi/driver.ts";
import type { ScsiEvent } from "../../src/drivers/scsi/events.ts";
import { writeLe16, writeLe32 } from "../../src/memory/bytes.ts";
import { featureBits } from "../../src/spec/core.ts";
import {
  VIRTIO_SCSI_CONFIG as CONFIG,
  VIRTIO_SCSI_EVT_ASYNC_MEDIA_CHANGE,
  VIRTIO_SCSI_EVT_RESET_HARD,
  VIRTIO_SCSI_EVT_RESET_REMOVED,
  VIRTIO_SCSI_EVT_RESET_RESCAN,
  VIRTIO_SCSI_F_T10_PI,
  VIRTIO_SCSI_S_BUSY,
  VIRTIO_SCSI_S_TARGET_FAILURE,
  VIRTIO_SCSI_T_ASYNC_NOTIFY,
  VIRTIO_SCSI_T_EVENTS_MISSED,
  VIRTIO_SCSI_T_PARAM_CHANGE,
  VIRTIO_SCSI_T_TMF_ABORT_TASK,
  VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET,
  VIRTIO_SCSI_T_TMF_QUERY_TASK,
  VIRTIO_SCSI_T_TRANSPORT_RESET,
} from "../../src/spec/scsi.ts";
import { pattern } from "../support/ends.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { WAYS } from "../support/ways.ts";
import { BLOCK, TestHost, subtypeOf } from "./host.ts";

const UNITS = [
  { target: 0, lun: 0 },
  { target: 2, lun: 1 },
  { target: 2, lun: 300 },
];
const ATTENTION = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0];

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i === 2000) throw new Error("it never comes to that");
    await settle(1);
  }
}

describe.each(RINGS)("scsi over $name", ({ ring }) => {
  test("targets and units are found, read and written", async () => {
    const host = new TestHost(UNITS);
    const driver = await ScsiDriver.open(new Loopback(host), { ring, transferSize: 4096 });
    const units = await driver.scan();
    expect(units.map(({ target, lun }) => ({ target, lun }))).toEqual(UNITS);
    expect(units.map(({ inquiry }) => inquiry.product)).toEqual(["RAM disk", "RAM disk", "RAM disk"]);
    const unit = units[2];
    if (unit === undefined) throw new Error("unreachable");
    expect(await unit.capacity()).toEqual({ blocks: 64, blockSize: BLOCK });
    const data = pattern(50 * BLOCK);
    await unit.write(7, data);
    await unit.flush();
    const back = new Uint8Array(50 * BLOCK);
    await unit.read(7, back);
    expect(back).toEqual(data);
    expect(host.disks.get("1,2,65,44,0,0,0,0")?.subarray(7 * BLOCK, 57 * BLOCK)).toEqual(data);
    await expect(unit.read(60, new Uint8Array(5 * BLOCK))).rejects.toThrow("do not fit");
    await expect(unit.read(0, new Uint8Array(5))).rejects.toThrow("no whole number");
    await driver.close();
  });
});

test.each(WAYS)("scsi over $name", async ({ connect }) => {
  const driver = await ScsiDriver.open(connect(new TestHost(UNITS)));
  const [, unit] = await driver.scan();
  const data = pattern(64 * BLOCK);
  await unit?.write(0, data);
  const back = new Uint8Array(64 * BLOCK);
  await unit?.read(0, back);
  expect(back).toEqual(data);
  await driver.close();
});

test(
  clause(
    "drv.scsi.config",
    "only sense_size and cdb_size are written, and cmd_per_lun bounds what is in flight",
  ),
  async () => {
    const host = new TestHost(UNITS);
    writeLe32(host.configBytes, CONFIG.sense_size, 12);
    writeLe32(host.configBytes, CONFIG.cdb_size, 16);
    writeLe32(host.configBytes, CONFIG.cmd_per_lun, 3);
    const driver = await ScsiDriver.open(new Loopback(host), { depth: 100, transferSize: 4096 });
    const [unit] = await driver.scan();
    await unit?.read(0, new Uint8Array(64 * BLOCK));
    expect(host.mostInFlight).toBe(3);
    expect(host.configWrites.toSorted((a, b) => a - b)).toEqual([CONFIG.sense_size, CONFIG.cdb_size]);
    await driver.close();
  },
);

test(
  clause(
    "drv.scsi.request-queues",
    "task_attr, prio and crn are zero, parts are one descriptor each, and a target failure is not tried again",
  ),
  async () => {
    const host = new TestHost(UNITS);
    const driver = await ScsiDriver.open(new Loopback(host));
    const [unit] = await driver.scan();
    await unit?.write(0, new Uint8Array(BLOCK));
    await unit?.read(0, new Uint8Array(BLOCK));
    for (const { header } of host.commands) expect([...header.subarray(16, 19)]).toEqual([0, 0, 0]);
    expect(host.commands.at(-2)?.segments).toEqual([51, BLOCK, 108]);
    expect(host.commands.at(-1)?.segments).toEqual([51, 108, BLOCK]);
    const ids = host.commands.map(({ header }) => header.subarray(8, 16).join());
    expect(new Set(ids).size).toBe(ids.length);
    const before = host.commands.length;
    host.answer = () => ({ response: VIRTIO_SCSI_S_TARGET_FAILURE });
    await expect(unit?.flush()).rejects.toThrow("VIRTIO_SCSI_S_TARGET_FAILURE");
    expect(host.commands.length).toBe(before + 1);
    await driver.close();
  },
);

test("sense data comes as an error; unit attentions and a busy unit are not seen by who reads", async () => {
  const host = new TestHost(UNITS);
  const driver = await ScsiDriver.open(new Loopback(host));
  const [unit] = await driver.scan();
  await unit?.capacity();
  await expect(unit?.command(Uint8Array.of(0xee, 0, 0, 0, 0, 0))).rejects.toMatchObject({
    name: "ScsiError",
    message: expect.stringContaining("ILLEGAL REQUEST, asc 20, ascq 00") as string,
    sense: { key: 5, asc: 0x20, ascq: 0, deferred: false },
  });
  const first = [
    { status: 2, sense: ATTENTION },
    { response: VIRTIO_SCSI_S_BUSY },
    { status: 8 },
    { status: 0x28 },
    { status: 2, sense: [0x72, 6, 0x2a, 9] },
  ];
  host.answer = () => first.shift();
  await unit?.read(0, new Uint8Array(BLOCK));
  expect(first).toEqual([]);
  // Descriptor format, and sense data that is none.
  host.answer = () => ({ status: 2, sense: [0x73, 3, 0x11, 1] });
  await expect(unit?.flush()).rejects.toMatchObject({
    sense: { key: 3, asc: 0x11, ascq: 1, deferred: true },
  });
  host.answer = () => ({ status: 2, sense: [0x11, 3] });
  await expect(unit?.flush()).rejects.toThrow("CHECK CONDITION without sense data");
  // A unit attention that never ends is the caller's.
  host.answer = () => ({ status: 2, sense: ATTENTION });
  await expect(unit?.flush()).rejects.toThrow("UNIT ATTENTION, asc 29");
  await driver.close();
});

test("task management and asynchronous notifications", async () => {
  const host = new TestHost(UNITS);
  const driver = await ScsiDriver.open(new Loopback(host));
  await driver.resetUnit({ target: 2, lun: 300 });
  const [reset] = host.messages;
  expect(subtypeOf(reset)).toBe(VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET);
  expect([...(reset?.subarray(8, 16) ?? [])]).toEqual([1, 2, 0x41, 44, 0, 0, 0, 0]);
  host.control = () => ({ bytes: [10] });
  expect(await driver.taskManagement(VIRTIO_SCSI_T_TMF_QUERY_TASK, { target: 0, lun: 0 }, 5)).toBe(true);
  host.control = () => ({ bytes: [11] });
  await expect(driver.resetTarget(1)).rejects.toThrow("VIRTIO_SCSI_S_FUNCTION_REJECTED");
  host.control = () => ({ bytes: [16, 0, 0, 0, 0] });
  const asked = VIRTIO_SCSI_EVT_ASYNC_MEDIA_CHANGE | 64;
  expect(await driver.asyncNotifications({ target: 0, lun: 0 }, asked, true)).toBe(16);
  await expect(driver.resetUnit({ target: 256, lun: 0 })).rejects.toThrow("256 is not from 0 to 255");
  await expect(driver.resetUnit({ target: 0, lun: 16_384 })).rejects.toThrow("16384 is not from 0 to 16383");
  await driver.close();
});

test("an abort ends the wait at once and the command with ABORT TASK; its memory stays the device's", async () => {
  const host = new TestHost(UNITS);
  const driver = await ScsiDriver.open(new Loopback(host), { depth: 1 });
  const [unit] = await driver.scan();
  let finish = (): void => undefined;
  host.answer = () =>
    new Promise((resolve) => (finish = () => resolve({ data: new Uint8Array(36).fill(7) })));
  const { signal, abort } = abortable();
  const target = new Uint8Array(36);
  const waiting = unit?.command(Uint8Array.of(0x12, 0, 0, 0, 36, 0), { dataIn: target, signal });
  await settle();
  const sent = host.commands.length;
  abort(new Error("no longer wanted"));
  await expect(waiting).rejects.toThrow("no longer wanted");
  await settle();
  const message = host.messages.at(-1);
  expect(subtypeOf(message)).toBe(VIRTIO_SCSI_T_TMF_ABORT_TASK);
  expect(message?.subarray(16, 24)).toEqual(host.commands.at(-1)?.header.subarray(8, 16));
  // Its one block is not lent again before the device used it, and a command that was aborted meanwhile is never sent.
  host.answer = undefined;
  const second = abortable();
  const never = unit?.command(Uint8Array.of(0, 0, 0, 0, 0, 0), { signal: second.signal });
  const next = unit?.testReady();
  await settle();
  second.abort(new Error("nor this"));
  await expect(never).rejects.toThrow("nor this");
  expect(host.commands.length).toBe(sent);
  finish();
  await next;
  expect(host.commands.length).toBe(sent + 1);
  // Whoever gave up may use the memory for something else.
  expect(target).toEqual(new Uint8Array(36));
  await driver.close();
});

test(
  clause(
    "drv.scsi.eventq",
    "the event queue stays populated, a report of lost events is a scan, LUN 0 is its target",
  ),
  async () => {
    const host = new TestHost(UNITS);
    writeLe32(host.configBytes, CONFIG.event_info_size, 40);
    const rooms: number[] = [];
    const observer = {
      available: (
        _device: unknown,
        queue: number,
        chain: { readonly readableLength: number; readonly writableLength: number },
      ) => {
        if (queue === 1) rooms.push(chain.writableLength - chain.readableLength);
      },
    };
    const driver = await ScsiDriver.open(new Loopback(host, { observer }));
    await driver.scan();
    const unit = driver.unit({ target: 2, lun: 1 });
    const heard: ScsiEvent[] = [];
    driver.onEvent = (event) => void heard.push(event);
    const report = async (
      event: number,
      reason: number,
      target: number,
      lun: number,
    ): Promise<ScsiEvent | undefined> => {
      heard.length = 0;
      expect(host.event(event, reason, { target, lun })).toBe(true);
      await until(() => heard.length > 0);
      return heard[0];
    };
    host.plug({ target: 5, lun: 9 });
    expect(await report(VIRTIO_SCSI_T_TRANSPORT_RESET, VIRTIO_SCSI_EVT_RESET_RESCAN, 5, 0)).toEqual({
      kind: "added",
      unit: { target: 5, lun: 0 },
    });
    expect(driver.unit({ target: 5, lun: 9 })).toBeDefined();
    host.unplug({ target: 2, lun: 300 });
    expect((await report(VIRTIO_SCSI_T_TRANSPORT_RESET, VIRTIO_SCSI_EVT_RESET_REMOVED, 2, 0))?.kind).toBe(
      "removed",
    );
    expect(driver.unit({ target: 2, lun: 300 })).toBeUndefined();
    expect(driver.unit({ target: 2, lun: 1 })).toBe(unit);
    host.plug({ target: 1, lun: 0 });
    expect(await report(VIRTIO_SCSI_T_EVENTS_MISSED, 0, 0, 0)).toEqual({ kind: "missed" });
    expect(driver.unit({ target: 1, lun: 0 })).toBeDefined();
    expect((await report(VIRTIO_SCSI_T_TRANSPORT_RESET, VIRTIO_SCSI_EVT_RESET_HARD, 0, 0))?.kind).toBe(
      "reset",
    );
    expect(await report(VIRTIO_SCSI_T_PARAM_CHANGE, 0x092a, 0, 0)).toMatchObject({ asc: 0x2a, ascq: 9 });
    expect(await report(VIRTIO_SCSI_T_ASYNC_NOTIFY, 16, 0, 0)).toMatchObject({
      kind: "notification",
      events: 16,
    });
    for (let i = 0; i < 100; i++) await report(VIRTIO_SCSI_T_ASYNC_NOTIFY, 16, 0, 0);
    for (const room of rooms) expect(room).toBeGreaterThanOrEqual(40);
    // Readers get what was reported meanwhile, in order.
    const kinds: string[] = [];
    for await (const event of driver.events()) if (kinds.push(event.kind) === 6) break;
    expect(kinds).toEqual(["added", "removed", "missed", "reset", "changed", "notification"]);
    await driver.close();
  },
);

test("events faster than anybody can act upon become one scan", async () => {
  const host = new TestHost(UNITS);
  const driver = await ScsiDriver.open(new Loopback(host));
  await driver.scan();
  const before = host.commands.length;
  let sent = 0;
  while (
    sent < 5000 &&
    host.event(VIRTIO_SCSI_T_TRANSPORT_RESET, VIRTIO_SCSI_EVT_RESET_RESCAN, UNITS[0] ?? { target: 0, lun: 0 })
  )
    sent++;
  expect(sent).toBe(5000);
  host.plug({ target: 4, lun: 0 });
  await until(() => driver.unit({ target: 4, lun: 0 }) !== undefined);
  await settle(200);
  expect(host.commands.length - before).toBeLessThan(400);
  await driver.close();
});

test("VIRTIO_SCSI_F_T10_PI is not accepted, and data both ways only with VIRTIO_SCSI_F_INOUT", async () => {
  const host = new TestHost(UNITS, featureBits(VIRTIO_SCSI_F_T10_PI));
  const driver = await ScsiDriver.open(new Loopback(host));
  expect(driver.session.has(VIRTIO_SCSI_F_T10_PI)).toBe(false);
  await expect(
    driver.command({ target: 0, lun: 0 }, new Uint8Array(6), {
      dataIn: new Uint8Array(1),
      dataOut: new Uint8Array(1),
    }),
  ).rejects.toThrow("VIRTIO_SCSI_F_INOUT");
  await driver.close();
});

test("a busy unit is asked again until it says what it is", async () => {
  const host = new TestHost(UNITS);
  const driver = await ScsiDriver.open(new Loopback(host));
  let busy = 20;
  host.answer = () => (busy-- > 0 ? { response: VIRTIO_SCSI_S_BUSY } : undefined);
  expect((await driver.scan()).map(({ target, lun }) => ({ target, lun }))).toEqual(UNITS);
  await driver.close();
});

test("what was asked before a change is not the last word", async () => {
  const host = new TestHost(UNITS);
  const driver = await ScsiDriver.open(new Loopback(host));
  await driver.scan();
  const [gone] = UNITS;
  const unit = gone && driver.unit(gone);
  if (gone === undefined || unit === undefined) throw new Error("no unit");
  let answer = (): void => undefined;
  /** The n-th such command gets these data, later. */
  const hold = (command: number, nth: number, data: Uint8Array): void => {
    let seen = 0;
    host.answer = ({ header }) => {
      if (header[19] !== command || ++seen !== nth) return undefined;
      return new Promise((resolve) => (answer = () => resolve({ data })));
    };
  };
  // READ CAPACITY (10): 32 blocks of 512 bytes, where there are 64 in the meantime.
  hold(0x25, 1, Uint8Array.of(0, 0, 0, 31, 0, 0, 2, 0));
  const before = unit.capacity();
  await settle();
  unit.forgetCapacity();
  answer();
  expect((await before).blocks).toBe(32);
  expect((await unit.capacity()).blocks).toBe(64);
  // INQUIRY of what was listed: there is a disk, which is unplugged in the meantime.
  hold(0x12, 2, new Uint8Array(36));
  const first = driver.scanTarget(gone.target);
  await settle(200);
  host.unplug(gone);
  const second = driver.scanTarget(gone.target);
  await settle(200);
  answer();
  await Promise.all([first, second]);
  expect(driver.unit(gone)).toBeUndefined();
  await expect(driver.scanTarget(256)).rejects.toThrow("256 is not from 0 to 255");
  await driver.close();
});

test("more units than fit a first list are found", async () => {
  const many = Array.from({ length: 200 }, (_, lun) => ({ target: 3, lun: lun * 3 }));
  const host = new TestHost(many);
  writeLe16(host.configBytes, CONFIG.max_target, 3);
  const driver = await ScsiDriver.open(new Loopback(host));
  expect((await driver.scan()).map(({ lun }) => lun)).toEqual(many.map(({ lun }) => lun));
  await driver.close();
});

function abortable(): { signal: AbortSignal; abort: (reason: Error) => void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: (reason) => controller.abort(reason) };
}
