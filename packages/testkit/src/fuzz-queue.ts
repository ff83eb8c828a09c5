import assert from "node:assert/strict";
import fc from "fast-check";
import { VirtioFault } from "virtio/fault";
import type { DescriptorChain, DeviceQueue } from "virtio/virtqueue/types";
import type { CreateDeviceQueue } from "./conformance/device-queue.ts";
import { loadClauses } from "./oracles.ts";
import { areaSizes, type RingShape } from "./ring/place.ts";
import {
  createWorld,
  DATA,
  DATA_LENGTH,
  shapes,
  TABLES,
  TABLES_LENGTH,
  type RingWorld,
} from "./ring/history.ts";

/**
 * Structure-aware fuzzing of a device queue: the areas and the tables hold descriptors that are almost right, and the
 * driver goes on scribbling while the device works. Whatever happens, the outcome is a chain or a VirtioFault, after a
 * bounded number of looks at memory.
 */

/** Half words that matter: around 0, the Queue Size, the flags of both formats, the ends of 16 bits. */
const halfWord = (size: number): fc.Arbitrary<number> =>
  fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: 0, max: size }) },
    {
      weight: 4,
      arbitrary: fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 7, 0x80, 0x81, 0x82, 0x83, 0x84, 0x8000, 0x8001),
    },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
  );

const address: fc.Arbitrary<bigint> = fc.oneof(
  { weight: 10, arbitrary: fc.integer({ min: DATA - 4, max: DATA + DATA_LENGTH + 4 }).map(BigInt) },
  { weight: 5, arbitrary: fc.integer({ min: 0, max: 40 }).map((entry) => BigInt(TABLES + 16 * entry)) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
  { weight: 1, arbitrary: fc.constantFrom(0n, (1n << 53n) - 1n, 1n << 53n, (1n << 64n) - 1n, 1n << 32n) },
);

const length: fc.Arbitrary<number> = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 200 }) },
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 20 }).map((entries) => 16 * entries) },
  { weight: 1, arbitrary: fc.constantFrom(0xffff_ffff, 0x8000_0000, 0xffff_fff0, 4096) },
);

interface Scribble {
  readonly where: "descriptor" | "table" | "driver" | "device";
  readonly at: number;
  readonly addr: bigint;
  readonly len: number;
  readonly low: number;
  readonly high: number;
  /** Packed: flags say "available" in the first lap. Split: `idx` stays near the ring. */
  readonly likely: boolean;
}

const scribble = (size: number): fc.Arbitrary<Scribble> =>
  fc.record({
    where: fc.constantFrom("descriptor", "descriptor", "table", "driver", "device"),
    at: fc.nat(2 * size + 3),
    addr: address,
    len: length,
    low: halfWord(size),
    high: halfWord(size),
    likely: fc.integer({ min: 0, max: 9 }).map((number) => number > 0),
  });

type Act =
  | { readonly do: "scribble"; readonly what: Scribble }
  | { readonly do: "idx"; readonly by: number }
  | { readonly do: "pop" | "flush" | "on" | "off" }
  | { readonly do: "use"; readonly written: number };

const acts = (size: number): fc.Arbitrary<Act[]> =>
  fc.array(
    fc.oneof(
      { weight: 3, arbitrary: fc.record({ do: fc.constant("scribble" as const), what: scribble(size) }) },
      {
        weight: 3,
        arbitrary: fc.record({ do: fc.constant("idx" as const), by: fc.integer({ min: -1, max: 4 }) }),
      },
      { weight: 8, arbitrary: fc.record({ do: fc.constant("pop" as const) }) },
      {
        weight: 3,
        arbitrary: fc.record({ do: fc.constantFrom("flush" as const, "on" as const, "off" as const) }),
      },
      { weight: 5, arbitrary: fc.record({ do: fc.constant("use" as const), written: fc.nat(1000) }) },
    ),
    { maxLength: 60, size: "max" },
  );

function apply(
  { memory, config, shape }: RingWorld,
  { where, at, addr, len, low, high, likely }: Scribble,
): void {
  const { size } = config;
  if (where === "driver" || where === "device") {
    const base = where === "driver" ? config.driverArea : config.deviceArea;
    const words = Math.floor(areaSizes(shape)[where] / 2);
    const isIdx = !shape.packed && where === "driver" && at % words === 1;
    memory.set16(base + 2 * (at % words), isIdx && likely ? low % (size + 1) : low);
    return;
  }
  const table = where === "table" ? TABLES : config.descriptorArea;
  const entry = table + 16 * (where === "table" ? at % (TABLES_LENGTH / 16) : at % size);
  memory.set64(entry, addr);
  memory.set32(entry + 8, len);
  memory.set16(entry + 12, low);
  memory.set16(entry + 14, shape.packed && likely ? (high & ~0x8000) | 0x80 : high);
}

/** How many looks at memory one pop may take: each descriptor is at most a few pieces. */
function mostLooks(size: number): number {
  return 8 * (size + 2);
}

/** Throws when an outcome is anything but chains and faults that say what was wrong. Returns how it ended. */
function runActs(
  create: CreateDeviceQueue,
  shape: RingShape,
  first: readonly Scribble[],
  list: readonly Act[],
): string {
  const world = createWorld(shape);
  first.forEach((what) => apply(world, what));
  const counted = new Proxy(world.memory, {
    get: (target, key) => {
      if (key === "contiguous" || key === "view") looks++;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  let looks = 0;
  let chains = 0;
  try {
    const queue = create(counted, world.config, shape.packed);
    const held: DescriptorChain[] = [];
    for (const act of list) {
      looks = 0;
      chains += runAct(world, queue, held, act);
      assert.ok(looks <= mostLooks(shape.size), `${act.do} looked at memory ${looks} times`);
      assert.ok(
        queue.inFlight <= shape.size,
        `${queue.inFlight} chains in flight in a ring of ${shape.size}`,
      );
    }
  } catch (error) {
    if (!(error instanceof VirtioFault)) throw error;
    checkFault(error, shape);
    return error.clause;
  }
  return chains > 0 ? "chains" : "nothing";
}

function runAct(world: RingWorld, queue: DeviceQueue, held: DescriptorChain[], act: Act): number {
  switch (act.do) {
    case "scribble":
      apply(world, act.what);
      return 0;
    case "idx": {
      const at = world.config.driverArea + 2;
      if (!world.shape.packed) world.memory.set16(at, (world.memory.get16(at) + act.by) & 0xffff);
      return 0;
    }
    case "pop": {
      const chain = queue.popAvailable();
      if (chain === undefined) return 0;
      checkChain(world, chain);
      held.push(chain);
      return 1;
    }
    case "use": {
      const chain = held.pop();
      if (chain !== undefined) queue.addUsed(chain, Math.min(act.written, chain.writableLength));
      return 0;
    }
    case "flush":
      queue.takeNotification();
      return 0;
    case "on":
    case "off":
      queue.setNotifications(act.do === "on");
      return 0;
  }
}

/** What a device relies on when it gets a chain. */
function checkChain({ memory, config }: RingWorld, chain: DescriptorChain): void {
  const segments = [...chain.readable, ...chain.writable];
  assert.ok(segments.length <= 4 * config.size, "a chain has no more pieces than the ring allows");
  for (const { gpa, length: bytes } of segments) assert.equal(memory.view(gpa, bytes).length, bytes);
  const total = (list: readonly { readonly length: number }[]): number =>
    list.reduce((sum, segment) => sum + segment.length, 0);
  assert.equal(total(chain.readable), chain.readableLength);
  assert.equal(total(chain.writable), chain.writableLength);
  assert.ok(chain.readableLength + chain.writableLength <= 2 ** 32);
}

const known = new Set(loadClauses().map((record) => record.id));

function checkFault(fault: VirtioFault, shape: RingShape): void {
  assert.ok(known.has(fault.clause), `a fault names a clause of the spec, not ${fault.clause}`);
  assert.equal(fault.queue, shape.index, "a fault names its queue");
  assert.ok(Number.isFinite(fault.value), "a fault says what was found");
}

/** Fuzzes both formats. Returns how often each outcome came, so that a test can see that the fuzzer reaches things. */
export function fuzzDeviceQueue(create: CreateDeviceQueue, runs: number, seed?: number): Map<string, number> {
  const outcomes = new Map<string, number>();
  for (const packed of [false, true]) {
    const input = shapes(packed, 32).chain((shape) =>
      fc.tuple(
        fc.constant(shape),
        fc.array(scribble(shape.size), { maxLength: 60, size: "max" }),
        acts(shape.size),
      ),
    );
    fc.assert(
      fc.property(input, ([shape, first, list]) => {
        const outcome = runActs(create, shape, first, list);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }),
      { numRuns: runs, ...(seed === undefined ? {} : { seed }) },
    );
  }
  return outcomes;
}
