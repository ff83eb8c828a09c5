import type {
  CharacterDescription,
  ConsoleDescription,
  DeviceDescription,
  DirectoryDescription,
  DriveDescription,
  IothreadDescription,
  NetdevDescription,
  Plug,
  PortDescription,
  RingDescription,
} from "../boot/description.ts";
import { optional } from "../optional.ts";
import { deviceTypes, type DeviceType } from "./devices.ts";
import { parseKeyval } from "./keyval.ts";
import { Properties, unknown } from "./values.ts";

/** What devices refer to, by id, and the names that are taken. */
export interface Backends {
  readonly drives: ReadonlyMap<string, DriveDescription>;
  readonly chardevs: ReadonlyMap<string, CharacterDescription>;
  readonly netdevs: ReadonlyMap<string, NetdevDescription>;
  readonly directories: ReadonlyMap<string, DirectoryDescription>;
  readonly entropy: ReadonlyMap<string, string | undefined>;
  readonly iothreads: ReadonlyMap<string, IothreadDescription>;
  nextMac(): string;
  newLabel(wanted: string | undefined, kind: string): string;
  addTag(tag: string): void;
}

/** Slots of PCI devices that this machine has for us; the last is the control device's. */
const slots = [0x08, 0x1c] as const;
const defaultPorts = 31;

export const defaultRing: RingDescription = {
  packed: false,
  eventIdx: true,
  indirect: true,
  inOrder: false,
  reset: true,
};

export function pciPlug(): Plug {
  return { bus: "pci", mode: "transitional", vectors: 0 };
}

/** The device type that `-device` names, or an error that lists what there is. */
export function deviceType(name: string): DeviceType {
  const type = deviceTypes.find((candidate) => candidate.name === name);
  if (type === undefined)
    throw unknown(
      "device",
      name,
      deviceTypes.map((known) => known.name),
    );
  return type;
}

/** Adds what a `-device` says: a device, or a port of one that is there. */
export function describeDevice(text: string, backends: Backends, devices: DeviceDescription[]): void {
  const pairs = parseKeyval(text, "driver");
  const type = deviceType(pairs.get("driver") ?? "");
  pairs.delete("driver");
  const given = new Properties(type.name, pairs, type.properties);
  if (type.attachment === "port") addPort(type, given, backends, devices);
  else devices.push(createDevice(type, given, backends, devices));
}

function createDevice(
  type: DeviceType,
  given: Properties,
  backends: Backends,
  devices: readonly DeviceDescription[],
): DeviceDescription {
  const base = {
    label: backends.newLabel(given.string("id"), labelOf[type.kind] ?? type.kind),
    plug: plugOf(type, given, devices),
    ring: ringOf(given),
  };
  switch (type.kind) {
    case "blk":
      return { kind: "blk", ...base, ...diskOf(given, backends) };
    case "entropy": {
      const rng = given.string("rng");
      const file = rng === undefined ? undefined : reference(given, "rng", backends.entropy, "-object");
      return { kind: "entropy", ...base, ...optional("file", file) };
    }
    case "net":
      return { kind: "net", ...base, ...netOf(given, backends) };
    case "9p": {
      const tag = given.required("mount_tag");
      backends.addTag(tag);
      return {
        kind: "9p",
        ...base,
        tag,
        directory: reference(given, "fsdev", backends.directories, "-fsdev"),
      };
    }
    default:
      return { kind: "console", ...base, ports: [], ...optional("maxPorts", given.number("max_ports")) };
  }
}

const labelOf: Readonly<Record<string, string>> = {
  blk: "disk",
  entropy: "rng",
  console: "serial",
  "9p": "share",
};

function diskOf(
  given: Properties,
  backends: Backends,
): Pick<Extract<DeviceDescription, { kind: "blk" }>, "drive" | "iothread"> {
  const thread = given.string("iothread");
  return {
    ...(thread === undefined
      ? {}
      : { iothread: reference(given, "iothread", backends.iothreads, "-object iothread") }),
    drive: reference(given, "drive", backends.drives, "-drive or -blockdev"),
    ...optional("serial", given.string("serial")),
    ...optional("queues", given.number("num-queues")),
    ...optional("queueSize", given.number("queue-size")),
    ...optional("logicalBlockSize", given.size("logical_block_size")),
    ...optional("physicalBlockSize", given.size("physical_block_size")),
    ...optional("minimumIo", given.size("min_io_size")),
    ...optional("optimalIo", given.size("opt_io_size")),
    ...optional("discard", given.switch("discard")),
    ...optional("writeZeroes", given.switch("write-zeroes")),
    ...optional("writeCache", given.switch("write-cache")),
    ...optional("configWce", given.switch("config-wce")),
  };
}

type NetParts = Omit<Extract<DeviceDescription, { kind: "net" }>, "kind" | "label" | "plug" | "ring">;

function netOf(given: Properties, backends: Backends): NetParts {
  const duplex = given.string("duplex");
  const mac = given.string("mac")?.replaceAll("-", ":").toLowerCase() ?? backends.nextMac();
  if ((Number.parseInt(mac.slice(0, 2), 16) & 1) !== 0) throw given.error(`mac=${mac} is a group address`);
  return {
    netdev: reference(given, "netdev", backends.netdevs, "-netdev"),
    mac,
    queuePairs: (given.switch("mq") ?? false) ? (given.number("queues") ?? 2) : 1,
    ...optional("queueSize", given.number("queue-size")),
    ...optional("mergeBuffers", given.switch("mrg_rxbuf")),
    ...optional("controlQueue", given.switch("ctrl_vq")),
    ...optional("mtu", given.number("host_mtu")),
    ...optional("speed", given.number("speed")),
    ...optional<"duplex", "half" | "full">(
      "duplex",
      duplex === "half" || duplex === "full" ? duplex : undefined,
    ),
  };
}

function addPort(
  type: DeviceType,
  given: Properties,
  backends: Backends,
  devices: DeviceDescription[],
): void {
  const label = backends.newLabel(given.string("id"), type.kind);
  const buses = devices.filter((device) => device.kind === "console");
  const wanted = given.string("bus")?.replace(/\.0$/, "");
  const bus = wanted === undefined ? buses.at(-1) : buses.find((device) => device.label === wanted);
  if (bus === undefined) {
    throw wanted === undefined
      ? given.error("there is no virtio-serial device before it: add -device virtio-serial-pci")
      : unknown(
          "virtio-serial device",
          wanted,
          buses.map((device) => device.label),
        );
  }
  const isConsole = type.kind === "virtconsole";
  const taken = new Set(bus.ports.map((port) => port.number));
  let number = given.number("nr");
  if (number === undefined) {
    // Port 0 is a console's: a driver without VIRTIO_CONSOLE_F_MULTIPORT knows only that one.
    for (number = isConsole ? 0 : 1; taken.has(number);) number++;
  }
  const limit = bus.maxPorts ?? defaultPorts;
  if (number >= limit) throw given.error(`nr=${number}: ${bus.label} has room for ports 0 to ${limit - 1}`);
  if (taken.has(number)) throw given.error(`nr=${number} is taken on ${bus.label}`);
  if (number === 0 && !isConsole) throw given.error("nr=0 is for a virtconsole");
  const id = given.string("chardev");
  const port: PortDescription = {
    number,
    console: isConsole,
    name: given.string("name") ?? label,
    chardev: id === undefined ? { kind: "null" } : reference(given, "chardev", backends.chardevs, "-chardev"),
  };
  const extended: ConsoleDescription = { ...bus, ports: [...bus.ports, port] };
  devices[devices.indexOf(bus)] = extended;
}

function plugOf(type: DeviceType, given: Properties, devices: readonly DeviceDescription[]): Plug {
  if (type.attachment === "mmio") return { bus: "mmio" };
  const bus = given.string("bus");
  if (bus !== undefined && !/^pci\.?0?$/.test(bus)) throw given.error(`bus=${bus}: there is only pci.0`);
  return {
    bus: "pci",
    mode: modeOf(type, given),
    vectors: given.number("vectors") ?? 0,
    ...slotOf(given, devices),
  };
}

function modeOf(type: DeviceType, given: Properties): "modern" | "transitional" | "legacy" {
  if (type.attachment === "pci-non-transitional") return "modern";
  if (type.attachment === "pci-transitional") return "transitional";
  const noLegacy = given.switch("disable-legacy") ?? false;
  const noModern = given.switch("disable-modern") ?? false;
  if (noLegacy && noModern) throw given.error("disable-legacy=on and disable-modern=on leave nothing");
  return noLegacy ? "modern" : noModern ? "legacy" : "transitional";
}

function slotOf(given: Properties, devices: readonly DeviceDescription[]): { slot?: number } {
  const text = given.string("addr");
  if (text === undefined) return {};
  const match = /^(?:0x)?([0-9a-f]{1,2})(?:\.0)?$/i.exec(text);
  const slot = match?.[1] === undefined ? Number.NaN : Number.parseInt(match[1], 16);
  if (!(slot >= slots[0] && slot <= slots[1])) {
    throw given.error(`addr=${text}: slots ${slots.map((s) => `0x${s.toString(16)}`).join(" to ")} are free`);
  }
  if (devices.some((device) => device.plug.bus === "pci" && device.plug.slot === slot)) {
    throw given.error(`addr=${text} is taken`);
  }
  return { slot };
}

function ringOf(given: Properties): RingDescription {
  return {
    packed: given.switch("packed") ?? defaultRing.packed,
    eventIdx: given.switch("event_idx") ?? defaultRing.eventIdx,
    indirect: given.switch("indirect_desc") ?? defaultRing.indirect,
    inOrder: given.switch("in_order") ?? defaultRing.inOrder,
    reset: given.switch("queue_reset") ?? defaultRing.reset,
  };
}

function reference<T>(given: Properties, property: string, map: ReadonlyMap<string, T>, option: string): T {
  const id = given.required(property);
  const value = map.get(id);
  if (value === undefined && !map.has(id)) {
    if (map.size === 0) throw given.error(`${property}=${id}: there is no ${option} with this id`);
    throw unknown(`id of ${option}`, id, [...map.keys()]);
  }
  // The map has the id, so this is its value, also when that is undefined.
  return value as T;
}
