import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { VIRTIO_F_VERSION_1, featureBits } from "virtio/spec/core";
import { echoDevice, PciRig } from "./support.ts";

const V1 = featureBits(VIRTIO_F_VERSION_1);
const CONFIG_VECTOR = 0x10;
const QUEUE_SELECT = 0x16;
const QUEUE_VECTOR = 0x1a;
const BASE = 0x4000;
const NO_VECTOR = 0xffff;

function live(vectors?: number): PciRig {
  const rig = new PciRig(
    echoDevice({ queues: 2, maxSize: 8 }),
    vectors === undefined ? {} : { msixVectors: vectors },
    { features: DEFAULT_CORE_FEATURES },
  );
  rig.fn.writeConfig(4, 2, 6);
  rig.negotiate(V1);
  rig.enableQueue(0, 8, BASE);
  rig.enableQueue(1, 8, 0x10000);
  rig.setCommon(0x14, 1, 15);
  return rig;
}

/** The device uses one buffer of a virtqueue. */
function use(rig: PciRig, queue: 0 | 1): void {
  rig.offer(queue === 0 ? BASE : 0x10000, 5);
  const { bar, offset } = rig.cap(2);
  rig.writeBar(bar, offset + 4 * queue, 2, queue);
}

function readIsr(rig: PciRig): number {
  const { bar, offset } = rig.cap(3);
  return rig.readBar(bar, offset, 1);
}

function pending(rig: PciRig): boolean {
  return (rig.fn.readConfig(6, 2) & 8) !== 0;
}

describe("ISR status", () => {
  test(clause("dev.pci.isr", "both bits, the Interrupt Status bit, the pin; a read clears them all"), () => {
    const rig = live();
    expect(readIsr(rig)).toBe(0);
    use(rig, 0);
    expect([pending(rig), rig.pin]).toEqual([true, true]);
    rig.instance.configChanged();
    expect(readIsr(rig)).toBe(3);
    expect([pending(rig), rig.pin]).toEqual([false, false]);
    expect(readIsr(rig)).toBe(0);
    rig.instance.configChanged();
    expect(readIsr(rig)).toBe(2);
    expect(rig.messages).toEqual([]);
  });

  test("INTx disabled in the command register: the bits without the pin", () => {
    const rig = live();
    rig.fn.writeConfig(4, 2, 0x406);
    use(rig, 1);
    expect([pending(rig), rig.pin]).toEqual([true, false]);
    rig.fn.writeConfig(4, 2, 6);
    expect(rig.pin).toBe(true);
  });

  test(clause("dev.core.reset", "a reset takes the interrupt away"), () => {
    const rig = live();
    use(rig, 0);
    rig.setCommon(0x14, 1, 0);
    expect(rig.pin).toBe(false);
    expect(readIsr(rig)).toBe(0);
  });
});

describe("MSI-X", () => {
  test(clause("dev.pci.msix", "Table Size, every event to every vector, and back to none"), () => {
    for (const vectors of [1, 2, 3, 17]) {
      const rig = live(vectors);
      const at = rig.msixCap();
      expect((rig.fn.readConfig(at + 2, 2) & 0x7ff) + 1).toBe(vectors);
      rig.enableMsix(vectors);
      for (const vector of [...Array.from({ length: vectors }, (_, i) => i), NO_VECTOR]) {
        rig.setCommon(CONFIG_VECTOR, 2, vector);
        expect(rig.common(CONFIG_VECTOR, 2)).toBe(vector);
        for (const queue of [0, 1]) {
          rig.setCommon(QUEUE_SELECT, 2, queue);
          rig.setCommon(QUEUE_VECTOR, 2, vector);
          expect(rig.common(QUEUE_VECTOR, 2)).toBe(vector);
        }
      }
      for (const vector of [vectors, 0x7ff + 1, 0x8000, 0xfffe]) {
        rig.setCommon(CONFIG_VECTOR, 2, 0);
        rig.setCommon(CONFIG_VECTOR, 2, vector);
        expect(rig.common(CONFIG_VECTOR, 2)).toBe(NO_VECTOR);
        rig.setCommon(QUEUE_VECTOR, 2, vector);
        expect(rig.common(QUEUE_VECTOR, 2)).toBe(NO_VECTOR);
      }
    }
  });

  test("by default there is a vector for each virtqueue and one for the configuration", () => {
    const rig = new PciRig(echoDevice({ queues: 5 }));
    expect(rig.fn.readConfig(rig.msixCap() + 2, 2)).toBe(5);
    expect(() => new PciRig(echoDevice(), { msixVectors: 2049 })).toThrow(RangeError);
  });

  test(
    clause(
      ["dev.pci.used-notify", "dev.pci.config-notify", "dev.pci.isr"],
      "messages go where the vectors say, and nowhere without one",
    ),
    () => {
      const event = fc.constantFrom("queue0", "queue1", "configuration");
      const vector = fc.constantFrom(0, 1, 2, NO_VECTOR);
      fc.assert(
        fc.property(
          vector,
          vector,
          vector,
          fc.array(event, { maxLength: 12 }),
          (config, first, second, events) => {
            const rig = live(3);
            rig.enableMsix(3);
            rig.setCommon(CONFIG_VECTOR, 2, config);
            [first, second].forEach((value, queue) => {
              rig.setCommon(QUEUE_SELECT, 2, queue);
              rig.setCommon(QUEUE_VECTOR, 2, value);
            });
            const expected: number[] = [];
            for (const name of events) {
              if (name === "configuration") rig.instance.configChanged();
              else use(rig, name === "queue0" ? 0 : 1);
              const wanted = name === "configuration" ? config : name === "queue0" ? first : second;
              if (wanted !== NO_VECTOR) expected.push(0x40 + wanted);
            }
            expect(rig.messages.map(({ data }) => data)).toEqual(expected);
            expect(rig.pin).toBe(false);
            expect(pending(rig)).toBe(false);
            expect(readIsr(rig)).toBe(events.includes("configuration") ? 2 : 0);
          },
        ),
      );
    },
  );

  test("a function without MSI-X refuses every vector", () => {
    const rig = live(0);
    expect(rig.fn.bars.map(({ index }) => index)).toEqual([4]);
    rig.setCommon(CONFIG_VECTOR, 2, 0);
    expect(rig.common(CONFIG_VECTOR, 2)).toBe(NO_VECTOR);
    use(rig, 0);
    expect(rig.pin).toBe(true);
  });
});
