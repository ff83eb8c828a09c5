import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { EntropySource } from "../../src/backends/entropy.ts";
import type { DeviceContext } from "../../src/device/device.ts";
import { entropyDevice } from "../../src/devices/entropy/device.ts";
import { EntropyDriver } from "../../src/drivers/entropy/driver.ts";
import { VirtioFault } from "../../src/fault.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { featureBits } from "../../src/spec/core.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";

/** Counts up, so that lost or repeated bytes show. */
function counting(): EntropySource {
  let next = 0;
  return (target) => {
    for (let i = 0; i < target.length; i++) target[i] = next++;
  };
}

const slowly =
  (source: EntropySource): EntropySource =>
  async (target) => {
    await Promise.resolve();
    await source(target);
  };

function chainOf(lengths: readonly number[], readable: readonly number[] = []): DescriptorChain {
  let gpa = 16;
  const lay = (length: number): { gpa: number; length: number } => ({
    gpa: (gpa += 80_000) - 80_000,
    length,
  });
  const sum = (list: readonly number[]): number => list.reduce((total, length) => total + length, 0);
  return {
    readable: readable.map(lay),
    writable: lengths.map(lay),
    readableLength: sum(readable),
    writableLength: sum(lengths),
    token: 0,
  };
}

function contextOf(bytes: Uint8Array): DeviceContext {
  return {
    memory: new RegionMemory([{ gpa: 0, bytes }]),
    features: featureBits(32),
    live: true,
    queue: () => undefined,
    inTurns: () => undefined,
    configChanged: () => undefined,
    fail: (fault) => {
      throw fault;
    },
  };
}

describe.each([
  { name: "synchronous", make: counting },
  { name: "asynchronous", make: () => slowly(counting()) },
])("entropy device on a source: $name", ({ make }) => {
  test(
    clause("dev.entropy.operation", "at least one byte, in order, over any cut, and not beyond what it says"),
    async () => {
      const lengths = fc.array(fc.oneof(fc.nat(100), fc.nat(70_000)), { minLength: 1, maxLength: 8 });
      await fc.assert(
        fc.asyncProperty(lengths, async (cuts) => {
          const bytes = new Uint8Array(1 << 20).fill(0xa5);
          const chain = chainOf(cuts);
          const written = (await entropyDevice(make()).queues[0]?.serve?.(chain, contextOf(bytes))) ?? -1;
          expect(written).toBe(Math.min(chain.writableLength, 65_536));
          let seen = 0;
          for (const { gpa, length } of chain.writable)
            for (let i = 0; i < length; i++, seen++)
              if (bytes[gpa + i] !== (seen < written ? seen & 0xff : 0xa5))
                throw new Error(`byte ${seen} is wrong`);
        }),
        { numRuns: 30 },
      );
    },
  );

  test("several requests at once each get bytes of their own", async () => {
    const bytes = new Uint8Array(1 << 20);
    const device = entropyDevice(make());
    const chains = [1000, 2000, 3000].map((length, i) => ({
      ...chainOf([length]),
      writable: [{ gpa: i * 4096, length }],
    }));
    // The second time a buffer of the first is there to be used again.
    for (const round of [0, 1]) {
      const context = contextOf(bytes);
      const served = chains.map((chain) => Promise.resolve(device.queues[0]?.serve?.(chain, context) ?? -1));
      expect(await Promise.all(served)).toEqual([1000, 2000, 3000]);
      const all = chains.flatMap(({ writable }) =>
        writable.flatMap(({ gpa, length }) => [...bytes.subarray(gpa, gpa + length)]),
      );
      expect(all).toEqual(Array.from({ length: 6000 }, (_, i) => (6000 * round + i) & 0xff));
    }
  });

  test.each(RINGS)("our driver on our device, $name", async ({ ring }) => {
    const transport = new Loopback(entropyDevice(make()), { features: ring });
    const driver = await EntropyDriver.open(transport);
    const target = new Uint8Array(10_000);
    await Promise.all([driver.read(target.subarray(0, 1)), driver.read(target.subarray(1))]);
    expect(target).toEqual(Uint8Array.from({ length: 10_000 }, (_, i) => i));
    const pieces: number[] = [];
    for await (const piece of driver.pieces(5)) if (pieces.push(...piece) === 15) break;
    expect(pieces).toEqual(Array.from({ length: 15 }, (_, i) => (10_000 + i) & 0xff));
    await driver.close();
    expect(transport.faults).toEqual([]);
  });
});

describe("entropy device", () => {
  test(
    clause("drv.entropy.operation", "a device-readable buffer is a fault, and our driver sends none"),
    async () => {
      const device = entropyDevice(counting());
      const context = contextOf(new Uint8Array(1 << 20));
      expect(() => device.queues[0]?.serve?.(chainOf([16], [1]), context)).toThrow(VirtioFault);
      const shapes: number[] = [];
      const transport = new Loopback(device, {
        observer: { available: (_, __, chain) => shapes.push(chain.readable.length) },
      });
      const driver = await EntropyDriver.open(transport);
      await driver.read(new Uint8Array(9000));
      expect(shapes).toEqual([0, 0, 0]);
    },
  );

  test("after a reset a slow source writes nothing into guest memory", async () => {
    const bytes = new Uint8Array(1 << 18);
    const device = entropyDevice(slowly((target) => void target.fill(1)));
    const served = device.queues[0]?.serve?.(chainOf([64]), contextOf(bytes));
    void device.reset?.();
    expect([await served, bytes.every((byte) => byte === 0)]).toEqual([0, true]);
  });

  test("a source that fails stops the device, and the driver hears of it", async () => {
    const transport = new Loopback(entropyDevice(() => Promise.reject(new Error("dry"))));
    const driver = await EntropyDriver.open(transport);
    const read = driver.read(new Uint8Array(1));
    await settle();
    await expect(read).rejects.toThrow(/needs a reset/);
    expect(transport.faults.map(({ message }) => message)).toEqual([expect.stringMatching(/dry/)]);
  });
});

describe("entropy driver", () => {
  test(clause("drv.entropy.operation", "takes only as many bytes as the device says it wrote"), async () => {
    const inner = entropyDevice(counting());
    const stingy = {
      ...inner,
      queues: inner.queues.map((spec) => ({
        ...spec,
        serve: (chain: DescriptorChain, context: DeviceContext) => {
          const [first] = chain.writable;
          if (first === undefined) return 0;
          return (
            spec.serve?.({ ...chain, writable: [{ ...first, length: 7 }], writableLength: 7 }, context) ?? 0
          );
        },
      })),
    };
    const driver = await EntropyDriver.open(new Loopback(stingy));
    const target = new Uint8Array(100);
    await driver.read(target);
    expect(target).toEqual(Uint8Array.from({ length: 100 }, (_, i) => i));
  });

  test("a device that gives nothing is given up", async () => {
    const inner = entropyDevice(counting());
    const empty = { ...inner, queues: inner.queues.map((spec) => ({ ...spec, serve: () => 0 })) };
    const driver = await EntropyDriver.open(new Loopback(empty));
    await expect(driver.read(new Uint8Array(1))).rejects.toThrow(/dev\.entropy\.operation/);
    await expect(driver.read(new Uint8Array(1))).rejects.toThrow();
  });
});
