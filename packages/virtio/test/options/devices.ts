/** Devices and what plugs them in: their options that cannot be. */
import {
  power,
  multiple,
  within,
  bits,
  flags,
  numbers,
  parts,
  texts,
  words,
  type OptionRow,
} from "@virtio/testkit/option-table";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { NullCharacterBackend } from "../../src/backends/null-character.ts";
import { ReadOnlyBlockBackend } from "../../src/backends/read-only-block.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import { TextLog } from "../../src/device/text-log.ts";
import { ninePDevice } from "../../src/devices/9p/device.ts";
import { BlkDevice } from "../../src/devices/blk/device.ts";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { ProbeDevice } from "../device/rig.ts";
import { FakeCable } from "../support/ends.ts";

const U16 = 0xffff;
const U32 = 0xffff_ffff;
const SAFE = Number.MAX_SAFE_INTEGER;
const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(4096) }]);
const disk = new MemoryBlockBackend(4096);
const instance = (options: object = {}): DeviceInstance =>
  new DeviceInstance(new ProbeDevice(), { label: "it", memory, ...options });
const blk = (options: object): unknown => new BlkDevice(disk, options);
const net = (options: object): unknown =>
  new NetDevice({ backend: new FakeCable(), mac: Uint8Array.of(2, 0, 0, 0, 0, 1), ...options });
const terminal = (options: object): unknown =>
  new ConsoleDevice({ ports: [{ kind: "console", backend: new NullCharacterBackend() }], ...options });
const port = (options: object): unknown =>
  terminal({ ports: [{ kind: "console", backend: new NullCharacterBackend(), ...options }] });
const share = (options: object): unknown =>
  ninePDevice({ tag: "t", fileSystem: new MemoryFileSystem(), ...options });

export const devices: readonly OptionRow[] = [
  texts(
    "new DeviceInstance(options.label)",
    "label of a device of type probe",
    "a string that is not empty",
    (label) => instance({ label }),
    "",
  ),
  parts("new DeviceInstance(options.memory)", "it: memory", "a GuestMemory", (it) =>
    instance({ memory: it }),
  ),
  bits("new DeviceInstance(options.features)", "it: features", (features) => instance({ features })),
  numbers(
    "new DeviceInstance(options.queueSize)",
    "it: queueSize",
    power(1, 32_768),
    (queueSize) => instance({ queueSize }),
    0,
    100,
    65_536,
  ),
  within("new DeviceInstance(options.budget)", "it: budget", 1, SAFE, (budget) => instance({ budget })),
  flags(
    "new TextLog(options.registers)",
    "text log: registers",
    (registers) => new TextLog(() => undefined, { registers }),
  ),
  flags(
    "new TextLog(options.buffers)",
    "text log: buffers",
    (buffers) => new TextLog(() => undefined, { buffers }),
  ),

  texts("ninePDevice(options.tag)", "9p: tag", "a string", (tag) => share({ tag })),
  parts("ninePDevice(options.fileSystem)", "9p: fileSystem", "a FileSystem", (fileSystem) =>
    share({ fileSystem }),
  ),
  ...["msize", "fids", "fidBytes", "openFiles", "xattrBytes"].map((name) =>
    within(`ninePDevice(options.limits.${name})`, `9p: ${name}`, 0, SAFE, (value) =>
      share({ limits: { [name]: value } }),
    ),
  ),

  parts("new BlkDevice(backend)", "blk: backend", "a BlockBackend", (backend) => new BlkDevice(backend)),
  texts("new BlkDevice(options.serial)", "blk: serial", "a string", (serial) => blk({ serial })),
  numbers(
    "new BlkDevice(options.queueSize)",
    "blk: queue-size",
    power(4, 32_768),
    (queueSize) => blk({ queueSize }),
    0,
    2,
    100,
    65_536,
  ),
  within("new BlkDevice(options.numQueues)", "blk: num-queues", 1, 1024, (numQueues) => blk({ numQueues })),
  numbers(
    "new BlkDevice(options.logicalBlockSize)",
    "blk: logical_block_size",
    power(512, 2 ** 21),
    (logicalBlockSize) => blk({ logicalBlockSize }),
    256,
    1000,
    2 ** 22,
  ),
  numbers(
    "new BlkDevice(options.physicalBlockSize)",
    "blk: physical_block_size",
    power(1024, 2 ** 21),
    (physicalBlockSize) => blk({ logicalBlockSize: 1024, physicalBlockSize }),
    512,
    1500,
    2 ** 22,
  ),
  numbers(
    "new BlkDevice(options.minIoSize)",
    "blk: min_io_size",
    multiple(512, 0, 0xffff * 512),
    (minIoSize) => blk({ minIoSize }),
    511,
    2 ** 25,
  ),
  numbers(
    "new BlkDevice(options.optIoSize)",
    "blk: opt_io_size",
    multiple(512, 0, U32 * 512),
    (optIoSize) => blk({ optIoSize }),
    511,
    2 ** 41,
  ),
  numbers(
    "new BlkDevice(options.discardGranularity)",
    "blk: discard_granularity",
    multiple(512, 0, U32 * 512),
    (discardGranularity) => blk({ discardGranularity }),
    511,
    2 ** 41,
  ),
  ...(
    [
      ["cylinders", "cyls", U16],
      ["heads", "heads", 255],
      ["sectors", "secs", 255],
    ] as const
  ).map(([name, property, most]) =>
    within(`new BlkDevice(options.geometry.${name})`, `blk: ${property}`, 1, most, (value) =>
      blk({ geometry: { cylinders: 1, heads: 1, sectors: 1, [name]: value } }),
    ),
  ),
  within(
    "new BlkDevice(options.maxDiscardSectors)",
    "blk: max-discard-sectors",
    1,
    U32,
    (maxDiscardSectors) => new BlkDevice(new ReadOnlyBlockBackend(disk), { maxDiscardSectors }),
  ),
  within(
    "new BlkDevice(options.maxWriteZeroesSectors)",
    "blk: max-write-zeroes-sectors",
    1,
    U32,
    (maxWriteZeroesSectors) => blk({ maxWriteZeroesSectors }),
  ),
  ...["segMaxAdjust", "discard", "writeZeroes", "writeCache", "configWce"].map((name) =>
    flags(`new BlkDevice(options.${name})`, `blk: ${name}`, (value) => blk({ [name]: value })),
  ),

  parts(
    "new ConsoleDevice(options.ports[].backend)",
    "console: backend of a port",
    "a CharacterBackend",
    (backend) => port({ backend }),
  ),
  words(
    "new ConsoleDevice(options.ports[].kind)",
    "console: kind of a port",
    'one of "console", "serial"',
    (kind) => port({ kind }),
  ),
  texts("new ConsoleDevice(options.ports[].name)", "console: name of a port", "a string", (name) =>
    port({ name }),
  ),
  within("new ConsoleDevice(options.ports[].nr)", "console: nr of a port", 0, 510, (nr) => port({ nr })),
  within("new ConsoleDevice(options.maxPorts)", "console: maxPorts", 1, 511, (maxPorts) =>
    terminal({ maxPorts }),
  ),
  numbers(
    "new ConsoleDevice(options.queueSize)",
    "console: queueSize",
    power(1, 32_768),
    (queueSize) => terminal({ queueSize }),
    0,
    100,
    65_536,
  ),
  words(
    "new ConsoleDevice(options.resizeOrder)",
    "console: resizeOrder",
    'one of "columns-rows", "rows-columns"',
    (resizeOrder) => terminal({ resizeOrder }),
  ),
  ...addPortRows(),

  parts("new NetDevice(options.backend)", "net: backend", "a NetBackend", (backend) => net({ backend })),
  parts("new NetDevice(options.mac)", "net: mac", "a Uint8Array", (mac) => net({ mac })),
  within("new NetDevice(options.mtu)", "net: mtu", 68, 65_535, (mtu) => net({ mtu })),
  within("new NetDevice(options.speed)", "net: speed", 0, 0x7fff_ffff, (speed) => net({ speed })),
  words("new NetDevice(options.duplex)", "net: duplex", 'one of "half", "full"', (duplex) => net({ duplex })),
  within("new NetDevice(options.queuePairs)", "net: queuePairs", 1, 128, (queuePairs) => net({ queuePairs })),
  numbers(
    "new NetDevice(options.queueSize)",
    "net: queueSize",
    power(2, 32_768),
    (queueSize) => net({ queueSize }),
    0,
    1,
    100,
    65_536,
  ),
  bits("new NetDevice(options.without)", "net: without", (without) => net({ without })),
  flags("new NetDevice(options.announceOnRestore)", "net: announceOnRestore", (announceOnRestore) =>
    net({ announceOnRestore }),
  ),
  flags("new NetDevice(options.announceOnLinkUp)", "net: announceOnLinkUp", (announceOnLinkUp) =>
    net({ announceOnLinkUp }),
  ),
];

/** Ports that come while the device runs. */
function addPortRows(): readonly OptionRow[] {
  const add = (options: object): unknown =>
    new ConsoleDevice({ ports: [], maxPorts: 8 }).addPort({
      kind: "serial",
      backend: new NullCharacterBackend(),
      ...options,
    });
  return [
    words(
      "ConsoleDevice.addPort(options.kind)",
      "console: kind of a port",
      'one of "console", "serial"',
      (kind) => add({ kind }),
    ),
    texts("ConsoleDevice.addPort(options.name)", "console: name of a port", "a string", (name) =>
      add({ name }),
    ),
    within("ConsoleDevice.addPort(options.nr)", "console: nr of a port", 0, 510, (nr) => add({ nr })),
  ];
}
