import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { expect, test } from "vitest";
import type { VirtioDevice } from "../../src/device/device.ts";
import { DriverSession } from "../../src/driver/session.ts";
import {
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "../../src/spec/core.ts";

/** A device that ends a request when it is told to. */
class SlowDevice implements VirtioDevice {
  readonly id = 4;
  readonly name = "slow";
  readonly features: bigint;
  /** Lengths of what came, in order. */
  readonly served: number[] = [];
  readonly finish: (() => void)[] = [];
  readonly queues = [
    {
      name: "q",
      maxSize: 2,
      serve: (chain: { readonly readableLength: number }): Promise<number> => {
        this.served.push(chain.readableLength);
        return new Promise((resolve) => this.finish.push(() => resolve(0)));
      },
    },
  ];

  constructor(features = 0n) {
    this.features = features;
  }
}

/** Far more turns of the loop than any driver once polled. */
async function manyTurns(): Promise<void> {
  for (let turn = 0; turn < 3000; turn++) await new Promise((resolve) => setImmediate(resolve));
}

const RING = featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND);

test("a request that is aborted before it is in the ring is never sent", async () => {
  const device = new SlowDevice();
  const transport = new InProcessMachine().plugMmio(device).open();
  const session = await DriverSession.open(transport, { wanted: 0n, ring: featureBits(VIRTIO_F_VERSION_1) });
  const queue = session.addQueue(0, 2);
  session.ready();
  const gpa = session.memory.allocate(64, 8);
  const outcomes = [1, 2].map((length) => queue.request([{ gpa, length }], []));
  const controller = new AbortController();
  let released = 0;
  const third = queue.request([{ gpa, length: 3 }], [], controller.signal, () => released++);
  const fourth = queue.request([{ gpa, length: 4 }], []);
  controller.abort(new Error("too late"));
  await expect(third).rejects.toThrow("too late");
  expect(released).toBe(1);
  for (let i = 0; i < 3; i++) {
    device.finish.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all([...outcomes, fourth]);
  expect(device.served).toEqual([1, 2, 4]);
  await session.close();
});

test(
  clause(
    ["drv.core.suspend"],
    "suspend waits for a slow request however long it takes, and so does the reset of a virtqueue",
  ),
  async () => {
    const device = new SlowDevice();
    const machine = new InProcessMachine();
    const transport = machine.plugMmio(device, { features: RING }).open();
    const session = await DriverSession.open(transport, { wanted: 0n, ring: RING });
    let queue = session.addQueue(0, 2);
    session.ready();
    const gpa = session.memory.allocate(64, 8);
    const first = queue.request([{ gpa, length: 1 }], []);
    let suspended = false;
    const suspend = session.suspend().then(() => (suspended = true));
    await manyTurns();
    expect(suspended).toBe(false);
    device.finish.shift()?.();
    await suspend;
    await first;
    await session.resume();
    const second = queue.request([{ gpa, length: 2 }], []).catch((error: unknown) => String(error));
    await new Promise((resolve) => setImmediate(resolve));
    let reset = false;
    const controller = new AbortController();
    const impatient = session.resetQueue(0, controller.signal).catch((error: unknown) => String(error));
    const patient = session.resetQueue(0).then(() => (reset = true));
    controller.abort(new Error("no time"));
    expect(await impatient).toBe("Error: no time");
    await manyTurns();
    expect(reset).toBe(false);
    device.finish.shift()?.();
    await patient;
    expect(await second).toContain("virtqueue 0 was reset");
    queue = session.addQueue(0, 2);
    const third = queue.request([{ gpa, length: 3 }], []);
    await new Promise((resolve) => setImmediate(resolve));
    device.finish.shift()?.();
    await third;
    await session.close();
    expect(device.served).toEqual([1, 2, 3]);
  },
);

test(
  clause(
    ["drv.core.vq-reset"],
    "a virtqueue that is reset twice at once is made anew, and the second keeps off the new one",
  ),
  async () => {
    const device = new SlowDevice();
    const transport = new InProcessMachine().plugMmio(device, { features: RING }).open();
    const session = await DriverSession.open(transport, { wanted: 0n, ring: RING });
    session.addQueue(0, 2);
    session.ready();
    const first = session.resetQueue(0);
    const second = session.resetQueue(0);
    await first;
    const queue = session.addQueue(0, 2);
    const gpa = session.memory.allocate(64, 8);
    await second;
    const outcome = queue.request([{ gpa, length: 1 }], []);
    // Had the second given back the new one's memory, this would lie over its ring.
    session.memory.view(session.memory.allocate(4096, 4096), 4096).fill(0xff);
    while (device.finish.length === 0) await new Promise((resolve) => setImmediate(resolve));
    device.finish.shift()?.();
    await outcome;
    expect(device.served).toEqual([1]);
    await session.close();
  },
);

test.each(["pci", "mmio"] as const)(
  clause("drv.core.features", "%s: all 128 feature bits are read and written"),
  async (bus) => {
    const features = (1n << 65n) | (1n << 127n) | (1n << 5n);
    const machine = new InProcessMachine();
    const device = new SlowDevice(features);
    const plugged = bus === "pci" ? machine.plugPci(device) : machine.plugMmio(device);
    const session = await DriverSession.open(plugged.open(), { wanted: (1n << 65n) | (1n << 127n) });
    expect(session.features & features).toBe((1n << 65n) | (1n << 127n));
    expect(plugged.instance.driverFeatures).toBe(session.features);
    await session.close();
  },
);
