import { patientScheduler } from "@virtio/testkit/patient-scheduler";
import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import type { DescriptorChain } from "virtio/virtqueue/types";
import { DeviceInstance } from "virtio/device/instance";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, featureBits } from "virtio/spec/core";
import { createDriverQueue } from "virtio/virtqueue/create";
import { describe, expect, test } from "vitest";

const SIZE = 8;
const AREAS = { descriptorArea: 0x1000, driverArea: 0x2000, deviceArea: 0x3000 };
const FEATURES = featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED);

/** A device that answers at once, or later for odd buffers, and its driver's end of the ring. */
function plug(packed: boolean, eventIdx: boolean) {
  const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(0x10000) }]);
  const waiting: (() => void)[] = [];
  const serve = (chain: DescriptorChain): number | Promise<number> => {
    if (((chain.readable[0]?.gpa ?? 0) & 1) === 0) return 0;
    return new Promise((resolve) => waiting.push(() => resolve(0)));
  };
  const device = {
    id: 4,
    name: "looked-at",
    features: 0n,
    queues: [{ name: "requestq", maxSize: SIZE, serve }],
  };
  const instance = new DeviceInstance(device, {
    label: "looked-at0",
    memory,
    features: FEATURES,
    scheduler: patientScheduler,
  });
  const left = featureBits(
    ...(packed ? [] : [VIRTIO_F_RING_PACKED]),
    ...(eventIdx ? [] : [VIRTIO_F_EVENT_IDX]),
  );
  for (const half of [0, 1])
    instance.writeDriverFeatures(half, Number(((FEATURES & ~left) >> BigInt(32 * half)) & 0xffff_ffffn));
  instance.writeStatus(1 | 2);
  instance.writeStatus(1 | 2 | 8);
  const registers = instance.queue(0);
  if (registers === undefined) throw new Error("no queue");
  Object.assign(registers, { size: SIZE, ...AREAS });
  registers.enable();
  const driver = createDriverQueue(memory, { index: 0, size: SIZE, ...AREAS, eventIdx }, packed);
  instance.writeStatus(1 | 2 | 8 | 4);
  let outstanding = 0;
  /** True: the device wants to be notified. */
  const offer = (odd: boolean): boolean => {
    const token = driver.addAvailable([{ gpa: 0x8000 + (odd ? 1 : 0), length: 4 }], []);
    if (token !== undefined) outstanding++;
    return driver.takeNotification();
  };
  const reap = (): void => {
    while (driver.popUsed() !== undefined) outstanding--;
  };
  return { instance, registers, waiting, offer, reap, outstanding: () => outstanding };
}

const step = fc.constantFrom("offer", "offer later", "look", "rest", "complete", "notify", "reap");

const LOOKING =
  "a transport that looks at a ring, rests and hears of notifications again: nothing stays behind";

describe.each([
  ["split", false],
  ["packed", true],
] as const)("%s", (_, packed) => {
  test(
    // Of notifications on a packed virtqueue the specification has no clause of its own.
    packed ? LOOKING : clause(["dev.split.avail-notify"], LOOKING),
    async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.boolean(), async (steps, eventIdx) => {
          const { instance, registers, waiting, offer, reap, outstanding } = plug(packed, eventIdx);
          let wanted = false;
          const notify = (): void => {
            if (wanted) instance.notify(0);
            wanted = false;
          };
          for (const what of steps) {
            if (what === "offer" || what === "offer later") wanted = offer(what === "offer later") || wanted;
            else if (what === "look") registers.look();
            else if (what === "rest") registers.rest();
            else if (what === "notify") notify();
            else if (what === "reap") reap();
            else {
              waiting.shift()?.();
              await Promise.resolve();
            }
          }
          registers.rest();
          // It rests: what is offered now is asked for.
          wanted = offer(false) || wanted;
          notify();
          for (const done of waiting.splice(0)) done();
          for (let i = 0; i < 10; i++) await Promise.resolve();
          reap();
          expect(outstanding()).toBe(0);
        }),
        { numRuns: 300 },
      );
    },
  );

  test("while it looks, the driver need not notify", () => {
    const { registers, offer, reap, outstanding } = plug(packed, true);
    expect(registers.rest()).toBe(false);
    expect(offer(false)).toBe(true);
    expect([registers.look(), registers.look()]).toEqual([true, false]);
    for (let i = 0; i < 20; i++) {
      expect(offer(false)).toBe(false);
      expect(registers.look()).toBe(true);
      reap();
    }
    offer(false);
    expect([registers.rest(), registers.rest()]).toEqual([true, false]);
    reap();
    expect(outstanding()).toBe(0);
    expect(offer(false)).toBe(true);
  });
});
