import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BlockBackend } from "../../src/backends/block.ts";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { ReadOnlyBlockBackend } from "../../src/backends/read-only-block.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { BlkDriver, BlkError } from "../../src/drivers/blk/driver.ts";
import type { DeviceContext, MaybePromise, VirtioDevice } from "../../src/device/device.ts";
import type { DmaMemory } from "../../src/driver/types.ts";
import * as BLK from "../../src/spec/blk.ts";
import { hasFeature } from "../../src/spec/core.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";
import { SlowDisk } from "./disks.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";

const SIZE = 1 << 20;
const SECTORS = SIZE / 512;

const step = fc.oneof(
  fc.record({
    kind: fc.constantFrom("read" as const, "write" as const),
    sector: fc.nat(SECTORS - 700),
    count: fc.nat(600),
  }),
  fc.record({ kind: fc.constant("zero" as const), sector: fc.nat(SECTORS - 700), count: fc.nat(600) }),
  fc.record({
    kind: fc.constantFrom("flush" as const, "id" as const),
    sector: fc.constant(0),
    count: fc.constant(0),
  }),
);

const disks: { disk: string; make: () => BlockBackend }[] = [
  { disk: "memory", make: () => new MemoryBlockBackend(SIZE) },
  { disk: "asynchronous", make: () => new SlowDisk(SIZE) },
];

const rings = [
  ...RINGS.map((ring) => ({ ...ring, legacy: false })),
  { name: "legacy", ring: 0n, legacy: true },
];

describe.each(rings.flatMap((ring) => disks.map((disk) => ({ ...ring, ...disk }))))(
  "our driver on our device: $name, $disk",
  ({ ring, legacy, make }) => {
    test(
      clause(
        ["drv.blk.operation", "drv.blk.init"],
        "a disk behaves like an array, whatever is asked at once",
      ),
      async () => {
        await fc.assert(
          fc.asyncProperty(
            fc.array(step, { maxLength: 12 }),
            fc.constantFrom(1, 2, 3),
            fc.constantFrom(512, 4096, 65_536, 1 << 19),
            async (steps, numQueues, transferSize) => {
              const backend = make();
              const device = new BlkDevice(backend, { serial: "s", numQueues, queueSize: 16 });
              const transport = new Loopback(device, legacy ? { legacy } : { features: ring });
              const driver = await BlkDriver.open(transport, { transferSize, depth: 5 });
              const model = new Uint8Array(SIZE);
              for (const [i, { kind, sector, count }] of steps.entries()) {
                const bytes = new Uint8Array(count * 512).fill(i + 1);
                const range = model.subarray(sector * 512, (sector + count) * 512);
                if (kind === "write") {
                  await driver.write(sector, bytes);
                  range.set(bytes);
                } else if (kind === "read") {
                  await driver.read(sector, bytes);
                  expect(Buffer.compare(bytes, range)).toBe(0);
                } else if (kind === "zero") {
                  await driver.writeZeroes(sector, count, i % 2 === 0);
                  range.fill(0);
                } else if (kind === "flush") await driver.flush();
                else expect(await driver.getId()).toBe("s");
              }
              const all = new Uint8Array(SIZE);
              await driver.read(0, all);
              expect(Buffer.compare(all, model)).toBe(0);
              expect(transport.faults).toEqual([]);
              await driver.close();
              // All of the memory is free again.
              expect(transport.memory.allocate((16 << 20) - 4096, 4096)).toBe(4096);
            },
          ),
          { numRuns: 12 },
        );
      },
    );
  },
);

async function open(device: BlkDevice, options = {}): Promise<{ driver: BlkDriver; transport: Loopback }> {
  const transport = new Loopback(device);
  return { driver: await BlkDriver.open(transport, options), transport };
}

describe("blk driver", () => {
  test("the configuration of the device, parsed", async () => {
    const device = new BlkDevice(new MemoryBlockBackend(SIZE), {
      logicalBlockSize: 1024,
      physicalBlockSize: 4096,
      minIoSize: 4096,
      optIoSize: 65_536,
      numQueues: 2,
      discardGranularity: 4096,
      geometry: { cylinders: 5, heads: 6, sectors: 7 },
    });
    const { driver } = await open(device);
    expect(driver.info).toEqual({
      capacity: SECTORS,
      readOnly: false,
      sizeMax: 1 << 20,
      segMax: 254,
      blkSize: 1024,
      geometry: { cylinders: 5, heads: 6, sectors: 7 },
      topology: { physicalBlockExp: 2, alignmentOffset: 0, minIoSize: 4, optIoSize: 64 },
      writeback: true,
      numQueues: 2,
      discard: { maxSectors: 2 ** 22, maxSegments: 16, alignment: 8 },
      writeZeroes: { maxSectors: 2 ** 17, maxSegments: 4, mayUnmap: true },
    });
    driver.setWriteback(false);
    expect(driver.info.writeback).toBe(false);
  });

  test("requests that waited when the driver was closed touch no memory, which is another's by then", async () => {
    const disk = new SlowDisk(SIZE);
    let open = (): void => undefined;
    disk.turn = () => new Promise((resolve) => (open = resolve));
    const transport = new Loopback(new BlkDevice(disk));
    const driver = await BlkDriver.open(transport, { depth: 1, transferSize: 4096 });
    const writes = [0xa1, 0xb2, 0xc3, 0xd4].map((value) =>
      driver.write(0, new Uint8Array(4096).fill(value)).catch(String),
    );
    await settle();
    const closed = driver.close();
    open();
    for (const write of writes) expect(await write).toContain("was closed");
    await closed;
    expect([0xb2, 0xc3, 0xd4].filter((value) => transport.bytes.includes(value))).toEqual([]);
  });

  test("requests end also when the ring's memory is gone before they are offered", async () => {
    const transport = new Loopback(new BlkDevice(new MemoryBlockBackend(SIZE)));
    const pool = transport.memory;
    let gone = false;
    // Rings are read anew when the epoch changes; they are what was allocated first.
    const memory: DmaMemory = {
      get epoch() {
        return gone ? -2 : pool.epoch;
      },
      view: (gpa, length) => {
        if (gone && gpa < ring) throw new Error("no ring");
        return pool.view(gpa, length);
      },
      contiguous: (gpa, length) => pool.contiguous(gpa, length),
      wrote: (gpa, length) => pool.wrote(gpa, length),
      allocate: (length, alignment) => pool.allocate(length, alignment),
      free: (gpa, length) => pool.free(gpa, length),
    };
    Object.defineProperty(transport, "memory", { value: memory });
    const driver = await BlkDriver.open(transport, { depth: 2, transferSize: 4096 });
    const ring = pool.allocate(16, 16);
    gone = true;
    for (let i = 0; i < 5; i++) await expect(driver.read(0, new Uint8Array(512))).rejects.toThrow("no ring");
  });

  test("a size_max of 0, as qemu-storage-daemon has it, is no limit", async () => {
    const inner = new BlkDevice(new MemoryBlockBackend(SIZE));
    let segments = 0;
    const spied = wrap(inner, {
      serve: (chain, context) => {
        segments = chain.writable.length;
        return inner.queues[0]?.serve?.(chain, context) ?? 0;
      },
    });
    const read = inner.config.read.bind(inner.config);
    inner.config.read = (offset, target) => {
      read(offset, target);
      for (let at = BLK.VIRTIO_BLK_CONFIG.size_max; at < BLK.VIRTIO_BLK_CONFIG.size_max + 4; at++)
        if (at >= offset && at < offset + target.length) target[at - offset] = 0;
    };
    const driver = await BlkDriver.open(new Loopback(spied));
    await driver.read(0, new Uint8Array(8192));
    // The data in one piece, and the status.
    expect(segments).toBe(2);
  });

  test(
    clause("drv.blk.init", "RO is accepted; LIFETIME, SECURE_ERASE, ZONED and the legacy bits never"),
    async () => {
      const device = new BlkDevice(new ReadOnlyBlockBackend(new MemoryBlockBackend(SIZE)));
      const offered = ((1n << 18n) - 1n) | device.features;
      const lying: VirtioDevice = wrap(device, { features: offered });
      const driver = await BlkDriver.open(new Loopback(lying));
      for (const bit of [0, 7, 15, 16, 17]) expect(hasFeature(driver.features, bit)).toBe(false);
      expect(hasFeature(driver.features, BLK.VIRTIO_BLK_F_RO)).toBe(true);
      await expect(driver.write(0, new Uint8Array(512))).rejects.toThrow(/read-only/);
    },
  );

  test(clause("drv.blk.operation", "what reaches the device keeps every rule for requests"), async () => {
    const seen: { type: number; sector: bigint; out: number; in: number; payload: Uint8Array }[] = [];
    const inner = new BlkDevice(new MemoryBlockBackend(SIZE), {
      maxDiscardSectors: 100,
      maxWriteZeroesSectors: 64,
    });
    const spied = wrap(inner, {
      serve: (chain, context) => {
        const readable = Buffer.concat(
          chain.readable.map(({ gpa, length }) => context.memory.view(gpa, length)),
        );
        seen.push({
          type: readable.readUInt32LE(0),
          sector: readable.readBigUInt64LE(8),
          out: chain.readableLength - 16,
          in: chain.writableLength - 1,
          payload: Uint8Array.from(readable.subarray(16)),
        });
        return inner.queues[0]?.serve?.(chain, context) ?? 0;
      },
    });
    const driver = await BlkDriver.open(new Loopback(spied));
    await fc.assert(
      fc.asyncProperty(fc.nat(SECTORS), fc.nat(5000), async (sector, count) => {
        seen.length = 0;
        const fits = sector + count <= SECTORS;
        const calls = [
          () => driver.read(sector, new Uint8Array(count * 512)),
          () => driver.discard(sector, count),
          () => driver.writeZeroes(sector, count, true),
        ];
        for (const call of calls)
          if (fits) await call();
          else await expect(call()).rejects.toThrow(RangeError);
        await driver.flush();
        await driver.getId();
        if (!fits)
          expect(seen.map(({ type }) => type)).toEqual([BLK.VIRTIO_BLK_T_FLUSH, BLK.VIRTIO_BLK_T_GET_ID]);
        for (const request of seen) {
          if (request.type === BLK.VIRTIO_BLK_T_IN) expect(request.in % 512).toBe(0);
          else expect(request.sector).toBe(0n);
          if (request.type === BLK.VIRTIO_BLK_T_FLUSH) expect(request.out + request.in).toBe(0);
          if (request.type === BLK.VIRTIO_BLK_T_GET_ID) expect([request.out, request.in]).toEqual([0, 20]);
          if (request.type === BLK.VIRTIO_BLK_T_DISCARD) expectRanges(request.payload, 100, 0);
          if (request.type === BLK.VIRTIO_BLK_T_WRITE_ZEROES) expectRanges(request.payload, 64, 1);
        }
      }),
      { numRuns: 30 },
    );
  });

  test(
    clause("drv.blk.operation", "a new capacity is read on a configuration change notification"),
    async () => {
      const disk = new MemoryBlockBackend(SIZE);
      const { driver } = await open(new BlkDevice(disk));
      let changes = 0;
      driver.onChange = () => changes++;
      await expect(driver.read(SECTORS, new Uint8Array(512))).rejects.toThrow(RangeError);
      disk.resize(SIZE + 512);
      expect([changes, driver.info.capacity]).toEqual([1, SECTORS + 1]);
      await driver.read(SECTORS, new Uint8Array(512));
    },
  );

  test("an error status is a BlkError, and the device stays usable", async () => {
    const disk = new MemoryBlockBackend(SIZE, { maxBytes: 0 });
    const { driver } = await open(new BlkDevice(disk));
    const error = await driver.write(8, new Uint8Array(512)).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(BlkError);
    expect(error).toMatchObject({ status: BLK.VIRTIO_BLK_S_IOERR, type: BLK.VIRTIO_BLK_T_OUT, sector: 8 });
    await driver.read(0, new Uint8Array(512));
  });

  test.each([
    { what: "no status byte", lie: (_: DescriptorChain, written: number) => written },
    { what: "a short used length", lie: (_: DescriptorChain, written: number) => written - 1, honest: true },
    { what: "a used length of 0", lie: () => 0, honest: true },
  ])("a device that lies with $what is given up", async ({ lie, honest = false }) => {
    const inner = new BlkDevice(new MemoryBlockBackend(SIZE));
    const lying = wrap(inner, {
      serve: (chain, context) => {
        const written = inner.queues[0]?.serve?.(chain, context);
        const last = chain.writable.at(-1);
        if (!honest && last !== undefined) context.memory.view(last.gpa + last.length - 1, 1)[0] = 0xff;
        return lie(chain, typeof written === "number" ? written : 0);
      },
    });
    const driver = await BlkDriver.open(new Loopback(lying));
    await expect(driver.read(0, new Uint8Array(512))).rejects.toThrow(/dev\.blk\.operation/);
    await expect(driver.read(0, new Uint8Array(512))).rejects.toThrow();
  });

  test("sectors come as a stream, in pieces of what one request carries", async () => {
    const disk = new MemoryBlockBackend(Uint8Array.from({ length: SIZE }, (_, i) => i >>> 9));
    const { driver } = await open(new BlkDevice(disk), { transferSize: 4096 });
    const lengths: number[] = [];
    let sector = 3;
    for await (const piece of driver.sectors(3, 20)) {
      lengths.push(piece.length);
      for (let at = 0; at < piece.length; at += 512) expect(piece[at]).toBe(sector++ & 0xff);
    }
    expect(lengths).toEqual([4096, 4096, 2048]);
  });

  test("closing while requests are out ends them with an error", async () => {
    const disk = new SlowDisk(SIZE);
    let go = (): void => undefined;
    const gate = new Promise<void>((resolve) => (go = resolve));
    disk.turn = () => gate;
    const { driver, transport } = await open(new BlkDevice(disk), { depth: 2 });
    const reads = [0, 1, 2, 3].map((sector) => driver.read(sector, new Uint8Array(512)));
    const settled = Promise.allSettled(reads);
    await Promise.resolve();
    const closed = driver.close();
    go();
    await closed;
    expect((await settled).map(({ status }) => status)).toEqual(Array(4).fill("rejected"));
    expect([transport.instance.status, disk.busy, transport.faults]).toEqual([0, 0, []]);
  });
});

interface Overrides {
  readonly features?: bigint;
  readonly serve?: (chain: DescriptorChain, context: DeviceContext) => MaybePromise<number>;
}

/** The device, with another answer in one place. */
function wrap(device: BlkDevice, { features = device.features, serve }: Overrides): VirtioDevice {
  return {
    id: device.id,
    name: device.name,
    features,
    config: device.config,
    queues: device.queues.map((spec) => (serve === undefined ? spec : { ...spec, serve })),
    refuse: (accepted) => device.refuse(accepted),
    activate: (context) => device.activate(context),
    reset: () => device.reset(),
  };
}

function expectRanges(payload: Uint8Array, maxSectors: number, flags: number): void {
  const view = Buffer.from(payload);
  expect(view.length % 16).toBe(0);
  expect(view.length / 16).toBeLessThanOrEqual(16);
  for (let at = 0; at < view.length; at += 16) {
    expect(view.readUInt32LE(at + 8)).toBeLessThanOrEqual(maxSectors);
    expect(view.readUInt32LE(at + 12)).toBe(flags);
  }
}
