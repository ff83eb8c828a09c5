import type { DeviceDescription, SessionDescription } from "../boot/description.ts";
import type { GivenOption } from "../options/arguments.ts";
import { describe } from "../options/describe.ts";
import { optional } from "../optional.ts";
import { escapeValue, parseKeyval } from "../options/keyval.ts";
import { parseShare } from "../options/share.ts";
import { unknown } from "../options/values.ts";
import { UserError } from "../user-error.ts";
import type { PassedSocket } from "./socket-activation.ts";
import { assignSockets } from "./sockets.ts";
import { deviceWords, ownOptions, sessionOptions, socketOptions, type DeviceWord } from "./table.ts";

/** A device, and where its front-end is met: a path, or the number of a descriptor. */
export interface ServedDevice {
  readonly description: DeviceDescription;
  readonly socket: string | number;
  /** What the user calls the socket, when that is not `socket`. */
  readonly place?: string;
}

/** As messages name a socket. */
export function placeOf({ socket, place }: ServedDevice): string {
  return place ?? (typeof socket === "number" ? `descriptor ${socket}` : socket);
}

/** What is the same for all devices of a command line. */
export interface ServeSession extends Pick<SessionDescription, "log" | "logFile"> {
  /** Guest memory that a front-end could take away is refused. */
  readonly sealedMemory: boolean;
}

/** Everything a command line of `virtio serve` says. */
export interface ServeDescription {
  readonly devices: readonly ServedDevice[];
  readonly session: ServeSession;
  /** Each device has a process of its own. */
  readonly processPerDevice: boolean;
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

/** Sockets that a service manager passed, and why there are none. */
export interface Activation {
  readonly sockets: readonly PassedSocket[];
  readonly why: string;
}

/** Turns options into plain data. They become those of `virtio boot` and are read by what reads these. */
export function describeServe(
  given: readonly GivenOption[],
  activation: Activation = { sockets: [], why: "" },
): ServeDescription {
  const groups = groupsOf(given);
  if (groups.length === 0) {
    throw new UserError(`Which device? Known: ${deviceWords.map(({ word }) => word).join(", ")}`);
  }
  const users = groups.map(({ device, options }) => ({ word: device.word, options }));
  const sockets = assignSockets(users, activation.sockets, activation.why);
  const has = (wanted: string): boolean => given.some(({ name }) => name === wanted);
  const boot = given.filter(({ name }) => sessionOptions.includes(name) && !ownOptions.includes(name));
  // Without a console that nobody asked for.
  boot.push({ name: "nodefaults", value: "" });
  groups.forEach((group, index) => boot.push(...bootOptionsOf(group, `serve-${index}`)));
  const { machine, session } = describe(boot);
  const devices = groups.map((group, index) => {
    const description = machine.devices[index];
    if (description === undefined) throw new Error(`${group.device.word} has become no device`);
    return { description, socket: sockets[index] ?? "" };
  });
  return {
    devices,
    session: {
      ...optional("log", session.log),
      ...optional("logFile", session.logFile),
      sealedMemory: has("sealed-memory"),
    },
    processPerDevice: has("process-per-device"),
  };
}

function groupsOf(given: readonly GivenOption[]): Group[] {
  const groups: Group[] = [];
  for (const option of given) {
    if (sessionOptions.includes(option.name)) continue;
    const group = groups.at(-1);
    if (option.name === "share" && !awaitsShare(group)) {
      groups.push({ device: deviceWord("9p"), properties: "", options: [option] });
    } else if (option.name === "") {
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

/** It is a 9p device of which nothing says yet what it shares. */
function awaitsShare(group: Group | undefined): boolean {
  if (group?.device.word !== "9p") return false;
  return !group.options.some(({ name }) => name === "fsdev" || name === "share");
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
  const share = group.options.find(({ name }) => name === "share");
  if (share !== undefined) value += `,mount_tag=${escapeValue(parseShare(share.value).tag)}`;
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
    if (name === "share") {
      const path = escapeValue(parseShare(value).path);
      return [{ name: "fsdev", value: `local,path=${path},security_model=none` }];
    }
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
