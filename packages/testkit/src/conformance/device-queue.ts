import assert from "node:assert/strict";
import fc from "fast-check";
import type { GuestMemory, Segment } from "virtio/memory/guest-memory";
import type { DescriptorChain, DeviceQueue, QueueConfig, QueueState } from "virtio/virtqueue/types";
import {
  buffers,
  createRawDriver,
  createWorld,
  shapes,
  starts,
  stateAt,
  type RingWorld,
} from "../ring/history.ts";
import { areaSizes, type RingShape } from "../ring/place.ts";
import type { Element, RawDriver } from "../ring/raw.ts";
import type { ConformanceCase } from "./case.ts";

/** The implementation under test. `state` is absent for a fresh ring. */
export type CreateDeviceQueue = (
  memory: GuestMemory,
  config: QueueConfig,
  packed: boolean,
  state?: QueueState,
) => DeviceQueue;

/** One step of a history. Numbers pick among what is there; a step that makes no sense at its time does nothing. */
type Step =
  | {
      readonly do: "offer";
      readonly elements: readonly Element[];
      readonly directBefore: number;
      readonly flag: boolean;
    }
  | { readonly do: "publish" | "pop" | "flush" | "collect" | "move" | "unpop" | "restart" }
  | { readonly do: "use"; readonly pick: number; readonly part: number }
  | { readonly do: "listen"; readonly on: boolean }
  | { readonly do: "want"; readonly on: boolean; readonly at: number };

interface Offered {
  readonly token: number;
  readonly elements: readonly Element[];
}

interface Popped extends Offered {
  readonly chain: DescriptorChain;
  written: number | undefined;
}

function steps(shape: RingShape): fc.Arbitrary<Step[]> {
  const step = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constant("offer" as const),
        elements: buffers(Math.min(shape.size, 8)),
        directBefore: shape.indirect === true ? fc.integer({ min: 0, max: 8 }) : fc.constant(8),
        flag: fc.boolean(),
      }),
    },
    { weight: 5, arbitrary: fc.record({ do: fc.constantFrom("publish" as const) }) },
    { weight: 8, arbitrary: fc.record({ do: fc.constantFrom("pop" as const) }) },
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constant("use" as const),
        pick: fc.nat(50),
        part: fc.integer({ min: 0, max: 8 }).map((eighths) => eighths / 8),
      }),
    },
    { weight: 5, arbitrary: fc.record({ do: fc.constantFrom("flush" as const) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("collect" as const) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("listen" as const), on: fc.boolean() }) },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant("want" as const), on: fc.boolean(), at: fc.nat(4) }),
    },
    {
      weight: 6,
      arbitrary: fc.record({ do: fc.constantFrom("move" as const, "unpop" as const, "restart" as const) }),
    },
  );
  return fc.array(step, { minLength: 1, maxLength: 100, size: "max" });
}

/** A device queue, a naive driver, and what must be true between them. */
class History {
  readonly #world: RingWorld;
  readonly #driver: RawDriver;
  readonly #create: CreateDeviceQueue;
  #device: DeviceQueue;
  #unpublished: Offered[] = [];
  readonly #available: Offered[] = [];
  readonly #popped: Popped[] = [];
  /** The chain popped last of all, while it is in flight. */
  #newest: Popped | undefined;
  /** Used, in the order the driver must see them; staged first, then published. */
  #staged: Popped[] = [];
  #published: Popped[] = [];
  /** The device asked for a notification and was told that nothing is there. */
  #armed = false;
  #quiet = false;
  readonly #written = new Set<number>();

  constructor(create: CreateDeviceQueue, shape: RingShape, start: number) {
    this.#create = create;
    this.#world = createWorld(shape);
    this.#driver = createRawDriver(this.#world, start);
    this.#device = create(this.#world.memory, this.#world.config, shape.packed, stateAt(start));
  }

  step(step: Step): void {
    switch (step.do) {
      case "offer":
        return this.#offer(step.elements, step.directBefore, step.flag);
      case "publish":
        return this.#publish();
      case "pop":
        return this.#watched(() => this.#pop());
      case "use":
        return this.#watched(() => this.#use(step.pick, step.part));
      case "flush":
        this.#watched(() => this.#flush());
        return this.#checkReported();
      case "collect":
        return this.#collect();
      case "listen":
        return this.#watched(() => this.#listen(step.on));
      case "want":
        return this.#driver.wantNotifications(step.on, step.at);
      case "move":
        return this.#world.memory.move();
      case "unpop":
        return this.#unpop();
      case "restart":
        return this.#restart();
    }
  }

  /** Everything that was ever offered comes back, once. */
  finish(): void {
    this.#publish();
    while (this.#available.length > 0 || this.#popped.length > 0) {
      while (this.#available.length > 0) this.step({ do: "pop" });
      while (this.#popped.some((popped) => popped.written === undefined))
        this.step({ do: "use", pick: 1, part: 0.5 });
    }
    assert.equal(this.#device.popAvailable(), undefined, "the ring is empty");
    assert.equal(this.#device.inFlight, 0, "nothing is in flight");
    this.step({ do: "flush" });
    this.step({ do: "collect" });
    assert.equal(this.#driver.free, this.#world.config.size, "every descriptor is free again");
  }

  #offer(elements: readonly Element[], directBefore: number, writeFlagOnTable: boolean): void {
    const token = this.#driver.offer(elements, { directBefore, writeFlagOnTable });
    if (token !== undefined) this.#unpublished.push({ token, elements });
  }

  #publish(): void {
    const some = this.#unpublished.length > 0;
    this.#available.push(...this.#unpublished);
    this.#unpublished = [];
    const due = this.#driver.publish();
    if (some && this.#armed) assert.ok(due, "a device that waits must be notified: lost wake-up");
    if (this.#quiet) assert.ok(!due, "a device that asked for silence gets none");
    if (due && this.#world.config.eventIdx === true) this.#armed = false;
  }

  #pop(): void {
    const chain = this.#device.popAvailable();
    const expected = this.#available.shift();
    if (expected === undefined) return assert.equal(chain, undefined, "nothing was made available");
    assert.ok(chain !== undefined, "a chain was made available");
    assert.equal(chain.token, expected.token, "in the order they were made available");
    this.#compare("readable", chain.readable, chain.readableLength, expected);
    this.#compare("writable", chain.writable, chain.writableLength, expected);
    this.#newest = { ...expected, chain, written: undefined };
    this.#popped.push(this.#newest);
    assert.equal(this.#device.inFlight, this.#popped.length, "inFlight");
  }

  #use(pick: number, part: number): void {
    const candidates = this.#popped.filter((popped) => popped.written === undefined);
    const popped = candidates[pick % candidates.length];
    if (popped === undefined) return;
    popped.written = Math.floor(part * popped.chain.writableLength);
    this.#device.addUsed(popped.chain, popped.written);
    if (this.#world.config.inOrder !== true) this.#stage(this.#popped.indexOf(popped));
    else while (this.#popped[0]?.written !== undefined) this.#stage(0);
  }

  #stage(at: number): void {
    this.#staged.push(...this.#popped.splice(at, 1));
  }

  #flush(): void {
    const due = this.#driver.notificationDue(this.#staged.map(({ token }) => token));
    assert.equal(this.#device.takeNotification(), due, "used buffer notification");
    this.#published.push(...this.#staged);
    this.#staged = [];
    assert.equal(this.#device.takeNotification(), false, "nothing more to tell");
  }

  #collect(): void {
    const used = this.#driver.collect();
    const expected = this.#published;
    this.#published = [];
    assert.deepEqual(
      used.map(({ token }) => token),
      expected.map(({ token }) => token),
      "used buffers, in the order of their use",
    );
    used.forEach(({ written }, i) => {
      // In order, an element may stand for buffers before it, which the driver takes for used completely.
      if (written !== undefined) assert.equal(written, expected[i]?.written, "used length");
    });
  }

  #listen(on: boolean): void {
    const more = this.#device.setNotifications(on);
    assert.equal(more, on && this.#available.length > 0, "chains are there already");
    this.#armed = on && !more;
    // With the event index there is no way to say "never".
    this.#quiet = !on && (this.#world.shape.packed || this.#world.config.eventIdx !== true);
  }

  #unpop(): void {
    const newest = this.#newest;
    if (newest === undefined || newest.written !== undefined) return;
    this.#newest = undefined;
    this.#popped.pop();
    this.#device.unpop(newest.chain);
    this.#available.unshift({ token: newest.token, elements: newest.elements });
  }

  /** Saved at rest, and created again from what came out. */
  #restart(): void {
    while (this.#popped.some((popped) => popped.written === undefined))
      this.step({ do: "use", pick: 0, part: 1 });
    this.step({ do: "flush" });
    const { memory, config, shape } = this.#world;
    const state: unknown = JSON.parse(JSON.stringify(this.#device.save()));
    this.#device = this.#create(memory, config, shape.packed, state as QueueState);
    this.#armed = this.#quiet = false;
    this.#newest = undefined;
  }

  #compare(
    kind: "readable" | "writable",
    found: readonly Segment[],
    length: number,
    expected: Offered,
  ): void {
    const elements = expected.elements.filter((element) => element.writable === (kind === "writable"));
    const pieces = (list: readonly Segment[]): Segment[] =>
      list.flatMap((segment) => this.#pieces(segment)).filter((segment) => segment.length > 0);
    assert.deepEqual(pieces(found), pieces(elements), `${kind} segments`);
    for (const { gpa, length: each } of found)
      assert.equal(this.#world.memory.contiguous(gpa, each), each, "a segment lies in one region");
    assert.equal(
      length,
      elements.reduce((sum, element) => sum + element.length, 0),
      `${kind} length`,
    );
  }

  #pieces({ gpa, length }: Segment): Segment[] {
    const first = this.#world.memory.contiguous(gpa, length);
    if (first === length) return [{ gpa, length }];
    return [{ gpa, length: first }, ...this.#pieces({ gpa: gpa + first, length: length - first })];
  }

  /** Nothing but the device's own part of the ring changes. */
  #watched(action: () => void): void {
    const { memory, config, shape } = this.#world;
    const before = memory.snapshot();
    action();
    const sizes = areaSizes(shape);
    for (const gpa of memory.changedSince(before)) {
      const own = inside(gpa, config.deviceArea, sizes.device);
      const descriptor = inside(gpa, config.descriptorArea, sizes.descriptor);
      assert.ok(own || (shape.packed && descriptor), `the device wrote at ${gpa}, which is not its to write`);
      this.#written.add(gpa);
    }
  }

  /** The memory heard of every byte that the device wrote, when the driver can see it. */
  #checkReported(): void {
    const reported = this.#world.memory.takeReported();
    for (const gpa of this.#written)
      assert.ok(
        reported.some((range) => inside(gpa, range.gpa, range.length)),
        `the write at ${gpa} was not reported`,
      );
    this.#written.clear();
  }
}

function inside(gpa: number, start: number, length: number): boolean {
  return gpa >= start && gpa < start + length;
}

const SPLIT = [
  "dev.split.framing",
  "dev.split.desc",
  "dev.split.indirect",
  "dev.split.used",
  "dev.split.used-notify",
  "dev.split.avail-notify",
];
const PACKED = ["dev.packed.layout", "dev.packed.desc", "dev.packed.sg"];

/** Cases that every device side of a virtqueue must pass. `runs` is the number of random histories of each kind. */
export function deviceQueueCases(create: CreateDeviceQueue, runs = 100): ConformanceCase[] {
  return [false, true].map((packed) => ({
    clauses: packed ? PACKED : SPLIT,
    title: `any history of a ${packed ? "packed" : "split"} virtqueue: chains in order, used once, nobody sleeps for ever`,
    run: () => {
      const histories = shapes(packed, 16).chain((shape) =>
        fc.tuple(fc.constant(shape), starts(shape), steps(shape)),
      );
      fc.assert(
        fc.property(histories, ([shape, start, list]) => {
          const history = new History(create, shape, start);
          for (const step of list) history.step(step);
          history.finish();
        }),
        { numRuns: runs },
      );
    },
  }));
}
