import { DATA, DATA_LENGTH, TABLES, TABLES_LENGTH, type RingWorld } from "../ring/history.ts";
import { RawPackedRing } from "../ring/raw-packed.ts";
import type { RawDescriptor } from "../ring/raw.ts";
import type { HostileDriver } from "./types.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 1 << 7;
const USED = 1 << 15;
/** Not a power of two: packed rings need not be. */
const SIZE = 7;
const VAST = 2 ** 40;

const d = (changes: Partial<RawDescriptor> = {}): RawDescriptor => ({
  addr: BigInt(DATA),
  len: 16,
  flags: 0,
  next: 0,
  ...changes,
});

/** Writes descriptors from `first` on, available in the lap with this wrap counter. */
const offer =
  (descriptors: readonly RawDescriptor[], table: readonly RawDescriptor[] = [], first = 0, wrap = true) =>
  ({ memory, config }: RingWorld): void => {
    memory.vastFrom = VAST;
    const ring = new RawPackedRing(memory, config);
    table.forEach((entry, i) => ring.setDescriptor(TABLES, i, entry));
    descriptors.forEach((entry, i) => {
      const position = ring.advance({ offset: first, wrap }, i);
      const flags = entry.flags | (position.wrap ? AVAIL : USED);
      ring.setDescriptor(config.descriptorArea, position.offset, { ...entry, flags });
    });
  };

const plain = { packed: true, size: SIZE };
const indirect = { packed: true, size: SIZE, indirect: true };
const list = (
  name: string,
  descriptors: readonly RawDescriptor[],
  fault: HostileDriver["fault"],
): HostileDriver => ({
  name: `packed: ${name}`,
  shape: plain,
  acts: [offer(descriptors)],
  fault,
});
const tableAt = (len: number, changes: Partial<RawDescriptor> = {}): RawDescriptor =>
  d({ addr: BigInt(TABLES), len, flags: INDIRECT, ...changes });
const inTable = (
  name: string,
  descriptors: readonly RawDescriptor[],
  table: readonly RawDescriptor[],
  fault: HostileDriver["fault"],
): HostileDriver => ({ name: `packed: ${name}`, shape: indirect, acts: [offer(descriptors, table)], fault });
const times = (count: number, entry: RawDescriptor): RawDescriptor[] =>
  Array.from({ length: count }, () => entry);

const LIST = "drv.packed.sg";
const TABLE = "drv.packed.indirect";

const lists: readonly HostileDriver[] = [
  list("a list that goes round the ring", times(SIZE, d({ flags: NEXT })), { clause: LIST }),
  list("a list that is made available in part", [d({ flags: NEXT })], { clause: LIST, descriptor: 1 }),
  list("a list that ends in a gap", [d({ flags: NEXT }), d({ flags: NEXT }), d({ flags: NEXT })], {
    clause: LIST,
    descriptor: 3,
  }),
  list("readable after writable", [d({ flags: NEXT | WRITE }), d()], { clause: LIST, descriptor: 1 }),
  {
    name: "packed: descriptors offered again while the device holds them",
    shape: plain,
    acts: [offer(times(SIZE, d())), offer([d()], [], 0, false)],
    fault: { clause: LIST, descriptor: 0 },
  },
  {
    name: "packed: a list that reaches into descriptors that the device holds",
    shape: plain,
    acts: [offer(times(SIZE - 1, d())), offer([d({ flags: NEXT }), d()], [], SIZE - 1)],
    fault: { clause: LIST, descriptor: 0 },
  },
];

const addresses: readonly HostileDriver[] = [
  list("an address of 2^53", [d({ addr: 1n << 53n })], { clause: LIST, descriptor: 0 }),
  list("the last address of all", [d({ addr: 0xffff_ffff_ffff_ffffn, len: 1 })], {
    clause: LIST,
    descriptor: 0,
  }),
  list("an address whose low half is memory", [d({ addr: (1n << 32n) + BigInt(DATA) })], {
    clause: LIST,
    descriptor: 0,
    value: 2 ** 32 + DATA,
  }),
  list("a buffer that runs out of memory", [d(), d({ addr: BigInt(DATA + DATA_LENGTH - 15) })], {
    clause: LIST,
    descriptor: 1,
    value: DATA + DATA_LENGTH,
  }),
  list("a buffer of 4 GiB - 1 in little memory", [d({ len: 0xffff_ffff })], { clause: LIST, descriptor: 0 }),
  list(
    "a list longer than 2^32 bytes",
    [
      d({ addr: BigInt(VAST), len: 0xffff_ffff, flags: NEXT }),
      d({ addr: BigInt(VAST), len: 2, flags: WRITE }),
    ],
    { clause: LIST, descriptor: 1 },
  ),
];

const tables: readonly HostileDriver[] = [
  {
    name: "packed: INDIRECT without VIRTIO_F_INDIRECT_DESC",
    shape: plain,
    acts: [offer([tableAt(16)], [d()])],
    fault: { clause: TABLE, descriptor: 0 },
  },
  inTable("INDIRECT and NEXT together", [tableAt(16, { flags: INDIRECT | NEXT }), d()], [d()], {
    clause: TABLE,
    descriptor: 0,
  }),
  inTable("a table at the end of a list", [d({ flags: NEXT }), tableAt(16)], [d()], {
    clause: TABLE,
    descriptor: 1,
  }),
  inTable("an empty indirect table", [tableAt(0)], [], { clause: TABLE, descriptor: 0, value: 0 }),
  inTable("an indirect table with a byte too many", [tableAt(17)], [d()], {
    clause: TABLE,
    descriptor: 0,
    value: 17,
  }),
  inTable("an indirect table of 4 GiB", [tableAt(0xffff_fff0)], [d()], { clause: TABLE, descriptor: 0 }),
  inTable("a table longer than the Queue Size", [tableAt(16 * (SIZE + 1))], times(SIZE + 1, d()), {
    clause: TABLE,
    descriptor: 0,
  }),
  inTable(
    "an indirect table that runs out of memory",
    [tableAt(32, { addr: BigInt(TABLES + TABLES_LENGTH - 16) })],
    [],
    { clause: TABLE, descriptor: 0 },
  ),
  inTable("an indirect table beyond 2^53", [tableAt(16, { addr: 1n << 60n })], [], {
    clause: TABLE,
    descriptor: 0,
  }),
  inTable("readable after writable in a table", [tableAt(32)], [d({ flags: WRITE }), d()], { clause: LIST }),
  inTable("an address beyond 2^53 in a table", [tableAt(16)], [d({ addr: 1n << 63n })], { clause: LIST }),
];

const misplaced = (name: string, configure: NonNullable<HostileDriver["configure"]>): HostileDriver => ({
  name: `packed: ${name}`,
  shape: plain,
  configure,
  acts: [],
  fault: { clause: "drv.packed.layout" },
});

const areas: readonly HostileDriver[] = [
  misplaced("a descriptor area that is 8-aligned", (config) => ({
    descriptorArea: config.descriptorArea + 8,
  })),
  misplaced("a driver area that is 2-aligned", (config) => ({ driverArea: config.driverArea + 2 })),
  misplaced("a device area that is 2-aligned", (config) => ({ deviceArea: config.deviceArea + 2 })),
  misplaced("a descriptor area that runs out of memory", () => ({ descriptorArea: DATA + DATA_LENGTH - 16 })),
  misplaced("a driver area nowhere", () => ({ driverArea: 0 })),
  misplaced("a device area nowhere", () => ({ deviceArea: 0x6000_0000 })),
];

export const HOSTILE_PACKED: readonly HostileDriver[] = [...lists, ...addresses, ...tables, ...areas];
