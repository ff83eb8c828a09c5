import { DATA, DATA_LENGTH, TABLES, TABLES_LENGTH, type RingWorld } from "../ring/history.ts";
import { RawSplitRing } from "../ring/raw-split.ts";
import type { RawDescriptor } from "../ring/raw.ts";
import type { HostileDriver } from "./types.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const SIZE = 8;
const VAST = 2 ** 40;

/** An unremarkable readable descriptor, with what is wrong about it. */
const d = (changes: Partial<RawDescriptor> = {}): RawDescriptor => ({
  addr: BigInt(DATA),
  len: 16,
  flags: 0,
  next: 0,
  ...changes,
});

type Table = Readonly<Record<number, RawDescriptor>>;

/** Makes chains available that start at `heads`, with these descriptors in the ring's table and in an indirect one. */
const offer =
  (descriptors: Table, heads: readonly number[] = [0], table: Table = {}) =>
  ({ memory, config }: RingWorld): void => {
    memory.vastFrom = VAST;
    const ring = new RawSplitRing(memory, config);
    for (const [index, entry] of Object.entries(descriptors))
      ring.setDescriptor(config.descriptorArea, Number(index), entry);
    for (const [index, entry] of Object.entries(table)) ring.setDescriptor(TABLES, Number(index), entry);
    for (const head of heads) {
      ring.setAvail(ring.availIdx, head);
      ring.availIdx += 1;
    }
  };

const setIdx =
  (value: number) =>
  ({ memory, config }: RingWorld): void => {
    new RawSplitRing(memory, config).availIdx = value;
  };

const plain = { packed: false, size: SIZE };
const indirect = { packed: false, size: SIZE, indirect: true };
const chain = (
  name: string,
  descriptors: Table,
  fault: HostileDriver["fault"],
  heads?: readonly number[],
) => ({
  name: `split: ${name}`,
  shape: plain,
  acts: [offer(descriptors, heads)],
  fault,
});
const tableAt = (len: number, changes: Partial<RawDescriptor> = {}): Table => ({
  0: d({ addr: BigInt(TABLES), len, flags: INDIRECT, ...changes }),
});
const inTable = (name: string, ring: Table, table: Table, fault: HostileDriver["fault"]) => ({
  name: `split: ${name}`,
  shape: indirect,
  acts: [offer(ring, [0], table)],
  fault,
});
/** `count` linked descriptors from `first` on. */
const linked = (first: number, count: number, last: Partial<RawDescriptor> = {}): Table =>
  Object.fromEntries(
    Array.from({ length: count }, (_, i) => {
      const index = first + i;
      return [index, i + 1 < count ? d({ flags: NEXT, next: index + 1 }) : d(last)];
    }),
  );

const DESC = "drv.split.desc";
const TABLE = "drv.split.indirect";

const heads: readonly HostileDriver[] = [
  chain(
    "the available ring names the first descriptor beyond the table",
    { 0: d() },
    { clause: DESC, value: SIZE },
    [SIZE],
  ),
  chain("the available ring names descriptor 65535", { 0: d() }, { clause: DESC, value: 0xffff }, [0xffff]),
  {
    name: "split: available idx runs one past the ring",
    shape: plain,
    acts: [setIdx(SIZE + 1)],
    fault: { clause: "drv.split.avail", value: SIZE + 1 },
  },
  {
    name: "split: available idx runs half way round",
    shape: plain,
    acts: [setIdx(0x8000)],
    fault: { clause: "drv.split.avail", value: 0x8000 },
  },
  {
    name: "split: available idx is below its start",
    shape: plain,
    acts: [setIdx(0xffff)],
    fault: { clause: "drv.split.avail", value: 0xffff },
  },
  {
    name: "split: available idx is decremented",
    shape: plain,
    acts: [offer({ 0: d(), 1: d() }, [0, 1]), setIdx(1)],
    fault: { clause: "drv.split.avail", value: 1 },
  },
  {
    name: "split: more chains than entries while all are in flight",
    shape: plain,
    acts: [
      offer(
        { 0: d() },
        Array.from({ length: SIZE }, () => 0),
      ),
      offer({}, [0]),
    ],
    fault: { clause: "drv.split.avail", value: SIZE + 1 },
  },
];

const chains: readonly HostileDriver[] = [
  chain("a descriptor that names itself", { 3: d({ flags: NEXT, next: 3 }) }, { clause: DESC }, [3]),
  chain(
    "an empty descriptor that names itself",
    { 3: d({ len: 0, flags: NEXT, next: 3 }) },
    { clause: DESC },
    [3],
  ),
  chain(
    "a loop of two",
    { 0: d({ flags: NEXT, next: 1 }), 1: d({ flags: NEXT, next: 0 }) },
    { clause: DESC },
  ),
  chain(
    "a loop through the whole table",
    { ...linked(0, SIZE), 7: d({ flags: NEXT, next: 0 }) },
    { clause: DESC },
  ),
  chain("a writable loop", { 0: d({ flags: NEXT | WRITE, next: 0 }) }, { clause: DESC }),
  chain(
    "next is the first beyond the table",
    { 0: d({ flags: NEXT, next: SIZE }) },
    { clause: DESC, value: SIZE },
  ),
  chain("next is 65535", { 0: d({ flags: NEXT, next: 0xffff }) }, { clause: DESC, value: 0xffff }),
  chain(
    "readable after writable",
    { 0: d({ flags: NEXT | WRITE, next: 1 }), 1: d() },
    { clause: "drv.split.framing", descriptor: 1 },
  ),
  chain(
    "writable between readable ones",
    { 0: d({ flags: NEXT, next: 2 }), 2: d({ flags: NEXT | WRITE, next: 4 }), 4: d() },
    { clause: "drv.split.framing", descriptor: 4 },
  ),
];

const addresses: readonly HostileDriver[] = [
  chain("an address of 2^53", { 0: d({ addr: 1n << 53n }) }, { clause: DESC, descriptor: 0 }),
  chain(
    "the last address of all",
    { 0: d({ addr: 0xffff_ffff_ffff_ffffn, len: 1 }) },
    { clause: DESC, descriptor: 0 },
  ),
  chain(
    "an address that wraps round 2^64",
    { 0: d({ addr: 0xffff_ffff_ffff_fff0n, len: 32 }) },
    { clause: DESC, descriptor: 0 },
  ),
  chain(
    "an address whose low half is memory",
    { 0: d({ addr: (1n << 32n) + BigInt(DATA) }) },
    { clause: DESC, descriptor: 0, value: 2 ** 32 + DATA },
  ),
  chain("address 0", { 0: d({ addr: 0n }) }, { clause: DESC, descriptor: 0, value: 0 }),
  chain(
    "a buffer that runs out of memory",
    { 0: d({ addr: BigInt(DATA + DATA_LENGTH - 15) }) },
    { clause: DESC, descriptor: 0, value: DATA + DATA_LENGTH },
  ),
  chain(
    "a buffer of 4 GiB - 1 in little memory",
    { 0: d({ len: 0xffff_ffff }) },
    { clause: DESC, descriptor: 0 },
  ),
  chain(
    "a chain longer than 2^32 bytes",
    {
      0: d({ addr: BigInt(VAST), len: 0xffff_ffff, flags: NEXT, next: 1 }),
      1: d({ addr: BigInt(VAST), len: 2 }),
    },
    { clause: DESC, descriptor: 1 },
  ),
  chain(
    "a chain longer than 2^32 bytes, half of it writable",
    {
      0: d({ addr: BigInt(VAST), len: 0xffff_ffff, flags: NEXT, next: 1 }),
      1: d({ addr: BigInt(VAST), len: 0xffff_ffff, flags: WRITE }),
    },
    { clause: DESC, descriptor: 1 },
  ),
];

const tables: readonly HostileDriver[] = [
  {
    name: "split: INDIRECT without VIRTIO_F_INDIRECT_DESC",
    shape: plain,
    acts: [offer(tableAt(16), [0], { 0: d() })],
    fault: { clause: TABLE, descriptor: 0 },
  },
  inTable(
    "INDIRECT and NEXT together",
    { ...tableAt(16, { flags: INDIRECT | NEXT, next: 1 }), 1: d() },
    { 0: d() },
    { clause: TABLE, descriptor: 0, value: 5 },
  ),
  inTable("an empty indirect table", tableAt(0), {}, { clause: TABLE, descriptor: 0, value: 0 }),
  inTable(
    "an indirect table of half a descriptor",
    tableAt(8),
    { 0: d() },
    { clause: TABLE, descriptor: 0, value: 8 },
  ),
  inTable(
    "an indirect table with a byte too many",
    tableAt(17),
    { 0: d() },
    { clause: TABLE, descriptor: 0, value: 17 },
  ),
  inTable("an indirect table of 4 GiB", tableAt(0xffff_fff0), { 0: d() }, { clause: TABLE, descriptor: 0 }),
  inTable(
    "an indirect table that runs out of memory",
    tableAt(32, { addr: BigInt(TABLES + TABLES_LENGTH - 16) }),
    {},
    { clause: TABLE, descriptor: 0 },
  ),
  inTable(
    "an indirect table nowhere",
    tableAt(16, { addr: 0x7000_0000n }),
    {},
    { clause: TABLE, descriptor: 0, value: 0x7000_0000 },
  ),
  inTable(
    "an indirect table beyond 2^53",
    tableAt(16, { addr: 1n << 60n }),
    {},
    { clause: TABLE, descriptor: 0 },
  ),
  inTable(
    "a table in a table",
    tableAt(32),
    { 0: d({ flags: NEXT, next: 1 }), 1: d({ addr: BigInt(TABLES), len: 16, flags: INDIRECT }) },
    { clause: TABLE },
  ),
  inTable(
    "a table that refers to itself",
    tableAt(16),
    { 0: d({ addr: BigInt(TABLES), len: 16, flags: INDIRECT }) },
    { clause: TABLE },
  ),
  inTable(
    "a loop inside a table",
    tableAt(32),
    { 0: d({ flags: NEXT, next: 1 }), 1: d({ flags: NEXT, next: 0 }) },
    { clause: TABLE },
  ),
  inTable(
    "a table entry that names itself",
    tableAt(16),
    { 0: d({ flags: NEXT, next: 0 }) },
    { clause: TABLE },
  ),
  inTable(
    "next beyond the table",
    tableAt(32),
    { 0: d({ flags: NEXT, next: 2 }) },
    { clause: TABLE, value: 2 },
  ),
  inTable("a table longer than the Queue Size", tableAt(16 * (SIZE + 1)), linked(0, SIZE + 1), {
    clause: TABLE,
  }),
  inTable(
    "direct descriptors and a table that are too long together",
    {
      ...linked(0, 4, { flags: NEXT, next: 4 }),
      4: d({ addr: BigInt(TABLES), len: 16 * (SIZE - 3), flags: INDIRECT }),
    },
    linked(0, SIZE - 3),
    { clause: TABLE, descriptor: 4 },
  ),
  inTable(
    "readable after writable in a table",
    tableAt(32),
    { 0: d({ flags: NEXT | WRITE, next: 1 }), 1: d() },
    { clause: "drv.split.framing" },
  ),
  inTable(
    "a readable table behind a writable descriptor",
    { 0: d({ flags: NEXT | WRITE, next: 1 }), 1: d({ addr: BigInt(TABLES), len: 16, flags: INDIRECT }) },
    { 0: d() },
    { clause: "drv.split.framing" },
  ),
  inTable("an address beyond 2^53 in a table", tableAt(16), { 0: d({ addr: 1n << 63n }) }, { clause: DESC }),
];

const misplaced = (
  name: string,
  configure: NonNullable<HostileDriver["configure"]>,
  value?: number,
): HostileDriver => ({
  name: `split: ${name}`,
  shape: plain,
  configure,
  acts: [],
  fault: { clause: "drv.split.layout", ...(value === undefined ? {} : { value }) },
});

const areas: readonly HostileDriver[] = [
  misplaced("a descriptor area that is 8-aligned", (config) => ({
    descriptorArea: config.descriptorArea + 8,
  })),
  misplaced("a driver area at an odd address", (config) => ({ driverArea: config.driverArea + 1 })),
  misplaced("a device area that is 2-aligned", (config) => ({ deviceArea: config.deviceArea + 2 })),
  misplaced("a descriptor area nowhere", () => ({ descriptorArea: 0x6000_0000 }), 0x6000_0000),
  misplaced("a driver area nowhere", () => ({ driverArea: 0 }), 0),
  misplaced("a device area that runs out of memory", () => ({ deviceArea: DATA + DATA_LENGTH - 8 })),
];

export const HOSTILE_SPLIT: readonly HostileDriver[] = [
  ...heads,
  ...chains,
  ...addresses,
  ...tables,
  ...areas,
];
