import assert from "node:assert/strict";
import fc from "fast-check";
import { VirtioFault } from "virtio/fault";
import type { CreateDriverQueue } from "./conformance/driver-queue.ts";
import { loadClauses } from "./oracles.ts";
import { buffers, createWorld, shapes } from "./ring/history.ts";
import { areaSizes, type RingShape } from "./ring/place.ts";
import type { Element } from "./ring/raw.ts";

/**
 * Fuzzing of a driver queue: a device that writes what it likes into everything it can write. Whatever happens, the
 * driver gets back a chain that it offered, once, with no more bytes than it offered, or a VirtioFault.
 */

type Act =
  | { readonly do: "add"; readonly elements: readonly Element[] }
  | { readonly do: "write"; readonly at: number; readonly value: number; readonly id: number }
  | { readonly do: "flush" | "pop" | "on" | "off" };

const acts = (size: number): fc.Arbitrary<Act[]> =>
  fc.array(
    fc.oneof(
      {
        weight: 3,
        arbitrary: fc.record({ do: fc.constant("add" as const), elements: buffers(Math.min(size, 4)) }),
      },
      {
        weight: 6,
        arbitrary: fc.record({
          do: fc.constant("write" as const),
          at: fc.nat(8 * size + 4),
          value: fc.oneof(
            fc.integer({ min: 0, max: size }),
            fc.constantFrom(0x80, 0x8000, 0x8080, 0x8082, 0xffff),
            fc.nat(0xffff),
          ),
          id: fc.nat(size),
        }),
      },
      { weight: 6, arbitrary: fc.record({ do: fc.constantFrom("pop" as const) }) },
      {
        weight: 3,
        arbitrary: fc.record({ do: fc.constantFrom("flush" as const, "on" as const, "off" as const) }),
      },
    ),
    { maxLength: 120, size: "max" },
  );

const known = new Set(loadClauses().map((record) => record.id));

/** Throws when an outcome is anything but offered chains and faults. Returns how it ended. */
function runActs(create: CreateDriverQueue, shape: RingShape, list: readonly Act[]): string {
  const { memory, config } = createWorld(shape);
  const queue = create(memory, config, shape.packed);
  const offered = new Map<number, number>();
  const sizes = areaSizes(shape);
  let chains = 0;
  const run = (act: Act): void => {
    switch (act.do) {
      case "add": {
        const writable = act.elements.filter((element) => element.writable);
        const token = queue.addAvailable(
          act.elements.filter((element) => !element.writable),
          writable,
        );
        if (token === undefined) return;
        assert.ok(!offered.has(token), "a token names one chain at a time");
        offered.set(
          token,
          writable.reduce((sum, { length }) => sum + length, 0),
        );
        return;
      }
      case "write": {
        // Split: flags, idx and elements of the used ring. Packed: id and flags of a descriptor, mostly those together.
        if (!shape.packed)
          return memory.set16(config.deviceArea + 2 * (act.at % (sizes.device / 2)), act.value);
        const descriptor = config.descriptorArea + 16 * (act.at % shape.size);
        memory.set16(descriptor + 12, act.id);
        memory.set16(descriptor + 14, act.value);
        return;
      }
      case "pop": {
        const used = queue.popUsed();
        if (used === undefined) return;
        const most = offered.get(used.token);
        assert.notEqual(most, undefined, "a chain that was offered, and not given back before");
        assert.ok(used.written >= 0 && used.written <= (most ?? 0), "no more bytes than were offered");
        offered.delete(used.token);
        chains++;
        return;
      }
      case "flush":
        return void queue.takeNotification();
      case "on":
      case "off":
        return void queue.setNotifications(act.do === "on");
    }
  };
  try {
    for (const act of list) {
      run(act);
      assert.ok(queue.free >= 0 && queue.free <= shape.size, "descriptors are neither lost nor made");
    }
  } catch (error) {
    if (!(error instanceof VirtioFault)) throw error;
    assert.ok(known.has(error.clause), `no clause ${error.clause}`);
    assert.equal(error.queue, shape.index, "a fault names its queue");
    return error.clause;
  }
  return chains > 0 ? "chains" : "nothing";
}

/** Fuzzes both formats. Returns how often each outcome came. */
export function fuzzDriverQueue(create: CreateDriverQueue, runs: number, seed?: number): Map<string, number> {
  const outcomes = new Map<string, number>();
  for (const packed of [false, true]) {
    const input = shapes(packed, 16).chain((shape) => fc.tuple(fc.constant(shape), acts(shape.size)));
    fc.assert(
      fc.property(input, ([shape, list]) => {
        const outcome = runActs(create, shape, list);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }),
      { numRuns: runs, ...(seed === undefined ? {} : { seed }) },
    );
  }
  return outcomes;
}
