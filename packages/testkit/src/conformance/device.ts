import assert from "node:assert/strict";
import fc from "fast-check";
import type { VirtioDevice } from "virtio/device/device";
import { DEVICE_TYPE_FEATURES } from "virtio/device/features";
import { loadClauses, loadFeatures } from "../oracles.ts";
import type { Element } from "../ring/raw.ts";
import type { ConformanceCase } from "./case.ts";
import { BUFFERS, BUFFERS_LENGTH, DeviceRig, STATUS, turns } from "./device-rig.ts";

/** A fresh device of the type under test, on a backend of its own. */
export type CreateDevice = () => VirtioDevice;

interface Offer {
  readonly queue: number;
  readonly elements: readonly Element[];
  readonly bytes: Uint8Array;
}

/** Buffers do not overlap: element number n lies in slot n of the buffer memory, which has room for all. */
const SLOT = 1024;
const MOST_OFFERS = Math.floor(BUFFERS_LENGTH / SLOT / 6);

const offers: fc.Arbitrary<Offer[]> = fc.array(
  fc
    .record({
      queue: fc.nat(9),
      readable: fc.array(fc.nat(300), { maxLength: 3 }),
      writable: fc.array(fc.nat(600), { maxLength: 3 }),
      bytes: fc.oneof(
        fc.uint8Array({ minLength: 64, maxLength: 64 }),
        // Small numbers reach further into any parser.
        fc
          .array(fc.integer({ min: 0, max: 3 }), { minLength: 64, maxLength: 64 })
          .map((list) => Uint8Array.from(list)),
      ),
    })
    .filter(({ readable, writable }) => readable.length + writable.length > 0)
    .map(({ queue, readable, writable, bytes }) => ({
      queue,
      bytes,
      elements: [
        ...readable.map((length) => ({ gpa: 0, length, writable: false })),
        ...writable.map((length) => ({ gpa: 0, length, writable: true })),
      ],
    })),
  { minLength: 1, maxLength: MOST_OFFERS, size: "max" },
);

/** Offers them one after the other, each in memory of its own. */
function offerAll(rig: DeviceRig, list: readonly Offer[]): void {
  let slot = 0;
  for (const { queue, elements, bytes } of list) {
    const placed = elements.map((element) => ({
      ...element,
      gpa: BUFFERS + slot++ * SLOT,
    }));
    for (const { gpa, length, writable } of placed)
      if (!writable && length > 0) rig.memory.poke(gpa, bytes.subarray(0, Math.min(length, bytes.length)));
    rig.offer(queue % Math.max(1, rig.drivers.length), placed);
  }
}

const clauses = loadClauses();

/** No fault that is the host's own, and none without a place. */
function checkFaults(rig: DeviceRig): void {
  for (const fault of rig.faults) {
    assert.notEqual(fault.clause, "host.bug", `the device's handler failed: ${fault.message}`);
    const area = fault.clause.split(".")[1] ?? "";
    const known = clauses.some(({ id }) => id === fault.clause);
    // 9p has no text in the spec, and no clauses.
    assert.ok(known || !clauses.some((record) => record.area === area), `no clause ${fault.clause}`);
  }
  const needsReset = (rig.instance.status & STATUS.needsReset) !== 0;
  assert.equal(rig.faults.length > 0, needsReset, "a fault and DEVICE_NEEDS_RESET come together");
}

/** Cases that a device of any type must pass. `runs` is the number of random histories of each kind. */
export function deviceCases(create: CreateDevice, runs = 30): ConformanceCase[] {
  const both = [false, true].flatMap((packed) => [
    traffic(create, packed, runs),
    reset(create, packed, runs),
  ]);
  return [shape(create), negotiation(create), configuration(create, runs), ...both, savedState(create, runs)];
}

function shape(create: CreateDevice): ConformanceCase {
  return {
    clauses: ["dev.core.features"],
    title: "offers what the spec has for its type, and virtqueues that can be",
    run: () => {
      const device = create();
      assert.equal(device.features & ~DEVICE_TYPE_FEATURES, 0n, "only feature bits of device types");
      const known = loadFeatures().filter(({ area }) => area === device.name);
      // A type without a text (9p) has none in the oracle.
      if (known.length > 0)
        for (let bit = 0; bit < 128; bit++)
          if (((device.features >> BigInt(bit)) & 1n) === 1n)
            assert.ok(
              known.some((feature) => feature.bit === bit),
              `feature bit ${bit} is in the spec`,
            );
      const names = device.queues.map((queue) => queue.name);
      assert.equal(new Set(names).size, names.length, "virtqueues have different names");
      for (const { name, maxSize } of device.queues)
        assert.ok(
          maxSize >= 1 && maxSize <= 32_768 && (maxSize & (maxSize - 1)) === 0,
          `${name}: a Queue Size`,
        );
    },
  };
}

function negotiation(create: CreateDevice): ConformanceCase {
  return {
    clauses: ["dev.core.features"],
    title: "any subset of the features sticks or is refused; the whole and the least stick, again and again",
    run: () => {
      const rig = new DeviceRig(create(), false);
      const { offered } = rig.instance;
      const types = offered & DEVICE_TYPE_FEATURES;
      const accepts = (features: bigint): boolean => {
        rig.instance.writeStatus(0);
        return rig.negotiate(features);
      };
      for (let round = 0; round < 2; round++) {
        assert.ok(accepts(offered), "all that is offered");
        assert.ok(accepts(offered & ~types), "nothing of the type's own");
        for (let bit = 0n; bit < 128n; bit++) {
          const without = offered & ~((1n << bit) & types);
          const first = accepts(without);
          assert.equal(accepts(without), first, "the same answer to the same features");
        }
        assert.ok(!accepts(offered | (1n << 49n)), "what was not offered");
      }
    },
  };
}

function configuration(create: CreateDevice, runs: number): ConformanceCase {
  return {
    clauses: ["dev.core.config"],
    title: "configuration is readable from the start, and takes any access of any width at any time",
    run: () => {
      const access = fc.record({
        offset: fc.oneof(fc.nat(300), fc.nat(2 ** 31 - 1)),
        size: fc.constantFrom(1 as const, 2 as const, 4 as const),
        value: fc.nat(),
        write: fc.boolean(),
      });
      fc.assert(
        fc.property(fc.array(access, { maxLength: 60, size: "max" }), fc.boolean(), (list, live) => {
          const rig = new DeviceRig(create(), false);
          const { instance } = rig;
          const whole = new Uint8Array(instance.configLength);
          instance.readConfigBytes(0, whole);
          if (live) rig.start();
          for (const { offset, size, value, write } of list) {
            if (write) instance.writeConfig(offset, size, value);
            const found = instance.readConfig(offset, size);
            assert.ok(found >= 0 && found < 2 ** (8 * size), "a read fits its width");
            if (offset >= instance.configLength) assert.equal(found, 0, "beyond the end is 0");
          }
          checkFaults(rig);
        }),
        { numRuns: runs },
      );
    },
  };
}

function traffic(create: CreateDevice, packed: boolean, runs: number): ConformanceCase {
  return {
    clauses: [packed ? "dev.packed.desc" : "dev.split.desc", "dev.core.status"],
    title: `any buffers on any virtqueue (${packed ? "packed" : "split"}) end in an answer or a fault; only writable ones change`,
    run: () =>
      fc.assert(
        fc.asyncProperty(offers, async (list) => {
          const rig = new DeviceRig(create(), packed);
          rig.start();
          offerAll(rig, list);
          await turns();
          checkReadable(rig, list);
          for (const driver of rig.drivers) driver.collect();
          checkFaults(rig);
        }),
        { numRuns: runs },
      ),
  };
}

/** Readable buffers still hold what the driver wrote. */
function checkReadable(rig: DeviceRig, list: readonly Offer[]): void {
  const all = list.flatMap(({ elements, bytes }) => elements.map((element) => ({ ...element, bytes })));
  all.forEach(({ length, writable, bytes }, slot) => {
    if (writable) return;
    const expected = bytes.subarray(0, Math.min(length, bytes.length));
    const found = rig.memory.peek(BUFFERS + slot * SLOT, expected.length);
    assert.deepEqual([...found], [...expected], "a readable buffer was written");
  });
}

function reset(create: CreateDevice, packed: boolean, runs: number): ConformanceCase {
  return {
    clauses: ["dev.core.reset"],
    title: `after a reset in the middle of traffic (${packed ? "packed" : "split"}) nothing is touched, and it starts again`,
    run: () =>
      fc.assert(
        fc.asyncProperty(offers, async (list) => {
          const rig = new DeviceRig(create(), packed);
          rig.start();
          offerAll(rig, list);
          rig.instance.writeStatus(0);
          for (let i = 0; rig.instance.status !== 0; i++) {
            assert.ok(i < 1000, "a reset ends");
            await turns(1);
          }
          const { notifications } = rig;
          const before = rig.memory.snapshot();
          await turns();
          assert.deepEqual(rig.memory.changedSince(before), [], "memory is the driver's again");
          assert.equal(rig.notifications, notifications, "no notification after a reset");
          rig.faults.length = 0;
          rig.start();
          await turns(1);
          checkFaults(rig);
        }),
        { numRuns: runs },
      ),
  };
}

function savedState(create: CreateDevice, runs: number): ConformanceCase {
  return {
    clauses: ["dev.core.status"],
    title: "what it saves it restores; any other state is adopted whole or refused with an error",
    run: () =>
      fc.assert(
        fc.asyncProperty(
          offers,
          fc.array(fc.tuple(fc.nat(1000), hostile), { maxLength: 3 }),
          async (list, changes) => {
            const rig = new DeviceRig(create(), false);
            rig.start();
            offerAll(rig, list);
            await turns();
            await rig.instance.pause();
            const state = structuredClone(rig.instance.save());
            const honest = changes.length === 0;
            const device = { part: state.device };
            for (const [pick, value] of changes) mutate(device, pick, value);
            const next = new DeviceRig(create(), false, rig.memory);
            try {
              next.instance.restore({ ...state, device: device.part });
            } catch (error) {
              assert.ok(!honest, `its own state is refused: ${String(error)}`);
              assert.ok(
                error instanceof Error &&
                  !(error instanceof TypeError && /of undefined|not a function/.test(error.message)),
              );
              assert.equal(next.instance.status, 0, "a refused state leaves it reset");
              return;
            }
            next.drivers = rig.drivers;
            next.instance.resume();
            if ((next.instance.status & STATUS.needsReset) === 0) {
              offerAll(next, list);
              await turns();
              checkFaults(next);
            }
            next.instance.writeStatus(0);
          },
        ),
        { numRuns: runs },
      ),
  };
}

const hostile: fc.Arbitrary<unknown> = fc.constantFrom<unknown>(
  null,
  undefined,
  true,
  -1,
  0.5,
  2 ** 53,
  NaN,
  0,
  1,
  65_536,
  "",
  "x".repeat(5000),
  [],
  {},
  new Uint8Array(0),
  new Uint8Array(100_000),
);

/** Puts `value` somewhere into a plain value: `pick` chooses where. */
function mutate(root: Record<string, unknown>, pick: number, value: unknown): void {
  const places: (readonly [Record<string, unknown>, string])[] = [];
  const visit = (node: Record<string, unknown>): void => {
    for (const [key, child] of Object.entries(node)) {
      places.push([node, key]);
      if (typeof child === "object" && child !== null && !ArrayBuffer.isView(child))
        visit(child as Record<string, unknown>);
    }
  };
  visit(root);
  const place = places[pick % places.length];
  if (place !== undefined) place[0][place[1]] = value;
}
