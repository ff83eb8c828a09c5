import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { VirtioFault } from "virtio/fault";
import { Iotlb } from "@virtio/vhost-user/memory/iotlb";
import { MemoryTable } from "@virtio/vhost-user/memory/memory-table";
import { PeerFiles } from "@virtio/vhost-user/memory/peer-file";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { PeerError } from "@virtio/vhost-user/protocol/errors";
import { openSync } from "node:fs";
import { Descriptor } from "@virtio/vhost-user/native/descriptor";

const PAGE = 0x1000;
const FILE = 64 * PAGE;
const region = (guestPage: number, pages: number, filePage = guestPage, userPage = guestPage + 0x1000) => ({
  guestAddress: guestPage * PAGE,
  size: pages * PAGE,
  userAddress: userPage * PAGE,
  mmapOffset: filePage * PAGE,
});

afterEach(() => expect(openDescriptors()).toBe(0));

test("any history of adding and removing regions: exactly what is mapped can be seen, and is the file", () => {
  const memfd = createMemfd("guest", FILE);
  const whole = new MemoryTable();
  whole.add(region(0, 64), memfd);
  whole.view(0, FILE).forEach((_, i, all) => (all[i] = (i / PAGE) ^ (i & 0xff)));
  const operation = fc.record({
    add: fc.boolean(),
    guestPage: fc.integer({ min: 0, max: 60 }),
    pages: fc.integer({ min: 1, max: 8 }),
    filePage: fc.integer({ min: 0, max: 64 }),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 20 }), (operations) => {
      const table = new MemoryTable();
      const model = new Map<number, number>();
      const there: ReturnType<typeof region>[] = [];
      for (const { add, guestPage, pages, filePage } of operations) {
        const one = region(guestPage, pages, filePage);
        if (there.some((other) => JSON.stringify(other) === JSON.stringify(one))) continue;
        const pagesOf = Array.from({ length: pages }, (_, i) => guestPage + i);
        if (add) {
          const free = pagesOf.every((page) => !model.has(page));
          const possible = free && filePage + pages <= 64;
          const before = table.epoch;
          if (possible) table.add(one, memfd);
          else expect(() => table.add(one, memfd)).toThrow(PeerError);
          expect(table.epoch !== before).toBe(possible);
          if (possible) there.push(one);
          if (possible) pagesOf.forEach((page, i) => model.set(page, filePage + i));
        } else {
          const gone = there.pop();
          if (gone === undefined) expect(() => table.remove(one)).toThrow(PeerError);
          else {
            const stale = table.view(gone.guestAddress, gone.size);
            table.remove(gone);
            stale.fill(1);
            for (let at = gone.guestAddress; at < gone.guestAddress + gone.size; at += PAGE)
              model.delete(at / PAGE);
          }
        }
        for (let page = 0; page < 70; page++) {
          const file = model.get(page);
          const gpa = page * PAGE + 5;
          expect(table.contiguous(gpa, 1)).toBe(file === undefined ? 0 : 1);
          if (file === undefined) expect(() => table.view(gpa, 1)).toThrow(VirtioFault);
          else expect(table.view(gpa, 1)[0]).toBe(whole.view(file * PAGE + 5, 1)[0]);
        }
      }
      table.clear();
    }),
    { numRuns: 30 },
  );
  whole.clear();
  memfd.close();
});

test("a table that cannot be leaves the old one; what stays is not mapped anew", () => {
  const memfd = createMemfd("guest", FILE);
  const table = new MemoryTable();
  table.replace([{ region: region(0, 4), descriptor: memfd }]);
  const [first] = table.regions;
  const overlap = [region(0, 4), region(3, 4)];
  const users = [region(0, 4), region(8, 4, 8, 0x1001)];
  const beyond = [region(0, 4), region(10, 4, 62)];
  const crooked = [region(0, 4), { ...region(10, 4), mmapOffset: 4 }];
  for (const regions of [overlap, users, beyond, crooked]) {
    const { epoch } = table;
    expect(() => table.replace(regions.map((one) => ({ region: one, descriptor: memfd })))).toThrow(
      PeerError,
    );
    expect(table.epoch).toBe(epoch);
    expect(table.regions).toEqual([first]);
  }
  table.replace([region(0, 4), region(4, 4)].map((one) => ({ region: one, descriptor: memfd })));
  expect(table.regions[0]).toBe(first);
  expect(table.contiguous(3 * PAGE, 2 * PAGE)).toBe(PAGE);
  expect(table.guestAddress(0x1005 * PAGE + 7)).toBe(5 * PAGE + 7);
  expect(table.guestAddress(0)).toBeUndefined();
  table.clear();
  memfd.close();
});

test("a region that was added twice is there until it was removed twice", () => {
  const memfd = createMemfd("guest", FILE);
  const table = new MemoryTable();
  table.add(region(0, 4), memfd);
  const { epoch } = table;
  table.add(region(0, 4), memfd);
  table.remove(region(0, 4));
  expect(table.epoch).toBe(epoch);
  expect(table.contiguous(0, 1)).toBe(1);
  table.remove(region(0, 4));
  expect(table.contiguous(0, 1)).toBe(0);
  expect(() => table.remove(region(0, 4))).toThrow(PeerError);
  memfd.close();
});

test("files that cannot be memory, or may shrink when that is forbidden, are refused", () => {
  const plain = new Descriptor(openSync("/proc/self/exe", "r"));
  const device = new Descriptor(openSync("/dev/null", "r"));
  const table = new MemoryTable({ files: new PeerFiles(true) });
  for (const descriptor of [plain, device])
    expect(() => table.add(region(0, 1), descriptor)).toThrow(PeerError);
  const memfd = createMemfd("guest", FILE);
  table.add(region(0, 1), memfd);
  table.clear();
  for (const one of [plain, device, memfd]) one.close();
});

test("translations: whatever is updated and invalidated, an address has the newest or none", () => {
  const operation = fc.record({
    update: fc.boolean(),
    from: fc.integer({ min: 0, max: 40 }),
    pages: fc.integer({ min: 1, max: 8 }),
    user: fc.integer({ min: 0, max: 1000 }),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 30 }), (operations) => {
      const iotlb = new Iotlb();
      const entries: { from: number; to: number; user: number }[] = [];
      for (const { update, from, pages, user } of operations) {
        const kept = entries.filter((entry) => entry.to <= from || entry.from >= from + pages);
        entries.splice(0, entries.length, ...kept);
        if (update) {
          entries.push({ from, to: from + pages, user });
          iotlb.update({
            iova: from * PAGE,
            size: pages * PAGE,
            userAddress: user * PAGE,
            permissions: 3,
          });
        } else iotlb.invalidate(from * PAGE, pages * PAGE);
        for (let page = 0; page < 50; page++) {
          const expected = entries.find((entry) => page >= entry.from && page < entry.to);
          const found = iotlb.find(page * PAGE + 1);
          expect(found === undefined).toBe(expected === undefined);
          if (found !== undefined) expect(found.userAddress).toBe((expected?.user ?? -1) * PAGE);
        }
      }
    }),
  );
});

test("with translations, memory is what they lead to", () => {
  const memfd = createMemfd("guest", FILE);
  const table = new MemoryTable();
  table.add(region(0, 64), memfd);
  table.view(7 * PAGE, 2)[0] = 77;
  table.iotlb = new Iotlb();
  expect(table.contiguous(0, PAGE)).toBe(0);
  const update = (iova: number, page: number): void =>
    table.iotlb?.update({ iova, size: PAGE, userAddress: (0x1000 + page) * PAGE, permissions: 3 });
  update(0x10000000, 7);
  expect(table.view(0x10000000, 1)[0]).toBe(77);
  update(0x10001000, 8);
  expect(table.contiguous(0x10000ffe, 100)).toBe(100);
  expect(table.view(0x10000ffe, 4).length).toBe(4);
  update(0x10002000, 3);
  expect(table.contiguous(0x10001000, 3 * PAGE)).toBe(PAGE);
  expect(() => table.view(0x10001ffe, 4)).toThrow(VirtioFault);
  table.iotlb.update({ iova: 0x20000000, size: PAGE, userAddress: 1, permissions: 3 });
  expect(table.contiguous(0x20000000, 1)).toBe(0);
  const asked: number[] = [];
  table.onMiss = (iova) => asked.push(iova) > 0;
  expect(table.awaits(new VirtioFault("x", "y", { value: 0x10002800 }))).toBe(true);
  expect(asked).toEqual([0x10003000]);
  // A page to be read only, and one to be written only: the wrong access is refused, and not asked for again.
  for (const [page, permissions] of [
    [0x30, 1],
    [0x31, 2],
  ] as const) {
    const iova = page * PAGE;
    table.iotlb.update({ iova, size: PAGE, userAddress: (0x1000 + page) * PAGE, permissions });
    expect(table.contiguous(iova, 10, permissions === 2)).toBe(10);
    expect(table.contiguous(iova, 10, permissions === 1)).toBe(0);
    expect(table.awaits(new VirtioFault("x", "y", { value: iova }))).toBe(false);
  }
  expect(asked.length).toBe(1);
  table.clear();
  memfd.close();
});
