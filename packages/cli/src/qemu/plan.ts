import { join } from "node:path";

import { parseArguments } from "../options/arguments.ts";
import { parseKeyval } from "../options/keyval.ts";
import { describeServe } from "../serve/describe.ts";
import { deviceWords, serveOptions } from "../serve/table.ts";
import { UserError } from "../user-error.ts";
import { QemuBackends, type Taken } from "./backends.ts";
import { formatKeyval, option, type QemuOption } from "./command-line.ts";
import { carriedDevice, families, ownerOf, type Carried } from "./devices.ts";
import type { QemuFacts } from "./facts.ts";
import { shareMemory } from "./memory.ts";

/** QEMU 7.2 crashes when a vhost-user network device has MSI-X vectors and there is no KVM; 10.0 does not. */
const WITHOUT_CRASH = 10;

/** What is run instead of the command line that was given. */
export interface QemuPlan {
  /** QEMU's arguments. */
  readonly argv: readonly string[];
  /** The arguments of `virtio serve`, a device each. */
  readonly devices: readonly (readonly string[])[];
  /** What is ours, and what was left to QEMU and why: a line each. */
  readonly notes: readonly string[];
}

export interface PlanInput {
  readonly options: readonly QemuOption[];
  readonly facts: QemuFacts;
  /** Where the sockets are. */
  readonly folder: string;
  /** The guest runs on this host's processors. */
  readonly kvm: boolean;
  /** The format of an image that is no raw disk. */
  readonly foreignFormat: (file: string) => string | undefined;
}

/** A `-device`, written or meant by a `-drive if=virtio`. */
interface Asked {
  readonly option: QemuOption;
  readonly name: string;
  readonly carried: (Carried & { name: string }) | undefined;
  readonly pairs: ReadonlyMap<string, string>;
  /** How notes call it. */
  readonly text: string;
}

/** Rewrites a command line: our devices become vhost-user devices, everything else stays as and where it was. */
export function planQemu(input: PlanInput): QemuPlan {
  // A hub is ours when all its ports are. Which are is known only when all were looked at.
  const refusedHubs = new Set<string>();
  for (;;) {
    const planner = new Planner(input, refusedHubs);
    const plan = planner.plan();
    const mixed = planner.mixedHubs();
    if (mixed.length === 0) return plan;
    for (const hub of mixed) refusedHubs.add(hub);
  }
}

class Planner {
  readonly #input: PlanInput;
  readonly #backends: QemuBackends;
  readonly #refusedHubs: ReadonlySet<string>;
  readonly #replaced = new Map<QemuOption, readonly QemuOption[]>();
  readonly #added: QemuOption[] = [];
  readonly #devices: string[][] = [];
  readonly #notes: string[] = [];
  /** Objects that are ours as far as a device of ours refers to them. */
  readonly #objects = new Map<QemuOption, QemuOption[]>();
  readonly #ids: Set<string>;

  constructor(input: PlanInput, refusedHubs: ReadonlySet<string>) {
    this.#input = input;
    this.#refusedHubs = refusedHubs;
    this.#backends = new QemuBackends(input.options, input.foreignFormat);
    const pairs = input.options.map((given) => this.#backends.pairs(given));
    this.#ids = new Set(pairs.map((each) => each.get("id") ?? ""));
  }

  plan(): QemuPlan {
    const { options, facts } = this.#input;
    for (const given of options) {
      if (given.name === "device") this.#consider(given);
      else if (this.#isDisk(given)) this.#considerDrive(given);
    }
    for (const [object, users] of this.#objects) {
      const id = this.#backends.pairs(object).get("id") ?? "";
      if (this.#backends.users(id).every((user) => users.includes(user))) this.#replaced.set(object, []);
    }
    if (this.#devices.length > 0) {
      const memory = shareMemory(options, facts.defaultMemory, this.#newId("vumem"));
      for (const [given, others] of memory.replaced) this.#replaced.set(given, others);
      this.#added.unshift(...memory.added);
      this.#notes.push(...memory.notes);
    }
    const all = [...options.flatMap((given) => this.#replaced.get(given) ?? [given]), ...this.#added];
    return { argv: all.flatMap(({ words }) => words), devices: this.#devices, notes: this.#notes };
  }

  /** Hubs of which a port is ours and another is not. */
  mixedHubs(): string[] {
    const ours = new Map<string, number>();
    for (const [given] of this.#replaced) {
      const pairs = given.name === "netdev" ? this.#backends.pairs(given) : new Map<string, string>();
      const hub = pairs.get("type") === "hubport" ? pairs.get("hubid") : undefined;
      if (hub !== undefined) ours.set(hub, (ours.get(hub) ?? 0) + 1);
    }
    return [...ours]
      .filter(([hub, count]) => this.#backends.hubPorts(hub)?.length !== count)
      .map(([hub]) => hub);
  }

  /** A `-drive` that becomes a virtio disk without a `-device`. */
  #isDisk(given: QemuOption): boolean {
    const { drivesAreVirtio } = this.#input.facts;
    if (given.name === "" || /^hd[a-d]$/.test(given.name)) return drivesAreVirtio;
    if (given.name !== "drive") return false;
    const wanted = this.#backends.pairs(given).get("if");
    return wanted === "virtio" || (wanted === undefined && drivesAreVirtio);
  }

  #considerDrive(given: QemuOption): void {
    const { drivers } = this.#input.facts;
    const name = "virtio-blk";
    const text = given.words.join(" ").replace(/^--?/, "-");
    const asked = { option: given, name, carried: carriedDevice(name, drivers), pairs: new Map(), text };
    const written = given.name === "drive" ? given : option("drive", formatKeyval([["file", given.value]]));
    const pairs =
      given.name === "drive" ? this.#backends : new QemuBackends([written], this.#input.foreignFormat);
    const behind = pairs.drive(written);
    const taken = typeof behind === "string" ? behind : { ...behind, options: [] };
    const done = this.#take(asked, taken);
    if (done === undefined) return;
    // QEMU plugs these in behind what was written.
    this.#replaced.set(given, []);
    this.#added.push(...done);
  }

  #consider(given: QemuOption): void {
    const pairs = this.#backends.pairs(given);
    const name = pairs.get("driver") ?? "";
    const found = carriedDevice(name, this.#input.facts.drivers);
    const asked = { option: given, name, carried: found, pairs, text: given.value };
    if (found === undefined) {
      if (/^(virtio-|virtconsole|virtserialport)/.test(name)) this.#leave(asked, notCarried(name));
      return;
    }
    const id = pairs.get(families[found.family].reference);
    const behind = {
      blk: () => this.#backends.disk(id),
      net: () => this.#backends.netdev(id, this.#refusedHubs),
      entropy: () => this.#backends.rng(id),
    }[found.family]();
    const done = this.#take(asked, behind);
    if (done !== undefined) this.#replaced.set(given, done);
  }

  /** QEMU's options for a device of ours; undefined: it was left to QEMU, and that was noted. */
  #take(asked: Asked, behind: Taken | string): QemuOption[] | undefined {
    const { facts, folder, options } = this.#input;
    const { carried } = asked;
    if (carried === undefined) return this.#leave(asked, notCarried(asked.name));
    if (!facts.memoryBackend) return this.#leave(asked, "this machine's memory cannot be shared");
    if (!facts.drivers.has(carried.driver)) return this.#leave(asked, `this QEMU has no ${carried.driver}`);
    if (typeof behind === "string") return this.#leave(asked, behind);
    const properties = this.#properties(asked, carried);
    if (typeof properties === "string") return this.#leave(asked, properties);
    const { family, driver } = carried;
    const chardev = this.#newId("vu");
    const socket = join(folder, `${chardev}.sock`);
    const word = formatKeyval([["", families[family].word], ...properties.ours], "");
    const words = [word, "--socket", socket, ...behind.words];
    const thread = this.#backends.iothread(asked.pairs.get("iothread"));
    // Said once, with the first device that has it.
    if (thread !== undefined && !this.#objects.has(thread)) {
      words.push("--object", formatKeyval(this.#backends.pairs(thread), "qom-type"));
    }
    if (options.some(({ name }) => name === "snapshot") && family === "blk") words.push("--snapshot");
    const reason = whyNot([...this.#devices.flat(), ...words]);
    if (reason !== undefined) return this.#leave(asked, reason);
    this.#ids.add(chardev);
    this.#devices.push(words);
    this.#notes.push(`${asked.text}: ours`);
    const link = option("chardev", `socket,id=${chardev},path=${socket.replaceAll(",", ",,")}`);
    if (family === "net") this.#replaceNetdev(behind, chardev, link);
    else for (const used of behind.options) this.#drop(asked.option, used);
    if (thread !== undefined) this.#drop(asked.option, thread);
    const reference: [string, string] =
      family === "net" ? ["netdev", asked.pairs.get("netdev") ?? ""] : ["chardev", chardev];
    const device = formatKeyval([["driver", driver], reference, ...properties.qemus], "driver");
    return [...(family === "net" ? [] : [link]), option("device", device)];
  }

  #replaceNetdev(behind: Taken, chardev: string, link: QemuOption): void {
    for (const netdev of behind.options) {
      const id = this.#backends.pairs(netdev).get("id") ?? "";
      this.#replaced.set(netdev, [link, option("netdev", `vhost-user,id=${id},chardev=${chardev}`)]);
    }
  }

  #drop(user: QemuOption, used: QemuOption): void {
    if (used.name !== "object") this.#replaced.set(used, []);
    else this.#objects.set(used, [...(this.#objects.get(used) ?? []), user]);
  }

  #leave(asked: Asked, reason: string): undefined {
    this.#notes.push(`${asked.text}: left to QEMU: ${reason}`);
    return undefined;
  }

  /** Who gets which property; a text: why the device stays QEMU's. */
  #properties(
    { pairs, name }: Asked,
    carried: Carried & { name: string },
  ): { ours: [string, string][]; qemus: [string, string][] } | string {
    const { family, driver, form } = carried;
    const { drivers } = this.#input.facts;
    const ours = new Map<string, string>();
    const qemus = new Map<string, string>();
    for (const [key, value] of [...this.#globals(name, carried.name), ...pairs]) {
      if (key === "driver" || key === families[family].reference) continue;
      const target = drivers.get(driver)?.has(key) === true;
      const owner = ownerOf(family, key);
      if (owner === "ours" || owner === "shared" || key === "id") ours.set(key, value);
      if (key === "id" || (owner === "shared" && target)) qemus.set(key, value);
      if (owner !== "qemu" || key === "id") continue;
      // One that no device has is a mistake, and QEMU says so.
      if (target || drivers.get(carried.name)?.has(key) !== true) qemus.set(key, value);
      else if (!isModern(key, value)) return `${driver} has no ${key}=`;
    }
    if (family === "blk" && !ours.has("num-queues")) {
      // QEMU's own disk has a queue a processor, unless it is on virtio-mmio.
      const queues = form === "device" ? 1 : processors(this.#input.options);
      ours.set("num-queues", `${queues}`);
      qemus.set("num-queues", `${queues}`);
    }
    if (family === "net") netQueues(pairs, ours);
    const { kvm, facts } = this.#input;
    const crashes = !kvm && Number.parseInt(facts.version, 10) < WITHOUT_CRASH;
    if (family === "net" && form !== "device" && crashes && !qemus.has("vectors")) {
      qemus.set("vectors", "0");
    }
    return { ours: [...ours], qemus: [...qemus] };
  }

  /** What `-global` says of this device by name; of what it is derived from, QEMU knows. */
  #globals(...names: readonly string[]): [string, string][] {
    return this.#input.options.flatMap(({ name, value }): [string, string][] => {
      const [, driver = "", property = "", setting = ""] =
        name === "global" ? (/^([^.,=]+)\.([^=]+)=([^]*)$/.exec(value) ?? []) : [];
      return names.includes(driver) ? [[property, setting]] : [];
    });
  }

  #newId(prefix: string): string {
    let number = 0;
    while (this.#ids.has(`${prefix}${number}`)) number++;
    return `${prefix}${number}`;
  }
}

/** A device that has no other interface is as `disable-legacy=on` wants it. */
function isModern(key: string, value: string): boolean {
  if (key === "disable-legacy") return ["on", "auto", "true", "yes", "y"].includes(value);
  return key === "disable-modern" && ["off", "false", "no", "n"].includes(value);
}

/** Our queues are as long as QEMU lets the driver make its own. */
function netQueues(pairs: ReadonlyMap<string, string>, ours: Map<string, string>): void {
  const sizes = ["rx_queue_size", "tx_queue_size"].map((key) => Number(pairs.get(key) ?? 0));
  const longest = Math.max(...sizes);
  if (longest > 0) ours.set("queue-size", `${longest}`);
}

/** The number of processors that `-smp` says. */
export function processors(options: readonly QemuOption[]): number {
  const smp = options.findLast(({ name }) => name === "smp");
  if (smp === undefined) return 1;
  const pairs = parseKeyval(smp.value, "cpus");
  const number = (key: string): number => Math.max(1, Math.trunc(Number(pairs.get(key) ?? 1)) || 1);
  if (pairs.has("cpus")) return number("cpus");
  if (pairs.has("maxcpus")) return number("maxcpus");
  return ["sockets", "dies", "clusters", "cores", "threads"].reduce((all, key) => all * number(key), 1);
}

function notCarried(name: string): string {
  const known = /^(virtio-(serial|9p|blk|net|rng)|virtconsole|virtserialport)/.test(name);
  return known ? "this QEMU has no vhost-user device for it" : "there is none of ours over vhost-user";
}

/** Why `virtio serve` does not take these words; undefined: it does. */
function whyNot(words: readonly string[]): string | undefined {
  try {
    describeServe(
      parseArguments(
        words,
        serveOptions,
        deviceWords.map(({ word }) => word),
      ),
    );
    return undefined;
  } catch (error) {
    if (error instanceof UserError) return error.message.split("\n")[0];
    throw error;
  }
}
