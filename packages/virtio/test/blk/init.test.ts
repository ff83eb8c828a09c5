import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { ReadOnlyBlockBackend } from "../../src/backends/read-only-block.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import type { BlkOptions } from "../../src/devices/blk/options.ts";
import { readLe16, readLe32, readLe64 } from "../../src/memory/bytes.ts";
import * as BLK from "../../src/spec/blk.ts";
import { VIRTIO_F_VERSION_1, featureBits, hasFeature } from "../../src/spec/core.ts";
import { SlowDisk, VolatileDisk } from "./disks.ts";
import { BlkHarness } from "./harness.ts";

const SIZE = 10 << 20;
const AT = BLK.VIRTIO_BLK_CONFIG;
const WCE = featureBits(BLK.VIRTIO_BLK_F_CONFIG_WCE);
const FLUSH = featureBits(BLK.VIRTIO_BLK_F_FLUSH);
const MODERN = featureBits(VIRTIO_F_VERSION_1);

function configOf(device: BlkDevice): Uint8Array {
  const bytes = new Uint8Array(device.config.length);
  device.config.read(0, bytes);
  return bytes;
}

const writeback = (device: BlkDevice): number => configOf(device)[AT.writeback] ?? -1;

describe("blk device initialisation", () => {
  test(clause("dev.blk.init", "FLUSH is always offered, ZONED and what the backend lacks never"), () => {
    for (const backend of [
      new MemoryBlockBackend(SIZE),
      new ReadOnlyBlockBackend(new MemoryBlockBackend(SIZE)),
      new VolatileDisk(SIZE),
      new SlowDisk(SIZE),
    ])
      for (const configWce of [true, false]) {
        const { features } = new BlkDevice(backend, { configWce });
        const has = (bit: number): boolean => hasFeature(features, bit);
        expect(has(BLK.VIRTIO_BLK_F_FLUSH)).toBe(true);
        expect(has(BLK.VIRTIO_BLK_F_CONFIG_WCE)).toBe(configWce);
        expect(has(BLK.VIRTIO_BLK_F_RO)).toBe(backend.readOnly);
        expect(has(BLK.VIRTIO_BLK_F_DISCARD)).toBe(!backend.readOnly && "discard" in backend);
        expect(has(BLK.VIRTIO_BLK_F_WRITE_ZEROES)).toBe(!backend.readOnly);
        const never = [
          BLK.VIRTIO_BLK_F_BARRIER,
          BLK.VIRTIO_BLK_F_SCSI,
          BLK.VIRTIO_BLK_F_LIFETIME,
          BLK.VIRTIO_BLK_F_SECURE_ERASE,
          BLK.VIRTIO_BLK_F_ZONED,
        ];
        for (const bit of never) expect(has(bit)).toBe(false);
      }
  });

  test(clause("dev.blk.init", "with CONFIG_WCE and without FLUSH, writeback begins as 0"), () => {
    const { device } = new BlkHarness(new MemoryBlockBackend(SIZE), {}, FLUSH);
    void device.reset();
    expect(writeback(device)).toBe(1);
    device.refuse(MODERN | WCE);
    expect(writeback(device)).toBe(0);
    void device.reset();
    device.refuse(MODERN | WCE | FLUSH);
    expect(writeback(device)).toBe(1);
  });

  test(clause("dev.blk.init", "padding is 0 and fields of features that are not offered are 0"), () => {
    const config = configOf(
      new BlkDevice(new VolatileDisk(SIZE), { geometry: { cylinders: 1, heads: 2, sectors: 3 } }),
    );
    expect(config[AT.unused0]).toBe(0);
    expect(config.subarray(AT.unused1, AT.unused1 + 3)).toEqual(new Uint8Array(3));
    expect(config.subarray(AT.num_queues, AT.max_write_zeroes_sectors)).toEqual(new Uint8Array(14));
    expect(config.length).toBe(AT.max_secure_erase_sectors);
  });

  test("every option has its place in the configuration space", () => {
    const options: BlkOptions = {
      logicalBlockSize: 4096,
      physicalBlockSize: 16_384,
      minIoSize: 8192,
      optIoSize: 1 << 20,
      numQueues: 4,
      queueSize: 128,
      discardGranularity: 65_536,
      maxDiscardSectors: 1000,
      maxWriteZeroesSectors: 2000,
      geometry: { cylinders: 1000, heads: 4, sectors: 32 },
    };
    const device = new BlkDevice(new MemoryBlockBackend(SIZE), options);
    const config = configOf(device);
    expect(readLe64(config, AT.capacity)).toBe(SIZE / 512);
    expect(readLe32(config, AT.size_max)).toBe(1 << 20);
    expect(readLe32(config, AT.seg_max)).toBe(126);
    expect(readLe16(config, AT["geometry.cylinders"])).toBe(1000);
    expect(config[AT["geometry.heads"]]).toBe(4);
    expect(config[AT["geometry.sectors"]]).toBe(32);
    expect(readLe32(config, AT.blk_size)).toBe(4096);
    expect(config[AT["topology.physical_block_exp"]]).toBe(2);
    expect(config[AT["topology.alignment_offset"]]).toBe(0);
    expect(readLe16(config, AT["topology.min_io_size"])).toBe(2);
    expect(readLe32(config, AT["topology.opt_io_size"])).toBe(256);
    expect(readLe16(config, AT.num_queues)).toBe(4);
    expect(readLe32(config, AT.max_discard_sectors)).toBe(1000);
    expect(readLe32(config, AT.max_discard_seg)).toBe(16);
    expect(readLe32(config, AT.discard_sector_alignment)).toBe(128);
    expect(readLe32(config, AT.max_write_zeroes_sectors)).toBe(2000);
    expect(readLe32(config, AT.max_write_zeroes_seg)).toBe(4);
    expect(config[AT.write_zeroes_may_unmap]).toBe(1);
    expect(hasFeature(device.features, BLK.VIRTIO_BLK_F_MQ)).toBe(true);
    expect(device.queues.map(({ name, maxSize }) => `${name}:${maxSize}`)).toEqual(
      [1, 2, 3, 4].map((n) => `requestq${n}:128`),
    );
  });

  test("seg_max leaves room for header and status in a chain no longer than the queue", () => {
    for (const queueSize of [4, 64, 256, 1024, 32_768])
      for (const segMaxAdjust of [true, false]) {
        const config = configOf(new BlkDevice(new MemoryBlockBackend(SIZE), { queueSize, segMaxAdjust }));
        const segMax = readLe32(config, AT.seg_max);
        expect(segMax).toBe(segMaxAdjust ? queueSize - 2 : Math.min(126, queueSize - 2));
        expect(segMax * readLe32(config, AT.size_max)).toBeLessThanOrEqual(2 ** 28);
      }
  });

  test("options that do not fit are told by QEMU's name", () => {
    const build = (options: BlkOptions) => () => new BlkDevice(new MemoryBlockBackend(SIZE), options);
    expect(build({ serial: "x".repeat(21) })).toThrow(/serial/);
    expect(build({ serial: "\u00e9" })).toThrow(/serial/);
    expect(build({ queueSize: 3 })).toThrow(/queue-size/);
    expect(build({ queueSize: 100 })).toThrow(/queue-size/);
    expect(build({ numQueues: 0 })).toThrow(/num-queues/);
    expect(build({ logicalBlockSize: 1000 })).toThrow(/logical_block_size/);
    expect(build({ logicalBlockSize: 4096, physicalBlockSize: 512 })).toThrow(/physical_block_size/);
    expect(build({ minIoSize: 100 })).toThrow(/min_io_size/);
    expect(build({ discardGranularity: 100 })).toThrow(/discard_granularity/);
    expect(build({ geometry: { cylinders: 0, heads: 1, sectors: 1 } })).toThrow(/cyls/);
  });

  test("only writeback can be written, and only with CONFIG_WCE or before features are chosen", () => {
    const device = new BlkDevice(new MemoryBlockBackend(SIZE));
    const before = configOf(device);
    device.config.write(0, new Uint8Array(device.config.length).fill(0xff), { features: MODERN | WCE });
    expect(configOf(device)).toEqual(before);
    device.config.write(AT.writeback, Uint8Array.of(0), { features: MODERN | FLUSH });
    expect(writeback(device)).toBe(1);
    device.config.write(AT.writeback, Uint8Array.of(0), { features: 0n });
    expect(writeback(device)).toBe(0);
    device.config.write(AT.writeback - 1, Uint8Array.of(0, 1, 0), { features: MODERN | WCE });
    expect(writeback(device)).toBe(1);
  });

  test("legacy: the cache mode changes with DRIVER_OK only where the driver did not take CONFIG_WCE", () => {
    const { device, start } = legacy();
    device.config.write(AT.writeback, Uint8Array.of(1), { features: 0n });
    start(WCE);
    expect(writeback(device)).toBe(1);
    void device.reset();
    start(0n);
    expect(writeback(device)).toBe(0);
  });

  test(
    clause("dev.blk.operation", "a changed capacity is shown with a configuration change notification"),
    async () => {
      const disk = new MemoryBlockBackend(SIZE);
      const harness = new BlkHarness(disk);
      disk.resize(2 * SIZE);
      expect(harness.configChanges).toBe(1);
      expect(readLe64(configOf(harness.device), AT.capacity)).toBe((2 * SIZE) / 512);
      const beyond = { type: BLK.VIRTIO_BLK_T_IN, sector: SIZE / 512, in: 512 };
      expect((await harness.request(beyond)).status).toBe(0);
      disk.resize(SIZE);
      expect([harness.configChanges, (await harness.request(beyond)).status]).toEqual([2, 1]);
      disk.resize(SIZE + 1);
      expect(harness.configChanges).toBe(2);
    },
  );

  test("a capacity that changes before DRIVER_OK is told at DRIVER_OK", () => {
    const disk = new MemoryBlockBackend(SIZE);
    const harness = new BlkHarness(disk);
    void harness.device.reset();
    disk.resize(2 * SIZE);
    expect(readLe64(configOf(harness.device), AT.capacity)).toBe(SIZE / 512);
    harness.start(harness.device.features | MODERN);
    expect([harness.configChanges, readLe64(configOf(harness.device), AT.capacity)]).toEqual([
      1,
      (2 * SIZE) / 512,
    ]);
  });

  test("saved state comes back; anything else is refused and changes nothing", () => {
    const disk = new MemoryBlockBackend(SIZE);
    const harness = new BlkHarness(disk);
    harness.device.config.write(AT.writeback, Uint8Array.of(0), harness.context);
    const state = structuredClone(harness.device.save());
    const other = new BlkHarness(new MemoryBlockBackend(2 * SIZE));
    void other.device.reset();
    other.device.restore(state);
    other.start(other.device.features | MODERN);
    expect(other.configChanges).toBe(1);
    for (const bad of [
      undefined,
      null,
      1,
      "x",
      [],
      {},
      { ...state, capacity: -1 },
      { ...state, capacity: 1.5 },
      { ...state, writeback: 1 },
    ]) {
      const before = configOf(other.device);
      expect(() => other.device.restore(bad)).toThrow(RangeError);
      expect(configOf(other.device)).toEqual(before);
    }
  });
});

function legacy(): { device: BlkDevice; start: (features: bigint) => void } {
  const harness = new BlkHarness(new MemoryBlockBackend(SIZE));
  void harness.device.reset();
  return { device: harness.device, start: (features) => void harness.start(features) };
}
