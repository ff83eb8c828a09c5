import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { VirtioFault } from "../../src/fault.ts";
import * as BLK from "../../src/spec/blk.ts";
import { featureBits } from "../../src/spec/core.ts";
import { BrokenDisk, VectorDisk, VolatileDisk } from "./disks.ts";
import { BlkHarness } from "./harness.ts";

const SIZE = 1 << 20;
const SECTORS = SIZE / 512;
const { VIRTIO_BLK_S_OK: OK, VIRTIO_BLK_S_IOERR: IOERR, VIRTIO_BLK_S_UNSUPP: UNSUPP } = BLK;

function segment(sector: number | bigint, sectors: number, flags = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt(sector), true);
  view.setUint32(8, sectors, true);
  view.setUint32(12, flags, true);
  return new Uint8Array(view.buffer);
}

function filled(): MemoryBlockBackend {
  return new MemoryBlockBackend(new Uint8Array(SIZE).fill(7));
}

describe("blk device", () => {
  test(
    clause("dev.blk.operation", "a read-only device answers writes with IOERR and writes nothing"),
    async () => {
      // This one would write if it were asked to.
      const disk = Object.defineProperty(filled(), "readOnly", { value: true });
      const harness = new BlkHarness(disk);
      expect(harness.device.features & featureBits(BLK.VIRTIO_BLK_F_RO)).not.toBe(0n);
      const out = new Uint8Array(512).fill(1);
      expect((await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out })).status).toBe(IOERR);
      for (const type of [BLK.VIRTIO_BLK_T_DISCARD, BLK.VIRTIO_BLK_T_WRITE_ZEROES])
        expect((await harness.request({ type, out: segment(0, 8) })).status).toBe(UNSUPP);
      const { status, data } = await harness.request({ type: BLK.VIRTIO_BLK_T_IN, in: SIZE });
      expect([status, data.every((byte) => byte === 7)]).toEqual([OK, true]);
    },
  );

  test(
    clause("dev.blk.operation", "any unknown flag of a discard or write zeroes segment is UNSUPP"),
    async () => {
      const harness = new BlkHarness(filled());
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 0xffff_ffff }),
          fc.nat(1),
          fc.nat(2),
          async (flags, before, after) => {
            const plain = (count: number): Uint8Array[] => Array.from({ length: count }, () => segment(0, 1));
            const out = Buffer.concat([...plain(before), segment(8, 8, flags), ...plain(after)]);
            expect((await harness.request({ type: BLK.VIRTIO_BLK_T_DISCARD, out })).status).toBe(UNSUPP);
            const zeroes = await harness.request({ type: BLK.VIRTIO_BLK_T_WRITE_ZEROES, out });
            expect(zeroes.status).toBe(flags === 1 ? OK : UNSUPP);
          },
        ),
        { numRuns: 50 },
      );
    },
  );

  test(clause("dev.blk.operation", "a refused discard or write zeroes has touched no sector"), async () => {
    const disk = filled();
    const harness = new BlkHarness(disk);
    for (const bad of [
      segment(0, 1, 2),
      segment(SECTORS, 1),
      segment(2n ** 63n, 1),
      segment(0, 2 ** 22 + 1),
    ]) {
      for (const type of [BLK.VIRTIO_BLK_T_DISCARD, BLK.VIRTIO_BLK_T_WRITE_ZEROES]) {
        const out = Buffer.concat([segment(0, 256), bad]);
        expect((await harness.request({ type, out })).status).not.toBe(OK);
      }
    }
    const all = new Uint8Array(SIZE);
    disk.read(0, all);
    expect(all.every((byte) => byte === 7)).toBe(true);
  });

  test(
    clause("dev.blk.operation", "write zeroes makes sectors read as zeroes, with unmap and without"),
    async () => {
      for (const disk of [filled(), new VolatileDisk(SIZE)])
        for (const unmap of [0, 1]) {
          const harness = new BlkHarness(disk);
          await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out: new Uint8Array(SIZE).fill(9) });
          const out = segment(3, 300, unmap);
          expect((await harness.request({ type: BLK.VIRTIO_BLK_T_WRITE_ZEROES, out })).status).toBe(OK);
          const { data } = await harness.request({ type: BLK.VIRTIO_BLK_T_IN, in: SIZE });
          const wrong = data.findIndex((byte, i) => byte !== (i >= 3 * 512 && i < 303 * 512 ? 0 : 9));
          expect(wrong).toBe(-1);
        }
    },
  );

  test(
    clause("dev.blk.operation", "zone, erase, lifetime, SCSI and unknown requests are UNSUPP"),
    async () => {
      const harness = new BlkHarness(filled());
      const known = new Set<number>([
        0,
        1,
        BLK.VIRTIO_BLK_T_FLUSH,
        BLK.VIRTIO_BLK_T_GET_ID,
        BLK.VIRTIO_BLK_T_DISCARD,
      ]);
      known.add(BLK.VIRTIO_BLK_T_WRITE_ZEROES);
      const types = [
        ...Array.from({ length: 40 }, (_, i) => i),
        BLK.VIRTIO_BLK_T_BARRIER,
        0x8000_0001,
        0xffff_ffff,
      ];
      for (const type of types.filter((value) => !known.has(value))) {
        const result = await harness.request({ type, out: segment(0, 1), in: 64 });
        expect({ type, status: result.status }).toEqual({ type, status: UNSUPP });
        expect(result.written).toBe(65);
      }
    },
  );

  test("a sector or sum beyond the capacity is IOERR, up to 2^64", async () => {
    const harness = new BlkHarness(filled());
    const sectors = [
      SECTORS,
      SECTORS - 1,
      2n ** 32n,
      2n ** 44n,
      2n ** 53n - 1n,
      2n ** 55n,
      2n ** 64n - 1n,
      2n ** 64n - 2n,
    ];
    for (const sector of sectors) {
      const read = await harness.request({ type: BLK.VIRTIO_BLK_T_IN, sector, in: 1024 });
      expect([read.status, read.written, read.data.every((byte) => byte === 0)]).toEqual([IOERR, 1025, true]);
      expect((await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, sector, out: read.data })).status).toBe(
        IOERR,
      );
    }
    expect((await harness.request({ type: BLK.VIRTIO_BLK_T_IN, sector: SECTORS - 1, in: 512 })).status).toBe(
      OK,
    );
  });

  test("data of no whole number of sectors is IOERR", async () => {
    const harness = new BlkHarness(filled());
    for (const length of [1, 511, 513, 1023]) {
      expect((await harness.request({ type: BLK.VIRTIO_BLK_T_IN, in: length })).status).toBe(IOERR);
      const out = new Uint8Array(length);
      expect((await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out })).status).toBe(IOERR);
    }
  });

  test("a discard without whole segments, or with too many, is IOERR", async () => {
    const harness = new BlkHarness(filled());
    const many = Buffer.concat(Array.from({ length: 17 }, () => segment(0, 1)));
    for (const out of [new Uint8Array(0), new Uint8Array(15), new Uint8Array(17), many])
      for (const type of [BLK.VIRTIO_BLK_T_DISCARD, BLK.VIRTIO_BLK_T_WRITE_ZEROES])
        expect((await harness.request({ type, out })).status).toBe(IOERR);
    const most = many.subarray(0, 256);
    expect((await harness.request({ type: BLK.VIRTIO_BLK_T_DISCARD, out: most })).status).toBe(OK);
  });

  test("a discard or write zeroes of more sectors than announced is IOERR", async () => {
    const options = { maxDiscardSectors: 100, maxWriteZeroesSectors: 10 };
    const harness = new BlkHarness(filled(), options);
    for (const [type, most] of [
      [BLK.VIRTIO_BLK_T_DISCARD, 100],
      [BLK.VIRTIO_BLK_T_WRITE_ZEROES, 10],
    ] as const)
      for (const [sectors, status] of [
        [most, OK],
        [most + 1, IOERR],
        [0, OK],
      ] as const)
        expect((await harness.request({ type, out: segment(5, sectors) })).status).toBe(status);
  });

  test("requests of features that were not negotiated are UNSUPP", async () => {
    const decline = featureBits(BLK.VIRTIO_BLK_F_DISCARD, BLK.VIRTIO_BLK_F_WRITE_ZEROES);
    const harness = new BlkHarness(filled(), {}, decline);
    for (const type of [BLK.VIRTIO_BLK_T_DISCARD, BLK.VIRTIO_BLK_T_WRITE_ZEROES])
      expect((await harness.request({ type, out: segment(0, 1) })).status).toBe(UNSUPP);
  });

  test("the legacy synonym of a flush is a flush only for a legacy driver", async () => {
    const disk = new VolatileDisk(SIZE);
    const harness = new BlkHarness(disk);
    const flushOut = { type: BLK.VIRTIO_BLK_T_FLUSH_OUT };
    expect((await harness.request(flushOut)).status).toBe(UNSUPP);
    void harness.device.reset();
    harness.start(harness.device.features);
    expect([(await harness.request(flushOut)).status, disk.flushes]).toEqual([OK, 1]);
  });

  test("the device ID is the serial, padded with NULs to 20 bytes", async () => {
    for (const serial of ["", "a", "0123456789abcdefghij"]) {
      const harness = new BlkHarness(filled(), { serial });
      const { status, data } = await harness.request({ type: BLK.VIRTIO_BLK_T_GET_ID, in: 20 });
      expect([status, Buffer.from(data).toString("latin1")]).toEqual([OK, serial.padEnd(20, "\0")]);
      for (const length of [0, 19, 21])
        expect((await harness.request({ type: BLK.VIRTIO_BLK_T_GET_ID, in: length })).status).toBe(IOERR);
    }
  });

  test("a failing backend is IOERR for every request that reaches it, and is told to the host", async () => {
    for (const asynchronous of [false, true]) {
      const errors: unknown[] = [];
      const harness = new BlkHarness(new BrokenDisk(asynchronous), {
        onError: (error) => errors.push(error),
      });
      const requests = [
        { type: BLK.VIRTIO_BLK_T_IN, in: 512 },
        { type: BLK.VIRTIO_BLK_T_OUT, out: new Uint8Array(512) },
        { type: BLK.VIRTIO_BLK_T_FLUSH },
        { type: BLK.VIRTIO_BLK_T_DISCARD, out: segment(0, 1) },
        { type: BLK.VIRTIO_BLK_T_WRITE_ZEROES, out: segment(0, 1) },
      ];
      for (const parts of requests) {
        const { status, data, written } = await harness.request(parts);
        expect([status, written]).toEqual([IOERR, data.length + 1]);
      }
      expect(errors).toHaveLength(requests.length);
    }
  });

  test("a chain with no room for a status is a fault; one with no whole header is IOERR", async () => {
    const harness = new BlkHarness(filled());
    expect(() => harness.serve(harness.rawChain(new Uint8Array(16), 0))).toThrow(VirtioFault);
    for (const length of [0, 1, 15]) {
      const chain = harness.rawChain(new Uint8Array(length), 5);
      expect(harness.outcome(chain, await harness.serve(chain))).toMatchObject({ status: IOERR, written: 5 });
    }
  });

  test("a request longer than what a device takes is IOERR without touching the data", async () => {
    const harness = new BlkHarness(new MemoryBlockBackend(2 ** 40));
    // Overlapping descriptors: 2^29 bytes of data in one mebibyte of memory.
    const writable = Array.from({ length: 512 }, () => ({ gpa: 0x10_0000, length: 0x10_0000 }));
    const chain = harness.chain({ type: BLK.VIRTIO_BLK_T_IN });
    const status = chain.writable;
    const long = { ...chain, writable: [...writable, ...status], writableLength: 2 ** 29 + 1 };
    expect([await harness.serve(long), harness.bytes[status[0]?.gpa ?? 0]]).toEqual([0, IOERR]);
    expect(harness.bytes.subarray(0x10_0000, 0x20_0000).every((byte) => byte === 0)).toBe(true);
  });

  test("a backend that scatters and gathers is called once a request", async () => {
    const disk = new VectorDisk(SIZE);
    const harness = new BlkHarness(disk);
    const cuts = { readable: [16, 1000, 5000], writable: [100, 4096, 5000] };
    const out = Uint8Array.from({ length: 8192 }, (_, i) => i);
    await harness.request({ type: BLK.VIRTIO_BLK_T_OUT, out }, cuts);
    const { data } = await harness.request({ type: BLK.VIRTIO_BLK_T_IN, in: 8192 }, cuts);
    expect([disk.vectors, Buffer.compare(data, out)]).toEqual([2, 0]);
  });

  test("the machine hears of every byte that is written, and of no other", async () => {
    const harness = new BlkHarness(filled());
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(5000), { maxLength: 6 }), async (writable) => {
        harness.written.length = 0;
        harness.rewind();
        const chain = harness.chain({ type: BLK.VIRTIO_BLK_T_IN, in: 4096 }, { readable: [], writable });
        await harness.serve(chain);
        const told = new Set(
          harness.written.flatMap(({ gpa, length }) => Array.from({ length }, (_, i) => gpa + i)),
        );
        const owned = chain.writable.flatMap(({ gpa, length }) => Array.from({ length }, (_, i) => gpa + i));
        expect([...told].sort((a, b) => a - b)).toEqual(owned);
      }),
      { numRuns: 20 },
    );
  });
});
