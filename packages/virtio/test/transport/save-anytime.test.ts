/**
 * Whatever a guest did to the registers of a device: it can be saved, restored elsewhere, and goes on as one that was
 * only paused. Two equal machines get the same writes and traffic; one of them moves at every checkpoint.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import { settle } from "../device/rig.ts";
import { KINDS, RAM_SIZE, type SavedSide, Side } from "./save-side.ts";

const V1 = VIRTIO_F_VERSION_1;
const FEATURES = [
  featureBits(V1),
  featureBits(V1, VIRTIO_F_RING_RESET),
  featureBits(V1, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET),
  featureBits(V1, VIRTIO_F_SUSPEND, VIRTIO_F_EVENT_IDX),
  featureBits(V1, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND),
  // Not offered, and without what it needs.
  featureBits(V1, 23),
  featureBits(V1, 1),
];

type Step = (side: Side) => void | Promise<void>;

const queue = fc.integer({ min: 0, max: 1 });
const hostile = fc.oneof(
  fc.constantFrom(
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    11,
    15,
    16,
    31,
    64,
    128,
    0xff,
    0xffff,
    0x10000,
    0x8000_0000,
    0xffff_ffff,
  ),
  fc.integer({ min: 0, max: 0xffff_ffff }),
);

/** Steps by name, so that a counterexample can be read. */
const step: fc.Arbitrary<readonly [string, Step]> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom(...FEATURES).map((f) => named(`start ${f.toString(16)}`, (s) => s.start(f))),
  },
  { weight: 6, arbitrary: queue.map((q) => named(`offer ${q}`, (s) => s.offer(q))) },
  {
    weight: 8,
    arbitrary: fc
      .record({
        window: fc.integer({ min: 0, max: 3 }),
        offset: fc.integer({ min: 0, max: 0x107 }),
        size: fc.constantFrom(1 as const, 2 as const, 4 as const),
        value: hostile,
      })
      .map(({ window, offset, size, value }) => {
        // Registers of MMIO answer only where they are.
        const at = size === 4 ? offset & ~3 : offset;
        return named(`write ${window} 0x${at.toString(16)}/${size} = 0x${value.toString(16)}`, (s) =>
          s.write(window, at, size, value),
        );
      }),
  },
  { weight: 2, arbitrary: hostile.map((v) => named(`status ${v & 0xff}`, (s) => s.status(v & 0xff))) },
  { weight: 1, arbitrary: fc.constant(named("reset", (s) => s.status(0))) },
  { weight: 1, arbitrary: fc.constant(named("suspend", (s) => s.status(s.instance.status | 16))) },
  { weight: 1, arbitrary: fc.constant(named("resume", (s) => s.status(s.instance.status | 4))) },
  { weight: 2, arbitrary: queue.map((q) => named(`queue reset ${q}`, (s) => s.resetQueue(q))) },
  { weight: 2, arbitrary: queue.map((q) => named(`take back ${q}`, (s) => s.takeBack(q))) },
  { weight: 2, arbitrary: queue.map((q) => named(`place ${q}`, (s) => s.place(q))) },
  { weight: 3, arbitrary: fc.constant(named("a request ends", (s) => s.device.requests.shift()?.done(3))) },
  {
    weight: 1,
    arbitrary: fc.boolean().map((slow) => named(`slow ${slow}`, (s) => void (s.device.slow = slow))),
  },
  { weight: 2, arbitrary: fc.constant(named("a reset ends", (s) => s.device.resets.shift()?.())) },
  { weight: 1, arbitrary: fc.constant(named("the device pops", pop)) },
  { weight: 1, arbitrary: fc.constant(named("the device gives back", give)) },
  {
    weight: 1,
    arbitrary: fc.constant(named("configuration changes", (s) => s.device.context?.configChanged())),
  },
  { weight: 1, arbitrary: fc.constant(named("ISR and such are read", readAll)) },
  { weight: 2, arbitrary: fc.constant(named("time passes", settle)) },
  { weight: 5, arbitrary: fc.constant(named("checkpoint", checkpoint)) },
);

function named(name: string, run: Step): readonly [string, Step] {
  return [name, run];
}

function pop({ device }: Side): void {
  const chain = device.context?.queue(1)?.popAvailable();
  if (chain !== undefined) device.held.push(chain);
}

function give({ device }: Side): void {
  const ring = device.context?.queue(1);
  const chain = device.held.pop();
  if (ring !== undefined && chain !== undefined) {
    ring.addUsed(chain, 2);
    ring.flush();
  }
}

function readAll(side: Side): void {
  for (let window = 0; window < side.windows.length; window++)
    for (let offset = 0; offset < (side.windows[window]?.length ?? 0); offset += 4)
      side.read(window, offset, 4);
}

/** The host pauses; what is in flight ends. */
async function checkpoint(side: Side): Promise<void> {
  const { device, instance } = side;
  let over = false;
  const pause = instance.pause().then(() => (over = true));
  // Not saved while anything is in flight, and then it says so.
  await settle();
  if (device.requests.length > 0) expect(over).toBe(false);
  for (let round = 0; !over; round++) {
    if (round === 0 && device.requests.length > 0)
      expect(() => instance.save()).toThrow(/requests are in flight/);
    for (const request of device.requests.splice(0)) request.done(1);
    for (const end of device.resets.splice(0)) end();
    await settle();
    expect(round).toBeLessThan(10);
  }
  await pause;
  // Those of resets that nobody had to wait for.
  for (const end of device.resets.splice(0)) end();
}

describe.each(KINDS)("%s", (kind) => {
  test(
    clause(
      "dev.core.reset",
      "what any driver did can be saved at any time, restored elsewhere, and goes on equally",
    ),
    async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
          const stays = new Side(kind, new Uint8Array(RAM_SIZE));
          let moves = new Side(kind, new Uint8Array(RAM_SIZE));
          for (const [name, run] of [...steps, named("checkpoint", checkpoint)]) {
            await run(stays);
            await run(moves);
            await settle();
            if (name === "checkpoint") {
              const state = moves.save();
              const pausedState = stays.save();
              expect(withoutGeneration(state)).toEqual(withoutGeneration(pausedState));
              const moved = Side.restored(moves, asFile(state));
              expect(withoutGeneration(moved.save())).toEqual(withoutGeneration(state));
              moves = moved;
              stays.instance.resume();
              moves.instance.resume();
            }
            expect(moves.look(), `after ${name}`).toEqual(stays.look());
            expect(Buffer.compare(moves.ram, stays.ram), `memory after ${name}`).toBe(0);
          }
        }),
        { numRuns: 80 },
      );
    },
  );
});

/** The PCI transport's own count of what the driver read steps once at a restore, as its comment says. */
function withoutGeneration(state: { readonly registers: unknown }): unknown {
  const { registers } = state;
  return { ...state, registers: { ...(registers as object), generation: 0 } };
}

/** As a file carries it: plain JSON, but for bytes. */
function asFile(state: SavedSide): SavedSide {
  const text = JSON.stringify(state, (_, value: unknown) =>
    value instanceof Uint8Array ? { bytes: [...value] } : value,
  );
  return JSON.parse(text, (_, value: unknown) =>
    typeof value === "object" && value !== null && "bytes" in value
      ? Uint8Array.from(value.bytes as number[])
      : value,
  ) as SavedSide;
}
