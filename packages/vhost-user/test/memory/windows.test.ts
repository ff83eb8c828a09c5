import { spawnSync } from "node:child_process";
import { openSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { VirtioFault } from "virtio/fault";
import { findProgram, needs } from "@virtio/testkit/needs";
import { Iotlb } from "@virtio/vhost-user/memory/iotlb";
import { MemoryTable } from "@virtio/vhost-user/memory/memory-table";
import { WINDOWS } from "@virtio/vhost-user/memory/region";
import { Descriptor, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { check, natives } from "@virtio/vhost-user/native/libc";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { PeerError } from "@virtio/vhost-user/protocol/errors";

const GIB = 2 ** 30;
const PAGE = 0x1000;
const USER = 0x7f00_0000_0000;

afterEach(() => expect(openDescriptors()).toBe(0));

/** Memory whose size may change. */
function unsealed(length: number): Descriptor {
  const memfd = new Descriptor(
    check(natives().memfd_create(new TextEncoder().encode("plain\0"), 1), "memfd"),
  );
  check(natives().ftruncate(memfd.fd, length), "ftruncate");
  return memfd;
}

test("regions of 64 GiB: nothing is mapped before it is touched, and then a window; one descriptor for all", () => {
  const memfd = createMemfd("guest", 192 * GIB);
  const table = new MemoryTable();
  for (const index of [0, 1, 2])
    table.add(
      {
        guestAddress: index * 128 * GIB,
        size: 64 * GIB,
        userAddress: USER + index * 128 * GIB,
        mmapOffset: index * 64 * GIB,
      },
      memfd,
    );
  expect(openDescriptors()).toBe(2);
  expect(table.mappedBytes).toBe(0);
  expect(table.guestAddress(USER + 130 * GIB)).toBe(130 * GIB);
  const { epoch } = table;
  const far = 128 * GIB + 63 * GIB + 5;
  expect(table.contiguous(far, 2 * GIB)).toBe(GIB - 5);
  expect(table.mappedBytes).toBe(GIB);
  table.view(far, 1)[0] = 42;
  table.view(128 * GIB, PAGE).fill(7);
  expect(table.mappedBytes).toBe(2 * GIB + WINDOWS.overlap);
  expect(table.regions.map(({ windowCount }) => windowCount)).toEqual([0, 2, 0]);
  // What was seen before stays.
  expect(table.epoch).toBe(epoch);
  expect(table.view(far, 1)[0]).toBe(42);
  const stale = table.view(far, 1);
  table.replace([]);
  expect(table.mappedBytes).toBe(0);
  expect(stale[0]).toBe(0);
  memfd.close();
});

test("a range over the border of two windows is one view of the overlap's length at least, and all of its parts are views", () => {
  const memfd = createMemfd("guest", 4 * GIB);
  const table = new MemoryTable();
  table.add({ guestAddress: 0, size: 4 * GIB, userAddress: USER, mmapOffset: 0 }, memfd);
  for (const before of [1, PAGE, WINDOWS.overlap, 5 * WINDOWS.overlap]) {
    const from = 2 * GIB - before;
    const run = table.contiguous(from, GIB);
    expect(run).toBe(before + WINDOWS.overlap);
    table.view(from, run).fill(before);
    for (const at of [0, 1, before - 1, before, before + 1, run - 1])
      expect(new Set(table.view(from + at, run - at))).toEqual(new Set([before & 0xff]));
    expect(() => table.view(from, run + 1)).toThrow(VirtioFault);
  }
  table.clear();
  memfd.close();
});

test("whatever is touched in whatever order, windows show what a table mapped whole shows", () => {
  const sizes = { size: 0x1_0000, overlap: 0x1_0000 >>> 2 };
  const FILE = 64 * 0x1_0000;
  const memfd = createMemfd("guest", FILE);
  const access = fc.record({
    at: fc.integer({ min: 0, max: FILE + 0x2_0000 }),
    length: fc.integer({ min: 0, max: 0x3_0000 }),
    value: fc.integer({ min: 0, max: 255 }),
    inside: fc.double({ min: 0, max: 1, noNaN: true }),
  });
  const cut = fc.record({
    pages: fc.integer({ min: 1, max: 200 }),
    hole: fc.integer({ min: 0, max: 8 }),
    filePage: fc.integer({ min: 0, max: 800 }),
  });
  fc.assert(
    fc.property(
      fc.array(cut, { maxLength: 6 }),
      fc.array(access, { maxLength: 40 }),
      fc.boolean(),
      (cuts, all, iommu) => {
        const windows = new MemoryTable({ windows: sizes });
        const whole = new MemoryTable({ windows: { size: 2 ** 40, overlap: 0 } });
        let page = 0;
        for (const { pages, hole, filePage } of cuts) {
          page += hole;
          const region = {
            guestAddress: page * PAGE,
            size: pages * PAGE,
            userAddress: USER + page * PAGE,
            mmapOffset: filePage * PAGE,
          };
          windows.add(region, memfd);
          whole.add(region, memfd);
          page += pages;
        }
        if (iommu) {
          windows.iotlb = whole.iotlb = new Iotlb();
          // Neighbours that are swapped: what goes on in I/O virtual addresses does not always go on in the guest's.
          for (let at = 0; at < page; at += 8) {
            const to = (at / 8) % 3 === 1 ? at + 8 : (at / 8) % 3 === 2 ? at - 8 : at;
            const entry = { iova: at * PAGE, size: 8 * PAGE, userAddress: USER + to * PAGE, permissions: 3 };
            whole.iotlb.update(entry);
          }
        }
        for (const { at, length, value, inside } of all) {
          const most = whole.contiguous(at, length);
          const run = windows.contiguous(at, length);
          expect(run).toBeLessThanOrEqual(most);
          expect(run).toBeGreaterThanOrEqual(Math.min(most, sizes.overlap));
          if (run === 0) continue;
          const start = Math.floor(inside * (run - 1));
          windows.view(at + start, run - start).fill(value);
          expect(Buffer.compare(windows.view(at, run), whole.view(at, run))).toBe(0);
          expect(whole.view(at + start, 1)[0]).toBe(value);
          expect(() => windows.view(at, 2 * FILE)).toThrow(VirtioFault);
        }
        windows.clear();
        whole.clear();
      },
    ),
    { numRuns: 200 },
  );
  memfd.close();
});

test("509 regions of one file hold one descriptor; of their own files one each, until they go", () => {
  const memfd = createMemfd("guest", 509 * PAGE);
  const table = new MemoryTable();
  const region = (index: number) => ({
    guestAddress: index * 2 * PAGE,
    size: PAGE,
    userAddress: USER + index * 2 * PAGE,
    mmapOffset: index * PAGE,
  });
  for (let index = 0; index < 509; index++) table.add(region(index), memfd);
  expect(openDescriptors()).toBe(2);
  expect(() => table.add(region(509), memfd)).toThrow(PeerError);
  for (let index = 0; index < 509; index++) table.remove(region(index));
  expect(openDescriptors()).toBe(1);
  const others = [0, 1, 2].map(() => createMemfd("other", 8 * PAGE));
  others.forEach((other, index) => table.add(region(index), other));
  expect(openDescriptors()).toBe(7);
  table.replace(others.slice(0, 2).map((descriptor, index) => ({ region: region(index), descriptor })));
  expect(openDescriptors()).toBe(6);
  // A table that cannot be opens nothing.
  const wrong = { region: { ...region(9), mmapOffset: 8 * PAGE }, descriptor: memfd };
  const fresh = { region: region(4), descriptor: memfd };
  expect(() => table.replace([fresh, { ...wrong, region: { ...wrong.region, size: GIB } }])).toThrow(
    PeerError,
  );
  expect(openDescriptors()).toBe(6);
  table.clear();
  for (const one of [memfd, ...others]) one.close();
});

test("what cannot be mapped at its first touch is a fault and said once; the rest goes on", () => {
  const said: string[] = [];
  const memfd = unsealed(4 * GIB);
  const table = new MemoryTable({ maxWindows: 2 });
  table.onUnmappable = (error) => said.push(error.message);
  table.add({ guestAddress: 0, size: 4 * GIB, userAddress: USER, mmapOffset: 0 }, memfd);
  table.view(0, 1)[0] = 1;
  check(natives().ftruncate(memfd.fd, 2 * GIB), "ftruncate");
  expect(table.contiguous(3 * GIB, 1)).toBe(0);
  expect(() => table.view(3 * GIB, 1)).toThrow(/memory.unbacked: 1 bytes at this address cannot be mapped/);
  expect(said).toEqual(["guest memory at 0xc0000000 cannot be mapped: its file was shrunk"]);
  expect(table.view(0, 1)[0]).toBe(1);
  check(natives().ftruncate(memfd.fd, 4 * GIB), "ftruncate");
  // It may come back; but there are so many windows and no more.
  expect(table.contiguous(3 * GIB, 1)).toBe(1);
  expect(table.contiguous(2 * GIB, 1)).toBe(0);
  expect(table.contiguous(3 * GIB, 1)).toBe(1);
  table.clear();
  memfd.close();
});

test.skipIf(findProgram("prlimit") === undefined)(
  needs(
    "prlimit",
    "util-linux",
    "a process whose address space is used up: a fault, and later the same access is served",
  ),
  () => {
    const memfd = createMemfd("guest", 1024 * GIB);
    const table = new MemoryTable();
    const said: string[] = [];
    table.onUnmappable = (error) => said.push(error.message);
    table.add({ guestAddress: 0, size: 1024 * GIB, userAddress: USER, mmapOffset: 0 }, memfd);
    const used = 1024 * Number(/VmSize:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
    const limit = (soft: string): void => {
      const done = spawnSync("prlimit", ["--pid", `${process.pid}`, `--as=${soft}:`], { encoding: "utf8" });
      if (done.status !== 0) throw new Error(done.stderr);
    };
    let at = 0;
    limit(`${used + 512 * 1024 * 1024}`);
    try {
      // A failure makes V8 collect the buffers of earlier tests: then there is room again for a while.
      while (table.contiguous(at, 512) > 0) at += GIB;
      expect(() => {
        for (; at < 1024 * GIB; at += GIB) table.view(at, 512);
      }).toThrow(/cannot be mapped/);
    } finally {
      limit("unlimited");
    }
    expect(said).toEqual([expect.stringMatching(/cannot be mapped: (mmap|Array buffer allocation failed)/)]);
    expect(table.contiguous(at, 512)).toBe(512);
    expect(table.view(at, 512)[0]).toBe(0);
    table.clear();
    memfd.close();
  },
);

test("a descriptor that cannot be written to is refused when it comes, not when it is touched", () => {
  const memfd = createMemfd("guest", GIB);
  const readOnly = new Descriptor(openSync(`/proc/self/fd/${memfd.fd}`, "r"));
  const table = new MemoryTable();
  expect(() => table.add({ guestAddress: 0, size: GIB, userAddress: USER, mmapOffset: 0 }, readOnly)).toThrow(
    PeerError,
  );
  readOnly.close();
  memfd.close();
});

test("an access that two translations forbid to be one piece is not asked for again", () => {
  const memfd = createMemfd("guest", 16 * PAGE);
  const table = new MemoryTable();
  table.add({ guestAddress: 0, size: 16 * PAGE, userAddress: USER, mmapOffset: 0 }, memfd);
  const iotlb = (table.iotlb = new Iotlb());
  iotlb.update({ iova: 0, size: PAGE, userAddress: USER, permissions: 3 });
  iotlb.update({ iova: PAGE, size: PAGE, userAddress: USER + 8 * PAGE, permissions: 3 });
  const asked: number[] = [];
  table.onMiss = (iova) => asked.push(iova) > 0;
  expect(table.awaits(new VirtioFault("x", "y", { value: 16 }))).toBe(false);
  expect(table.awaits(new VirtioFault("x", "y", { value: PAGE }))).toBe(true);
  expect(asked).toEqual([2 * PAGE]);
  table.clear();
  memfd.close();
});

test("one byte that has no translation, or lies before all memory, is a fault like any other", () => {
  const memfd = createMemfd("guest", 16 * PAGE);
  const table = new MemoryTable();
  table.add({ guestAddress: PAGE, size: 15 * PAGE, userAddress: USER, mmapOffset: PAGE }, memfd);
  for (const gpa of [0, 1, PAGE - 1, 16 * PAGE])
    for (const length of [1, 2, PAGE]) expect(() => table.view(gpa, length)).toThrow(VirtioFault);
  table.iotlb = new Iotlb();
  for (const length of [1, 2, PAGE]) expect(() => table.view(2 * PAGE, length)).toThrow(VirtioFault);
  expect(table.contiguous(2 * PAGE, 1)).toBe(0);
  table.clear();
  memfd.close();
});
