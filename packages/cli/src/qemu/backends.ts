import { formatKeyval, tryKeyval, type QemuOption } from "./command-line.ts";

/** Words of `virtio serve` for what is behind a device, and the options of QEMU that they stand for. */
export interface Taken {
  readonly words: readonly string[];
  readonly options: readonly QemuOption[];
}

/** The same, or why it cannot be ours: the end of a sentence. */
export type TakenOr = Taken | string;

/** Options whose value starts with a word that is the value of this key. */
const impliedKeys: ReadonlyMap<string, string> = new Map([
  ["device", "driver"],
  ["blockdev", "driver"],
  ["netdev", "type"],
  ["object", "qom-type"],
  ["chardev", "backend"],
  ["drive", ""],
  ["numa", "type"],
  ["nic", "type"],
  ["net", "type"],
]);

/** Keys whose value is no reference to another option. */
const plainKeys: readonly string[] =
  "id node-name driver type qom-type backend if serial filename path mem-path format".split(" ");

/** Looks up what devices refer to. */
export class QemuBackends {
  readonly #pairs = new Map<QemuOption, ReadonlyMap<string, string>>();
  /** The format of an image, when it is none that is ours; undefined: it may be. */
  readonly #foreign: (file: string) => string | undefined;
  readonly #options: readonly QemuOption[];

  constructor(options: readonly QemuOption[], foreign: (file: string) => string | undefined) {
    this.#options = options;
    this.#foreign = foreign;
    for (const option of options) {
      const key = impliedKeys.get(option.name);
      const pairs = key === undefined ? undefined : tryKeyval(option.value, key);
      if (pairs !== undefined) this.#pairs.set(option, pairs);
    }
  }

  /** What an option says; empty for one that is not to be understood here. */
  pairs(option: QemuOption): ReadonlyMap<string, string> {
    return this.#pairs.get(option) ?? new Map();
  }

  /** Options that refer to an id. */
  users(id: string): QemuOption[] {
    const refers = (option: QemuOption, key: string): boolean =>
      !plainKeys.includes(key) && !(option.name === "drive" && key === "file");
    return [...this.#pairs]
      .filter(([option, pairs]) => [...pairs].some(([key, value]) => value === id && refers(option, key)))
      .map(([option]) => option);
  }

  /** What stands behind a disk that says `drive=id`. */
  disk(id: string | undefined): TakenOr {
    if (id === undefined) return "it has no drive=";
    const drive = this.#named("drive", "id", id);
    if (drive !== undefined) {
      if (this.pairs(drive).get("if") !== "none") return `-drive id=${id} has no if=none`;
      return this.drive(drive);
    }
    const node = this.#named("blockdev", "node-name", id);
    return node === undefined ? `there is no -drive or -blockdev "${id}"` : this.#node(node);
  }

  /** A `-drive` as ours, which was looked at or not. */
  drive(option: QemuOption): TakenOr {
    const pairs = new Map(this.pairs(option));
    const shared = this.#shared(pairs.get("id"), []);
    if (shared !== undefined) return shared;
    const file = pairs.get("file") ?? pairs.get("file.filename");
    const reason = this.#image(file, pairs.get("format") === "raw");
    // Without a name there may be a driver of another kind, which is looked at with the rest.
    if (reason !== undefined && (file !== undefined || !pairs.has("file.driver"))) return reason;
    if (pairs.has("serial")) return "serial= is a property of -device";
    for (const key of ["id", "if", "bus", "unit", "index"]) pairs.delete(key);
    return { words: ["--drive", formatKeyval(pairs)], options: [option] };
  }

  /** A network back-end by its id. */
  netdev(id: string | undefined, refusedHubs: ReadonlySet<string>): TakenOr {
    const option = id === undefined ? undefined : this.#named("netdev", "id", id);
    if (id === undefined || option === undefined) return `there is no -netdev "${id ?? ""}"`;
    const pairs = new Map(this.pairs(option));
    const kind = pairs.get("type") ?? "";
    if (this.users(id).length > 1) return `-netdev ${id} is not only its own`;
    pairs.delete("id");
    if (kind === "hubport") {
      if (refusedHubs.has(pairs.get("hubid") ?? "")) return `hub ${pairs.get("hubid") ?? ""} is QEMU's`;
      return { words: ["--netdev", formatKeyval(pairs, "type")], options: [option] };
    }
    const stream = kind === "socket" ? streamOf(pairs) : kind === "stream" ? pairs : undefined;
    const abstract = [...pairs.keys()].some((key) => /^addr\.(abstract|tight|str)$/.test(key));
    if (stream === undefined && kind !== "socket") return `-netdev ${kind} is QEMU's`;
    if (stream === undefined || abstract) return `this kind of -netdev ${kind} is QEMU's`;
    return { words: ["--netdev", formatKeyval(stream, "type")], options: [option] };
  }

  /** A source of entropy by its id; without one it is the system's. */
  rng(id: string | undefined): TakenOr {
    if (id === undefined) return { words: [], options: [] };
    const option = this.#named("object", "id", id);
    if (option === undefined) return `there is no -object "${id}"`;
    const pairs = new Map(this.pairs(option));
    pairs.delete("id");
    return { words: ["--object", formatKeyval(pairs, "qom-type")], options: [option] };
  }

  /** The `-object iothread` that a device names; it is one for all that do. */
  iothread(id: string | undefined): QemuOption | undefined {
    const option = id === undefined ? undefined : this.#named("object", "id", id);
    return option !== undefined && this.pairs(option).get("qom-type") === "iothread" ? option : undefined;
  }

  /** The ids of all ports of a hub; undefined: one of them is joined to something of QEMU's. */
  hubPorts(hub: string): string[] | undefined {
    const ports = this.#options.filter(
      (option) =>
        option.name === "netdev" &&
        this.pairs(option).get("type") === "hubport" &&
        this.pairs(option).get("hubid") === hub,
    );
    if (ports.some((port) => this.pairs(port).has("netdev"))) return undefined;
    return ports.map((port) => this.pairs(port).get("id") ?? "");
  }

  #named(name: string, key: string, id: string): QemuOption | undefined {
    return this.#options.find((option) => option.name === name && this.pairs(option).get(key) === id);
  }

  /** A `-blockdev` with the nodes below it. */
  #node(option: QemuOption): TakenOr {
    const nodes: QemuOption[] = [];
    for (let node: QemuOption | undefined = option; node !== undefined;) {
      if (nodes.includes(node)) return "its -blockdev nodes go in a circle";
      nodes.unshift(node);
      const below: string | undefined = this.pairs(node).get("file");
      node = below === undefined ? undefined : this.#named("blockdev", "node-name", below);
    }
    for (const node of nodes) {
      const pairs = this.pairs(node);
      const shared = this.#shared(pairs.get("node-name"), nodes);
      if (shared !== undefined) return shared;
      const file = pairs.get("filename") ?? pairs.get("file.filename");
      const reason =
        file === undefined ? undefined : this.#image(file, this.pairs(option).get("driver") === "raw");
      if (reason !== undefined) return reason;
    }
    const words = nodes.flatMap((node) => ["--blockdev", formatKeyval(this.pairs(node), "driver")]);
    return { words, options: nodes };
  }

  /** A disk has one user, apart from the nodes it is made of. */
  #shared(id: string | undefined, nodes: readonly QemuOption[]): string | undefined {
    const users = id === undefined ? [] : this.users(id).filter((user) => !nodes.includes(user));
    return users.length > 1 ? `"${id ?? ""}" has ${users.length} users` : undefined;
  }

  #image(file: string | undefined, raw: boolean): string | undefined {
    if (file === undefined) return "its drive has no file=";
    // As QEMU reads it: a colon before any slash ends the name of a protocol.
    const protocol = /^([^/:]+):/.exec(file)?.[1];
    if (protocol !== undefined && /^nbds?(\+(unix|tcp))?$/.test(protocol)) return undefined;
    if (protocol !== undefined) return `${protocol}: is QEMU's protocol`;
    if (file.startsWith("/dev/fdset/")) return `${file} is QEMU's`;
    const format = raw ? undefined : this.#foreign(file);
    return format === undefined ? undefined : `${file} is a ${format} image`;
  }
}

/** `-netdev socket` puts on its TCP connection what `-netdev stream` does; its other kinds are undefined here. */
function streamOf(pairs: ReadonlyMap<string, string>): Map<string, string> | undefined {
  const { listen, connect, ...others } = Object.fromEntries(pairs);
  const address = /^([^:]*):(\d+)$/.exec(connect ?? listen ?? "");
  if (address === null || Object.keys(others).some((key) => key !== "type")) return undefined;
  const [, host = "", port = ""] = address;
  // Where no host is said, QEMU listens on all addresses.
  const anywhere = connect === undefined && host === "" ? "0.0.0.0" : host;
  return new Map([
    ["type", "stream"],
    ["server", connect === undefined ? "on" : "off"],
    ["addr.type", "inet"],
    ["addr.host", anywhere],
    ["addr.port", port],
  ]);
}
