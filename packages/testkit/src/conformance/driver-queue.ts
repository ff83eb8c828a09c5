import assert from "node:assert/strict";
import fc from "fast-check";
import type { Gpa, GuestMemory } from "virtio/memory/guest-memory";
import type { DriverQueue, QueueConfig } from "virtio/virtqueue/types";
import { buffers, createRawDevice, createWorld, shapes, type RingWorld } from "../ring/history.ts";
import { areaSizes, type RingShape } from "../ring/place.ts";
import type { Element, RawChain, RawDevice } from "../ring/raw.ts";
import type { ConformanceCase } from "./case.ts";

/** Room for indirect tables: one for each descriptor of the ring, `entries` long. */
export interface TableRoom {
  readonly gpa: Gpa;
  readonly entries: number;
}

/** The implementation under test, on zeroed areas. */
export type CreateDriverQueue = (
  memory: GuestMemory,
  config: QueueConfig,
  packed: boolean,
  tables?: TableRoom,
) => DriverQueue;

type Step =
  | { readonly do: "add"; readonly elements: readonly Element[] }
  | { readonly do: "flush" | "take" | "pop" | "move" }
  | { readonly do: "use"; readonly picks: readonly number[]; readonly part: number }
  | { readonly do: "listen" | "want"; readonly on: boolean };

function steps(shape: RingShape): fc.Arbitrary<Step[]> {
  const plain = (weight: number, ...kinds: readonly ("flush" | "take" | "pop" | "move")[]) => ({
    weight,
    arbitrary: fc.record({ do: fc.constantFrom(...kinds) }),
  });
  const toggle = (kind: "listen" | "want") => ({
    weight: 2,
    arbitrary: fc.record({ do: fc.constant(kind), on: fc.boolean() }),
  });
  const part = fc.integer({ min: 0, max: 8 }).map((eighths) => eighths / 8);
  const step = fc.oneof(
    // One more than fits now and then: it must be refused.
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constant("add" as const),
        elements: buffers(Math.min(shape.size + 1, 8)),
      }),
    },
    {
      weight: 7,
      arbitrary: fc.record({
        do: fc.constant("use" as const),
        picks: fc.array(fc.nat(50), { minLength: 1, maxLength: 4 }),
        part,
      }),
    },
    plain(6, "flush"),
    plain(6, "take"),
    plain(10, "pop"),
    plain(2, "move"),
    toggle("listen"),
    toggle("want"),
  );
  return fc.array(step, { minLength: 1, maxLength: 120, size: "max" });
}

interface Added {
  readonly token: number;
  readonly elements: readonly Element[];
}

interface Used {
  readonly token: number;
  readonly written: number;
}

/** A driver queue, a naive device, and what must be true between them. */
class History {
  readonly #world: RingWorld;
  readonly #driver: DriverQueue;
  readonly #device: RawDevice;
  readonly #tables: { readonly gpa: Gpa; readonly length: number };
  readonly #staged: Added[] = [];
  readonly #published: Added[] = [];
  readonly #held: RawChain[] = [];
  readonly #used: Used[] = [];
  /** The driver asked for a notification and was told that nothing is there. */
  #armed = false;
  #quiet = false;

  constructor(create: CreateDriverQueue, shape: RingShape, entries: number) {
    this.#world = createWorld(shape);
    const { memory, config, tables } = this.#world;
    this.#tables = { gpa: tables.take(shape.size * entries * 16, 16), length: shape.size * entries * 16 };
    const room = shape.indirect === true ? { gpa: this.#tables.gpa, entries } : undefined;
    this.#driver = create(memory, config, shape.packed, room);
    this.#device = createRawDevice(this.#world);
  }

  step(step: Step): void {
    switch (step.do) {
      case "add":
        return this.#watched(() => this.#add(step.elements));
      case "flush":
        return this.#watched(() => this.#flush());
      case "take":
        return this.#take();
      case "use":
        return this.#use(step.picks, step.part);
      case "pop":
        return this.#watched(() => this.#pop());
      case "listen":
        return this.#watched(() => this.#listen(step.on));
      case "want":
        return this.#device.wantNotifications(step.on);
      case "move":
        return this.#world.memory.move();
    }
  }

  /** Everything comes back, once. */
  finish(): void {
    this.step({ do: "flush" });
    this.step({ do: "take" });
    while (this.#held.length > 0) this.step({ do: "use", picks: [1, 0], part: 0.5 });
    while (this.#used.length > 0) this.step({ do: "pop" });
    assert.equal(this.#driver.popUsed(), undefined, "nothing more is used");
    assert.equal(this.#driver.free, this.#world.config.size, "every descriptor is free again");
  }

  #add(elements: readonly Element[]): void {
    const before = this.#driver.free;
    const token = this.#driver.addAvailable(
      elements.filter((element) => !element.writable),
      elements.filter((element) => element.writable),
    );
    if (token === undefined) {
      assert.equal(this.#driver.free, before, "what is refused takes no room");
      assert.ok(elements.length > before, "refused although there was room");
      return;
    }
    assert.ok(this.#driver.free < before, "what is offered takes room");
    const outstanding = [...this.#staged, ...this.#published, ...this.#held, ...this.#used];
    assert.ok(!outstanding.some((other) => other.token === token), "a token names one chain at a time");
    this.#staged.push({ token, elements });
  }

  #flush(): void {
    const some = this.#staged.length > 0;
    const published = this.#staged.splice(0);
    this.#published.push(...published);
    const notified = this.#driver.takeNotification();
    this.#take();
    const due = this.#device.notificationDue(this.#held.slice(this.#held.length - published.length));
    assert.equal(notified, some && due, "available buffer notification");
    assert.equal(this.#driver.takeNotification(), false, "nothing more to tell");
  }

  /** Nothing that is only staged may be seen. */
  #take(): void {
    const chains = this.#device.take();
    const expected = this.#published.splice(0);
    assert.deepEqual(
      chains.map(({ token, elements }) => ({ token, elements })),
      expected.map(({ token, elements }) => ({ token, elements })),
      "chains as they were offered",
    );
    this.#held.push(...chains);
  }

  #use(picks: readonly number[], part: number): void {
    const batch: { token: number; written: number; chain: RawChain }[] = [];
    for (const pick of picks) {
      const at = this.#world.config.inOrder === true ? 0 : pick % Math.max(1, this.#held.length);
      const [chain] = this.#held.splice(at, 1);
      if (chain === undefined) continue;
      batch.push({ token: chain.token, written: Math.floor(part * writableLength(chain.elements)), chain });
    }
    if (batch.length === 0) return;
    // One element for all of them: the driver takes the ones before the last for used completely.
    const once = this.#world.config.inOrder === true && part > 0.5;
    if (once) for (const used of batch.slice(0, -1)) used.written = writableLength(used.chain.elements);
    const due = this.#device.use(batch, once);
    if (this.#armed) assert.ok(due, "a driver that waits must be notified: lost wake-up");
    if (this.#quiet) assert.ok(!due, "a driver that asked for silence gets none");
    if (due && this.#world.config.eventIdx === true) this.#armed = false;
    this.#used.push(...batch.map(({ token, written }) => ({ token, written })));
  }

  #pop(): void {
    const found = this.#driver.popUsed();
    assert.deepEqual(
      found === undefined ? undefined : { ...found },
      this.#used.shift(),
      "the next used chain",
    );
  }

  #listen(on: boolean): void {
    const more = this.#driver.setNotifications(on);
    assert.equal(more, on && this.#used.length > 0, "used chains are there already");
    this.#armed = on && !more;
    this.#quiet = !on && (this.#world.shape.packed || this.#world.config.eventIdx !== true);
  }

  /** The driver writes its own areas and tables only. */
  #watched(action: () => void): void {
    const { memory, config, shape } = this.#world;
    const before = memory.snapshot();
    action();
    const sizes = areaSizes(shape);
    for (const gpa of memory.changedSince(before)) {
      const own =
        inside(gpa, config.driverArea, sizes.driver) ||
        inside(gpa, config.descriptorArea, sizes.descriptor) ||
        inside(gpa, this.#tables.gpa, this.#tables.length);
      assert.ok(own, `the driver wrote at ${gpa}, which is not its to write`);
    }
  }
}

function inside(gpa: number, start: number, length: number): boolean {
  return gpa >= start && gpa < start + length;
}

function writableLength(elements: readonly Element[]): number {
  return elements.reduce((sum, { length, writable }) => sum + (writable ? length : 0), 0);
}

const SPLIT = [
  "drv.split.framing",
  "drv.split.desc",
  "drv.split.indirect",
  "drv.split.avail",
  "drv.split.used",
  "drv.split.used-notify",
  "drv.split.avail-notify",
];
const PACKED = ["drv.packed.desc", "drv.packed.sg", "drv.packed.indirect"];

/** Cases that every driver side of a virtqueue must pass. `runs` is the number of random histories of each kind. */
export function driverQueueCases(create: CreateDriverQueue, runs = 100): ConformanceCase[] {
  return [false, true].map((packed) => ({
    clauses: packed ? PACKED : SPLIT,
    title: `any history of a ${packed ? "packed" : "split"} virtqueue: well-formed chains, each comes back once, nobody sleeps for ever`,
    run: () => {
      const histories = shapes(packed, 16).chain((shape) =>
        fc.tuple(fc.constant(shape), fc.integer({ min: 1, max: Math.min(8, shape.size) }), steps(shape)),
      );
      fc.assert(
        fc.property(histories, ([shape, entries, list]) => {
          const history = new History(create, shape, entries);
          for (const step of list) history.step(step);
          history.finish();
        }),
        { numRuns: runs },
      );
    },
  }));
}
