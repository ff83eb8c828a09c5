import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { DeviceInstanceState } from "../../src/device/state.ts";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_SUSPEND,
  featureBits,
} from "../../src/spec/core.ts";
import {
  ACKNOWLEDGE,
  DRIVER,
  DRIVER_OK,
  FEATURES_OK,
  MODERN,
  NEEDS_RESET,
  Rig,
  RUNNING,
  settle,
  SUSPEND,
} from "./rig.ts";

const FORMATS: [string, bigint][] = [
  ["split", MODERN | featureBits(VIRTIO_F_SUSPEND)],
  ["packed with EVENT_IDX", MODERN | featureBits(VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX, VIRTIO_F_SUSPEND)],
];

/** As a file would carry it. */
function copy(state: DeviceInstanceState): unknown {
  return JSON.parse(JSON.stringify(state));
}

/** The same guest (memory and driver) on another device instance. */
function moveTo(old: Rig, state: unknown): Rig {
  const rig = new Rig({ memory: old.memory });
  rig.driver = old.driver;
  rig.instance.restore(state);
  return rig;
}

describe.each(FORMATS)("save and restore, %s", (_name, features) => {
  test("a running device goes on where it stood", async () => {
    let rig = new Rig();
    rig.start(features);
    // Past the end of the ring, so that indexes and wrap counters matter.
    for (let round = 0; round < 21; round++) {
      const token = rig.offer();
      rig.device.requests.at(-1)?.done(round % 16);
      await settle();
      expect(rig.used()).toEqual([{ token, written: round % 16 }]);
      await rig.instance.pause();
      if (round % 5 === 0) rig = moveTo(rig, copy(rig.instance.save()));
      rig.instance.resume();
      expect(rig.status).toBe(RUNNING);
    }
    expect(rig.faults).toEqual([]);
  });

  test("requests in flight are finished first, and what comes meanwhile is served after the restore", async () => {
    const rig = new Rig();
    rig.start(features);
    const first = rig.offer();
    const pause = rig.instance.pause();
    const second = rig.offer();
    rig.device.requests[0]?.done(1);
    await pause;
    const next = moveTo(rig, copy(rig.instance.save()));
    expect(next.device.calls).toEqual(["reset", "restore", "activate"]);
    expect(next.device.requests).toHaveLength(0);
    next.instance.resume();
    next.device.requests[0]?.done(2);
    await settle();
    expect(next.used()).toEqual([
      { token: first, written: 1 },
      { token: second, written: 2 },
    ]);
  });

  test("what the driver does not know yet is told after the restore", async () => {
    const rig = new Rig();
    rig.start(features);
    await rig.instance.pause();
    rig.notifications.length = 0;
    rig.device.context?.configChanged();
    expect(rig.notifications).toEqual([]);
    const { generation } = rig.instance;
    const next = moveTo(rig, copy(rig.instance.save()));
    expect(next.instance.generation).toBe(generation);
    next.instance.resume();
    expect(next.notifications).toContain("config");
  });

  test(clause("dev.core.suspend", "a suspended device is restored suspended, and resumes"), async () => {
    const rig = new Rig();
    rig.start(features);
    rig.set(SUSPEND);
    await rig.instance.pause();
    const next = moveTo(rig, copy(rig.instance.save()));
    next.instance.resume();
    expect(next.status).toBe((RUNNING & ~DRIVER_OK) | SUSPEND);
    next.device.serve = () => 4;
    const before = next.memory.snapshot();
    next.instance.notify(0);
    expect(next.memory.changedSince(before)).toEqual([]);
    next.set(DRIVER_OK);
    const token = next.offer();
    expect(next.used()).toEqual([{ token, written: 4 }]);
  });

  test("a device in the middle of its initialisation goes on with it", async () => {
    const rig = new Rig();
    rig.negotiate(features);
    rig.enable();
    await rig.instance.pause();
    const next = moveTo(rig, copy(rig.instance.save()));
    next.instance.resume();
    expect(next.device.calls).not.toContain("activate");
    next.device.serve = () => 1;
    next.set(DRIVER_OK);
    next.offer();
    expect(next.used()).toHaveLength(1);
  });

  test("a device that needs a reset still does", async () => {
    const rig = new Rig();
    rig.start(features);
    rig.offer([{ gpa: 0x7000_0000, length: 4, writable: true }]);
    await rig.instance.pause();
    const next = moveTo(rig, copy(rig.instance.save()));
    next.instance.resume();
    expect(next.status & NEEDS_RESET).toBe(NEEDS_RESET);
    next.instance.notify(0);
    next.instance.writeStatus(0);
    next.driver = [];
    next.device.serve = () => 1;
    next.start(features);
    next.offer();
    expect(next.used()).toHaveLength(1);
  });

  test("any state is adopted whole or refused, and then the device is reset", async () => {
    const rig = new Rig();
    rig.start(features);
    for (let i = 0; i < 3; i++) {
      rig.offer();
      rig.device.requests.at(-1)?.done(1);
    }
    await settle();
    await rig.instance.pause();
    const good = rig.instance.save();
    const paths = leaves(good);
    const change = fc.record({ path: fc.constantFrom(...paths), value: hostileValue });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
        const state = copy(good);
        for (const { path, value } of changes) put(state, path, value);
        check(rig, state);
      }),
      { numRuns: 2000 },
    );
  });
});

/** Restores into a fresh instance and looks at what came of it. */
function check(old: Rig, state: unknown): void {
  const rig = new Rig({ memory: old.memory });
  rig.device.serve = () => 1;
  let refused: unknown;
  try {
    rig.instance.restore(state);
  } catch (error) {
    refused = error;
  }
  const { instance } = rig;
  if (refused !== undefined) {
    expect(refused).toBeInstanceOf(Error);
    expect((refused as Error).message).not.toMatch(/is not a function|Cannot read|properties of/);
    expect(rig.status).toBe(0);
    expect(instance.driverFeatures).toBe(0n);
    expect([0, 1].map((index) => instance.queue(index)?.enabled)).toEqual([false, false]);
    expect(rig.notifications).toEqual([]);
    // And it can be used.
    instance.resume();
    rig.start();
    rig.offer([{ gpa: 0x10_0000, length: 4, writable: true }]);
    expect(rig.used()).toHaveLength(1);
    return;
  }
  const { status } = rig;
  expect(status & (DRIVER_OK | SUSPEND)).not.toBe(DRIVER_OK | SUSPEND);
  if ((status & DRIVER_OK) !== 0 && !instance.legacy) expect(status & FEATURES_OK).toBe(FEATURES_OK);
  if ((status & FEATURES_OK) !== 0 && !instance.legacy) expect(instance.driverFeatures & MODERN).toBe(MODERN);
  expect(instance.driverFeatures & 0b11n).not.toBe(0b10n);
  instance.resume();
  instance.notify(0);
  instance.notify(1);
  rig.set(SUSPEND);
  rig.set(DRIVER_OK);
  instance.writeStatus(0);
  expect(rig.status).toBe(0);
}

const hostileValue: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    false,
    "",
    "0",
    "ffffffff",
    [],
    {},
    -1,
    0.5,
    2 ** 53,
    Infinity,
    NaN,
    "__missing",
  ),
  fc.integer({ min: 0, max: 0xffff }),
  fc.integer({ min: 0, max: 255 }),
  fc.constantFrom("1", "100000000", "100000002", "500000000", "40500000000", "100000003"),
);

/** Paths to everything in a plain value, the inner nodes too. */
function leaves(value: unknown, path: readonly string[] = []): (readonly string[])[] {
  if (typeof value !== "object" || value === null) return [path];
  const inner = Object.entries(value).flatMap(([key, child]) => leaves(child, [...path, key]));
  return path.length === 0 ? inner : [path, ...inner];
}

function put(state: unknown, path: readonly string[], value: unknown): void {
  let at = state;
  for (const key of path.slice(0, -1)) {
    if (typeof at !== "object" || at === null) return;
    at = (at as Record<string, unknown>)[key];
  }
  const last = path.at(-1);
  if (typeof at !== "object" || at === null || last === undefined) return;
  if (value === "__missing") Reflect.deleteProperty(at, last);
  else (at as Record<string, unknown>)[last] = value;
}

describe("save and restore", () => {
  test("save wants a pause, and chains given back", async () => {
    const rig = new Rig();
    rig.start();
    expect(() => rig.instance.save()).toThrow(/pause before save/);
    rig.offer(undefined, 1);
    const queue = rig.device.context?.queue(1);
    const chain = queue?.popAvailable();
    await rig.instance.pause();
    expect(() => rig.instance.save()).toThrow(/1 chains of virtqueue 1 are not given back/);
    if (chain !== undefined) queue?.unpop(chain);
    expect(rig.instance.save().queues[1]?.ring).toEqual({ nextAvailable: 0, nextUsed: 0 });
  });

  test("what the device type saved goes through, and what it refuses refuses all", async () => {
    const rig = new Rig();
    rig.start();
    await rig.instance.pause();
    rig.device.saved = { probe: 2 };
    const state = copy(rig.instance.save());
    const next = new Rig({ memory: rig.memory });
    expect(() => next.instance.restore(state)).toThrow(/not a probe's state/);
    expect(next.status).toBe(0);
    expect(next.device.calls).not.toContain("activate");
  });

  test("a refused state leaves a device reset whose reset takes its time", async () => {
    const rig = new Rig();
    rig.start();
    rig.device.onReset = () => Promise.resolve();
    expect(() => rig.instance.restore({ version: 0 })).toThrow(/version 0/);
    expect(rig.status).toBe(0);
    await settle();
    expect(rig.status).toBe(0);
  });

  test("a state of version 1 is restored: areas were numbers, and what was set up followed from the status", async () => {
    const rig = new Rig();
    rig.start();
    rig.device.serve = () => 2;
    for (let i = 0; i < 11; i++) {
      rig.offer();
      rig.used();
    }
    await rig.instance.pause();
    const { active: _, version: __, ...rest } = rig.instance.save();
    const number = (hexadecimal: string): number => parseInt(hexadecimal, 16);
    const old = {
      ...rest,
      version: 1,
      queues: rest.queues.map((queue) => ({
        ...queue,
        descriptorArea: number(queue.descriptorArea),
        driverArea: number(queue.driverArea),
        deviceArea: number(queue.deviceArea),
      })),
    };
    const next = moveTo(rig, JSON.parse(JSON.stringify(old)));
    expect(next.instance.save()).toEqual(rig.instance.save());
    next.instance.resume();
    next.device.serve = () => 5;
    const token = next.offer();
    expect(next.used()).toEqual([{ token, written: 5 }]);
  });

  test(
    clause(
      "dev.core.features",
      "registers that no device would take are saved to the bit, for they are not judged yet",
    ),
    async () => {
      const rig = new Rig();
      rig.set(ACKNOWLEDGE);
      rig.set(DRIVER);
      rig.accept(2n ** 128n - 1n);
      rig.set(FEATURES_OK);
      expect(rig.status & FEATURES_OK).toBe(0);
      const queue = rig.instance.queue(1);
      if (queue === undefined) throw new Error("no queue");
      queue.size = 0x1_0000;
      for (const area of ["descriptorArea", "driverArea", "deviceArea"] as const) {
        queue.setArea(area, "low", 0xdead_beef);
        queue.setArea(area, "high", 0xffff_ffff);
      }
      await rig.instance.pause();
      const next = moveTo(rig, copy(rig.instance.save()));
      expect(next.instance.save()).toEqual(rig.instance.save());
      expect(next.instance.driverFeatures).toBe(2n ** 128n - 1n);
      expect(next.instance.queue(1)?.size).toBe(0x1_0000);
      expect(next.instance.queue(1)?.readArea("driverArea", "low")).toBe(0xdead_beef);
    },
  );

  test("a state of another type, or with other virtqueues, is refused", async () => {
    const rig = new Rig();
    rig.start();
    await rig.instance.pause();
    const state = rig.instance.save();
    for (const [bad, message] of [
      [{ ...state, id: 5 }, /id 5 is not 4/],
      [{ ...state, version: 3 }, /version 3 is neither 1 nor 2/],
      [{ ...state, queues: state.queues.slice(1) }, /2 virtqueues/],
      [{ ...state, features: "80000000000000000" }, /not offered/],
      [{ ...state, active: "8000000000000000" }, /not offered/],
      [{ ...state, active: "100000001" }, /other features than were accepted/],
      [{ ...state, status: 3 }, /live without FEATURES_OK/],
      [{ ...state, active: null }, /not set up/],
      [
        { ...state, status: 11, queues: state.queues.map((queue) => ({ ...queue, size: 3 })) },
        /Queue Size 3/,
      ],
    ] as const)
      expect(() => new Rig({ memory: rig.memory }).instance.restore(bad)).toThrow(message);
  });
});
