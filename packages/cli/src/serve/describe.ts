import type { DeviceDescription, SessionDescription } from "../boot/description.ts";
import type { GivenOption } from "../options/arguments.ts";
import { describe } from "../options/describe.ts";
import { escapeValue, parseKeyval } from "../options/keyval.ts";
import { unknown } from "../options/values.ts";
import { UserError } from "../user-error.ts";
import { deviceWords, sessionOptions, socketOptions, type DeviceWord } from "./table.ts";

/** A device, and where its front-end is met: a path, or the number of a descriptor. */
export interface ServedDevice {
  readonly description: DeviceDescription;
  readonly socket: string | number;
}

/** Everything a command line of `virtio serve` says. */
export interface ServeDescription {
  readonly devices: readonly ServedDevice[];
  readonly session: Pick<SessionDescription, "log" | "logFile">;
}

/** A device word with the options behind it. */
interface Group {
  readonly device: DeviceWord;
  /** `,PROP=VALUE…` as it was given. */
  readonly properties: string;
  readonly options: GivenOption[];
}

/** The device word that `text` starts with, or an error that lists them. */
export function deviceWord(text: string): DeviceWord {
  const [name = ""] = text.split(",");
  const words = deviceWords.map(({ word }) => word);
  const found = deviceWords.find(({ word }) => word === name);
  if (found === undefined) throw unknown("device", name, words);
  return found;
}

/** Turns options into plain data. They become those of `virtio boot` and are read by what reads these. */
export function describeServe(given: readonly GivenOption[]): ServeDescription {
  const groups = groupsOf(given);
  if (groups.length === 0) {
    throw new UserError(`Which device? Known: ${deviceWords.map(({ word }) => word).join(", ")}`);
  }
  const boot = given.filter(({ name }) => sessionOptions.includes(name));
  // Without a console that nobody asked for.
  boot.push({ name: "nodefaults", value: "" });
  groups.forEach((group, index) => boot.push(...bootOptionsOf(group, `serve-${index}`)));
  const { machine, session } = describe(boot);
  const devices = groups.map((group, index) => {
    const description = machine.devices[index];
    if (description === undefined) throw new Error(`${group.device.word} has become no device`);
    return { description, socket: socketOf(group) };
  });
  return { devices, session };
}

function groupsOf(given: readonly GivenOption[]): Group[] {
  const groups: Group[] = [];
  for (const option of given) {
    if (sessionOptions.includes(option.name)) continue;
    const group = groups.at(-1);
    if (option.name === "") {
      const device = deviceWord(option.value);
      groups.push({ device, properties: option.value.slice(device.word.length), options: [] });
    } else if (group === undefined) {
      throw new UserError(`--${option.name} belongs behind a device, such as blk`);
    } else {
      const known = [...group.device.backends, ...socketOptions];
      if (!known.includes(option.name)) throw unknown(`option of ${group.device.word}`, option.name, known);
      group.options.push(option);
    }
  }
  return groups;
}

function socketOf({ device, options }: Group): string | number {
  const [socket, other] = options.filter(({ name }) => socketOptions.includes(name));
  if (socket === undefined) throw new UserError(`${device.word} needs --socket PATH or --socket-fd N`);
  if (other !== undefined) throw new UserError(`${device.word}: --${socket.name} and --${other.name}`);
  if (socket.name !== "socket-fd" && socket.name !== "fd") return socket.value;
  if (!/^\d{1,9}$/.test(socket.value)) {
    throw new UserError(`--${socket.name} is the number of a descriptor, not "${socket.value}"`);
  }
  return Number(socket.value);
}

/** The `-drive`, `-chardev` … and `-device` that a group stands for. */
function bootOptionsOf(group: Group, prefix: string): GivenOption[] {
  const { device, properties } = group;
  const backends: GivenOption[] = [];
  const ids: string[] = [];
  let thread: string | undefined;
  for (const option of backendOptions(group)) {
    if (option.name === "object" && device.word === "blk") {
      thread = parseKeyval(option.value, "").get("id") ?? `${prefix}-thread`;
      backends.push({ name: "object", value: `${option.value},id=${escapeValue(thread)}` });
      continue;
    }
    const key = option.name === "blockdev" ? "node-name" : "id";
    const id = parseKeyval(option.value, "").get(key) ?? `${prefix}-${ids.length}`;
    ids.push(id);
    // JSON cannot be added to; what is missing there is an error in the usual place.
    const value = option.value.startsWith("{") ? option.value : `${option.value},${key}=${escapeValue(id)}`;
    backends.push({ name: option.name, value });
  }
  const id = ids.at(-1);
  const refers = device.reference !== undefined && parseKeyval(properties.slice(1)).has(device.reference);
  if (id === undefined && device.example !== undefined && !refers) {
    throw new UserError(`${device.word} needs ${device.example}`);
  }
  // What is said later counts, so these are defaults. Whether the ring is packed is the front-end's choice here.
  let value = `${device.driver},packed=on`;
  if (device.reference !== undefined && id !== undefined) value += `,${device.reference}=${escapeValue(id)}`;
  if (thread !== undefined) value += `,iothread=${escapeValue(thread)}`;
  const ports = device.word === "console" ? portsOf(group, ids) : undefined;
  // One port needs no control queues.
  if (ports?.single === true) value += ",max_ports=1";
  return [...backends, { name: "device", value: value + properties }, ...(ports?.options ?? [])];
}

function backendOptions({ device, options }: Group): GivenOption[] {
  const readOnly = options.some(({ name }) => name === "read-only");
  const chosen = options.flatMap(({ name, value }) => {
    // Never plugged in by itself: the device word does that.
    if (name === "blk-file") return [{ name: "drive", value: `file=${escapeValue(value)},if=none` }];
    if (name === "drive") return [{ name, value: value.startsWith("{") ? value : `${value},if=none` }];
    return ["blockdev", "netdev", "chardev", "fsdev", "object"].includes(name) ? [{ name, value }] : [];
  });
  const drives = chosen.filter(({ name }) => name === "drive").length;
  const others = chosen.filter(({ name }) => name === "blockdev").length;
  if (drives > 1 || (drives === 1 && others > 0)) {
    throw new UserError(`${device.word} takes one of --drive, --blockdev and --blk-file`);
  }
  if (!readOnly) return chosen;
  return chosen.map(({ name, value }) => ({
    name,
    value: name === "object" ? value : `${value},read-only=on`,
  }));
}

/** The ports of a console device: those that are given, or a console on its only `--chardev`. */
function portsOf(
  { options }: Group,
  chardevs: readonly string[],
): { single: boolean; options: GivenOption[] } {
  const ports = options.filter(({ name }) => name === "device");
  for (const { value } of ports) {
    const [name = ""] = value.split(",");
    const known = ["virtconsole", "virtserialport"];
    if (!known.includes(name)) throw unknown("port of console", name, known);
  }
  if (ports.length > 0) return { single: false, options: ports };
  if (chardevs.length > 1) {
    throw new UserError("console has more than one --chardev: say --device virtconsole,chardev=ID for each");
  }
  const value = `virtconsole,chardev=${escapeValue(chardevs[0] ?? "")}`;
  return { single: true, options: [{ name: "device", value }] };
}
