import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { VirtioFault } from "../../src/fault.ts";
import * as BLK from "../../src/spec/blk.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";
import { BrokenDisk, SlowDisk, StartingDisk } from "./disks.ts";
import { BlkHarness } from "./harness.ts";

const SIZE = 64 << 20;

/** A disk whose operations wait until the test lets them go, in any order. */
function gated(): { disk: SlowDisk; release: (index?: number) => Promise<void>; waiting: () => number } {
  const disk = new SlowDisk(SIZE);
  const gates: (() => void)[] = [];
  disk.turn = () => new Promise((resolve) => gates.push(resolve));
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) await Promise.resolve();
  };
  /** -1 lets none go. */
  const release = async (index = 0): Promise<void> => {
    if (index >= 0) gates.splice(index % Math.max(1, gates.length), 1)[0]?.();
    await settle();
  };
  return { disk, release, waiting: () => gates.length };
}

const read = (harness: BlkHarness, sector: number, length: number): DescriptorChain =>
  harness.chain({ type: BLK.VIRTIO_BLK_T_IN, sector, in: length });

describe("blk device on an asynchronous backend", () => {
  test("requests complete in any order with their own data", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ sector: fc.nat(1000), sectors: fc.integer({ min: 1, max: 9 }) }), {
          minLength: 1,
          maxLength: 8,
        }),
        fc.infiniteStream(fc.nat(20)),
        async (wanted, order) => {
          const { disk, release, waiting } = gated();
          for (let sector = 0; sector < 1010; sector++)
            disk.inner.write(sector * 512, new Uint8Array(512).fill(sector));
          const harness = new BlkHarness(disk);
          const chains = wanted.map(({ sector, sectors }) => read(harness, sector, sectors * 512));
          const done = Promise.all(
            chains.map(async (chain) => harness.outcome(chain, await harness.serve(chain))),
          );
          await release(-1);
          while (waiting() > 0) await release(Number(order.next().value));
          (await done).forEach(({ status, data }, i) => {
            expect(status).toBe(0);
            expect(
              data.every((byte, at) => byte === (((wanted[i]?.sector ?? 0) + Math.floor(at / 512)) & 0xff)),
            ).toBe(true);
          });
        },
      ),
      { numRuns: 40 },
    );
  });

  test("after a reset nothing is written into guest memory, and the reset waits for the backend", async () => {
    for (const parts of [
      { type: BLK.VIRTIO_BLK_T_IN, in: 4096 },
      { type: BLK.VIRTIO_BLK_T_OUT, out: new Uint8Array(4096) },
      { type: BLK.VIRTIO_BLK_T_FLUSH },
    ]) {
      const { disk, release } = gated();
      const harness = new BlkHarness(disk);
      const served = harness.serve(harness.chain(parts));
      await Promise.resolve();
      const before = harness.bytes.slice();
      const reset = harness.device.reset();
      let over = false;
      void Promise.resolve(reset).then(() => (over = true));
      await Promise.resolve();
      expect([over, disk.busy]).toEqual([false, 1]);
      await release();
      await Promise.all([served, reset]);
      expect([over, disk.busy, Buffer.compare(harness.bytes, before)]).toEqual([true, 0, 0]);
    }
  });

  test("a reset queue gets nothing more; another queue does", async () => {
    const { disk, release } = gated();
    const harness = new BlkHarness(disk, { numQueues: 2 });
    const [first, second] = [read(harness, 0, 512), read(harness, 0, 512)];
    const served = [Promise.resolve(harness.serve(first, 0)), Promise.resolve(harness.serve(second, 1))];
    await Promise.resolve();
    harness.device.resetQueue(0);
    await release();
    await release();
    await Promise.all(served);
    const status = ({ writable }: DescriptorChain): number | undefined =>
      harness.bytes[(writable[0]?.gpa ?? 0) + 512];
    expect([status(first), status(second)]).toEqual([0xa5, 0]);
  });

  test("a reset drops what waits for a buffer without asking the backend", async () => {
    const { disk, release, waiting } = gated();
    const harness = new BlkHarness(disk, {}, 0n, 1 << 26);
    const served = Array.from({ length: 24 }, () =>
      Promise.resolve(harness.serve(read(harness, 0, 1 << 20))),
    );
    await Promise.resolve();
    expect(waiting()).toBe(16);
    const reset = harness.device.reset();
    while (waiting() > 0) await release();
    await Promise.all([...served, reset]);
    expect(disk.calls).toBe(16);
  });

  test("buffers in flight are bounded, however large and many the requests", async () => {
    const disk = new SlowDisk(SIZE);
    const harness = new BlkHarness(disk, {}, 0n, 1 << 27);
    const served = Array.from({ length: 40 }, (_, i) => read(harness, i, 2 << 20)).map((chain) =>
      Promise.resolve(harness.serve(chain)),
    );
    await Promise.all(served);
    expect(disk.mostHeld).toBeLessThanOrEqual(16 << 20);
    expect(disk.mostHeld).toBeGreaterThan(1 << 20);
  });

  test("guest memory that moved during a request is written at its new place", async () => {
    const { disk, release } = gated();
    disk.inner.write(0, new Uint8Array(512).fill(0x42));
    const harness = new BlkHarness(disk);
    const chain = read(harness, 0, 512);
    const served = harness.serve(chain);
    await Promise.resolve();
    const moved = harness.bytes.slice();
    harness.memory.replace([{ gpa: 0, bytes: moved }]);
    const old = harness.bytes.slice();
    await release();
    const gpa = chain.writable[0]?.gpa ?? 0;
    expect([await served, moved[gpa], moved[gpa + 511], moved[gpa + 512]]).toEqual([513, 0x42, 0x42, 0]);
    expect(Buffer.compare(harness.bytes, old)).toBe(0);
  });

  test("guest memory that went away during a request is a fault", async () => {
    const { disk, release } = gated();
    const harness = new BlkHarness(disk);
    const served = harness.serve(read(harness, 0, 512));
    await Promise.resolve();
    harness.memory.replace([]);
    await Promise.all([release(), expect(served).rejects.toBeInstanceOf(VirtioFault)]);
    const reset = harness.device.reset();
    expect(reset).toBeUndefined();
  });

  test("a failing piece of a long request ends it with IOERR and zeroed data", async () => {
    const disk = new SlowDisk(SIZE);
    let calls = 0;
    disk.turn = () => (++calls === 3 ? Promise.reject(new Error("gone")) : Promise.resolve());
    const harness = new BlkHarness(disk, {}, 0n, 1 << 23);
    disk.inner.write(0, new Uint8Array(1 << 20).fill(1));
    const { status, data, written } = await harness.request({ type: BLK.VIRTIO_BLK_T_IN, in: 4 << 20 });
    expect([status, written, calls, data.every((byte) => byte === 0)]).toEqual([1, data.length + 1, 3, true]);
  });
});

/** A disk that tells of the end itself, when the test says so. */
function starting(): { disk: StartingDisk; inner: SlowDisk; release: () => Promise<void> } {
  const inner = new SlowDisk(SIZE);
  const disk = new StartingDisk(inner, 0);
  const gates: (() => void)[] = [];
  disk.turn = () => new Promise((resolve) => gates.push(resolve));
  const release = async (): Promise<void> => {
    for (const open of gates.splice(0)) open();
    for (let i = 0; i < 30; i++) await Promise.resolve();
  };
  return { disk, inner, release };
}

describe("blk device on a backend that tells of the end, memory pinned", () => {
  const make = (disk: StartingDisk, options = {}): BlkHarness =>
    new BlkHarness(disk, options, 0n, 1 << 22, true);

  test("what fails, at once or later, is an error of the request and of no other", async () => {
    const errors: unknown[] = [];
    const onError = (error: unknown): void => void errors.push(error);
    const harness = make(new StartingDisk(new BrokenDisk(false)), { onError });
    for (let i = 0; i < 6; i++) {
      expect((await harness.request({ type: BLK.VIRTIO_BLK_T_IN, in: 512 })).status).toBe(1);
      expect((await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out: new Uint8Array(512) })).status).toBe(
        1,
      );
    }
    expect(errors.map(String)).toEqual(Array.from({ length: 12 }, () => "Error: the disk is broken"));
    expect(harness.device.reset()).toBeUndefined();
  });

  test("a flush that throws after a write is an error of the request", async () => {
    const disk = new StartingDisk(new SlowDisk(SIZE), 0);
    disk.flush = () => {
      throw new Error("the cable is out");
    };
    const harness = make(disk, { writeCache: false });
    const out = new Uint8Array(512);
    expect((await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out })).status).toBe(1);
    disk.flush = () => Promise.reject(new Error("the cable is out"));
    expect((await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out })).status).toBe(1);
    expect(harness.device.reset()).toBeUndefined();
  });

  test("a fault that a backend finds, when it began or in a flush after it, stops the device; the request ends", async () => {
    const { disk, release } = starting();
    const harness = make(disk, { writeCache: false });
    const faults: unknown[] = [];
    harness.fail = (fault) => void faults.push(fault);
    const fault = new VirtioFault("drv.blk.operation", "found by the backend");
    for (const flush of [() => Promise.reject(fault), throwing(fault)]) {
      disk.flush = flush;
      const served = harness.serve(harness.chain({ type: BLK.VIRTIO_BLK_T_OUT, out: new Uint8Array(512) }));
      await release();
      await served;
    }
    disk.turn = () => Promise.reject(fault);
    await harness.serve(read(harness, 0, 512));
    expect(faults).toEqual([fault, fault, fault]);
    expect(harness.device.reset()).toBeUndefined();
  });

  test("after a reset no chain is touched, and the reset waits for the backend", async () => {
    const { disk, release } = starting();
    const harness = make(disk);
    const chain = read(harness, 0, 512);
    void harness.serve(chain);
    void harness.serve(harness.chain({ type: BLK.VIRTIO_BLK_T_OUT, out: new Uint8Array(512) }));
    let over = false;
    const reset = Promise.resolve(harness.device.reset()).then(() => (over = true));
    for (let i = 0; i < 30; i++) await Promise.resolve();
    expect([over, disk.busy]).toEqual([false, 2]);
    const told = harness.written.length;
    await release();
    await reset;
    expect(disk.busy).toBe(0);
    expect(harness.written.length).toBe(told);
    expect(harness.bytes[(chain.writable[0]?.gpa ?? 0) + 512]).toBe(0xa5);
  });

  test("a reset queue gets nothing more; another queue does", async () => {
    const { disk, release } = starting();
    const harness = make(disk, { numQueues: 2 });
    const [first, second] = [read(harness, 0, 512), read(harness, 0, 512)];
    const served = [first, second].map((chain, index) => Promise.resolve(harness.serve(chain, index)));
    harness.device.resetQueue(0);
    await release();
    // The ring that was taken back hears of the end too: until then the reset of the queue is not over.
    expect(await Promise.all(served)).toEqual([0, 513]);
    const status = ({ writable }: DescriptorChain): number | undefined =>
      harness.bytes[(writable[0]?.gpa ?? 0) + 512];
    expect([status(first), status(second)]).toEqual([0xa5, 0]);
  });

  test("guest memory that went away during a request is a fault, and the request still ends", async () => {
    const { disk, inner, release } = starting();
    const harness = make(disk);
    const faults: unknown[] = [];
    harness.fail = (fault) => void faults.push(fault);
    const served = harness.serve(read(harness, 0, 512));
    harness.memory.replace([]);
    await release();
    expect(await served).toBe(0);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toBeInstanceOf(VirtioFault);
    expect([inner.busy, harness.device.reset()]).toEqual([0, undefined]);
  });
});

function throwing(error: Error): () => never {
  return () => {
    throw error;
  };
}
