import type {
  CharacterDescription,
  ConsoleDescription,
  DeviceDescription,
  DirectoryDescription,
  DriveDescription,
  IothreadDescription,
  LogDescription,
  MachineDescription,
  MountDescription,
  NetdevDescription,
  NinePDescription,
  SessionDescription,
} from "../boot/description.ts";
import { UserError } from "../user-error.ts";
import type { GivenOption } from "./arguments.ts";
import {
  parseBlockdev,
  parseChardev,
  parseDisk,
  parseDrive,
  parseFsdev,
  parseNetdev,
  parseObject,
  plainDrive,
  type GivenDrive,
} from "./backends.ts";
import { describeDevice, defaultRing, pciPlug, type Backends } from "./describe-device.ts";
import { parseKeyval } from "./keyval.ts";
import { parseShare } from "./share.ts";
import { Properties, parseSize } from "./values.ts";

/** Everything a command line says. */
export interface BootDescription {
  readonly machine: MachineDescription;
  readonly session: SessionDescription;
}

/** What stands behind `--sample`. */
export interface SampleFiles {
  readonly disk: string | undefined;
  readonly share: string;
}

const mebibyte = 2 ** 20;
const defaultMemory = 128 * mebibyte;
/** What v86 can have, and what a kernel with its initrd needs. */
const memoryLimits = [32 * mebibyte, 1920 * mebibyte] as const;

/** Turns options into plain data; every reference between them is resolved, every mistake a UserError. */
export function describe(options: readonly GivenOption[], sample?: SampleFiles): BootDescription {
  const one = (name: string): string | undefined => options.find((option) => option.name === name)?.value;
  const has = (name: string): boolean => options.some((option) => option.name === name);
  const builder = new MachineBuilder(has("snapshot"), has("nodefaults"));
  builder.readBackends(options);
  builder.readDevices(options);
  if (has("sample") && sample !== undefined) builder.addSample(sample);
  const own = ownKernel(one("kernel"), one("initrd"));
  const machine: MachineDescription = {
    memorySize: memorySize(one("m")),
    append: one("append") ?? "",
    legacyMmio: legacyMmio(options),
    ...limited(builder.finish(), one("snapshot-limit")),
    ...(own === undefined ? {} : { kernel: own }),
  };
  return { machine, session: describeSession(one, has, machine) };
}

/** Disks with `snapshot=on` have this limit. */
function limited<T extends Pick<MachineDescription, "devices">>(machine: T, text: string | undefined): T {
  if (text === undefined) return machine;
  const snapshotLimit = parseSize(text, mebibyte);
  if (snapshotLimit === undefined || snapshotLimit === 0)
    throw new UserError(`--snapshot-limit ${text} is no size such as 512M or 4G`);
  const devices = machine.devices.map((device) =>
    device.kind === "blk" && device.drive.snapshot
      ? { ...device, drive: { ...device.drive, snapshotLimit } }
      : device,
  );
  return { ...machine, devices };
}

/** `virtio`, `virtio,registers` or `hints`. */
function parseLog(text: string): LogDescription {
  if (text === "hints") return { registers: false, onlyHints: true };
  const items = text.split(",");
  const strange = items.find((item) => item !== "virtio" && item !== "registers");
  if (strange !== undefined || !items.includes("virtio"))
    throw new UserError(`--log ${text}: "virtio", "virtio,registers" or "hints" can be logged`);
  return { registers: items.includes("registers"), onlyHints: false };
}

function describeSession(
  one: (name: string) => string | undefined,
  has: (name: string) => boolean,
  machine: MachineDescription,
): SessionDescription {
  const log = one("log");
  if (one("log-file") !== undefined && log === undefined) throw new UserError("--log-file needs --log");
  const text = (name: string, key: string): Record<string, string> => {
    const value = one(name);
    return value === undefined ? {} : { [key]: value };
  };
  if (machine.kernel !== undefined) {
    if (has("run") && machine.kernel.initrd === undefined)
      throw new UserError(
        "--run needs the init of our guest: give its --initrd beside --kernel, or leave --kernel away",
      );
    if (machine.root !== undefined) throw new UserError("--root needs our own guest: leave --kernel away");
  }
  return {
    cache: !has("no-cache") && machine.kernel === undefined,
    ...(log === undefined ? {} : { log: parseLog(log) }),
    verbose: has("verbose"),
    ...text("run", "run"),
    ...text("save", "save"),
    ...text("restore", "restore"),
    ...text("log-file", "logFile"),
  };
}

function ownKernel(kernel: string | undefined, initrd: string | undefined): MachineDescription["kernel"] {
  if (kernel === undefined) {
    if (initrd !== undefined) throw new UserError("-initrd needs -kernel");
    return undefined;
  }
  return { kernel, ...(initrd === undefined ? {} : { initrd }) };
}

function memorySize(text: string | undefined): number {
  if (text === undefined) return defaultMemory;
  const given = new Properties("-m", parseKeyval(text, "size"), [
    { name: "size", kind: "string", help: "memory" },
    { name: "slots", kind: "number", help: "accepted", ignored: true },
    { name: "maxmem", kind: "string", help: "accepted", ignored: true },
  ]);
  const size = parseSize(given.required("size"), mebibyte);
  if (size === undefined) throw given.error(`"${given.required("size")}" is no size such as 256 or 1G`);
  if (size < memoryLimits[0] || size > memoryLimits[1]) {
    throw given.error(`this machine has ${memoryLimits[0] / mebibyte} to ${memoryLimits[1] / mebibyte} MiB`);
  }
  // v86 maps memory in pieces of 128 KiB.
  return Math.ceil(size / 131_072) * 131_072;
}

function legacyMmio(options: readonly GivenOption[]): boolean {
  let legacy = false;
  for (const option of options) {
    if (option.name !== "global") continue;
    const given = new Properties("-global", parseKeyval(option.value), [
      { name: "virtio-mmio.force-legacy", kind: "switch", help: "legacy interface" },
    ]);
    legacy = given.switch("virtio-mmio.force-legacy") ?? legacy;
  }
  return legacy;
}

/** Collects devices and backends while the options are read. */
class MachineBuilder implements Backends {
  readonly drives = new Map<string, DriveDescription>();
  readonly chardevs = new Map<string, CharacterDescription>();
  readonly netdevs = new Map<string, NetdevDescription>();
  readonly directories = new Map<string, DirectoryDescription>();
  readonly entropy = new Map<string, string | undefined>();
  readonly iothreads = new Map<string, IothreadDescription>();
  readonly labels = new Set<string>();
  readonly tags = new Set<string>();
  readonly #snapshot: boolean;
  readonly #nodefaults: boolean;
  readonly #given = new Map<GivenOption, GivenDrive>();
  readonly #claimed = new Set<string>();
  readonly #devices: DeviceDescription[] = [];
  readonly #mounts: MountDescription[] = [];
  #networks = 0;
  #root: string | undefined;

  constructor(snapshot: boolean, nodefaults: boolean) {
    this.#snapshot = snapshot;
    this.#nodefaults = nodefaults;
  }

  /** Backends come first: a -device may stand before the -drive it names. */
  readBackends(options: readonly GivenOption[]): void {
    for (const option of options) {
      const { name, value } = option;
      if (name === "drive") {
        const given = parseDrive(value, this.#snapshot);
        this.#given.set(option, given);
        if (given.id !== undefined) this.#addBackend(this.drives, given.id, given.drive, "-drive");
      } else if (name === "blockdev") {
        const { id, drive } = parseBlockdev(value, this.#snapshot, this.drives);
        this.#addBackend(this.drives, id, drive, "-blockdev");
      } else if (name === "chardev") {
        const { id, chardev } = parseChardev(value);
        this.#addBackend(this.chardevs, id, chardev, "-chardev");
      } else if (name === "netdev") {
        const { id, netdev } = parseNetdev(value);
        this.#addBackend(this.netdevs, id, netdev, "-netdev");
      } else if (name === "fsdev") {
        const { id, directory } = parseFsdev("-fsdev", value);
        if (id === undefined) throw new UserError("-fsdev needs id=");
        this.#addBackend(this.directories, id, directory, "-fsdev");
      } else if (name === "object") {
        const object = parseObject(value);
        if (object.kind === "entropy") this.#addBackend(this.entropy, object.id, object.file, "-object");
        else this.#addBackend(this.iothreads, object.iothread.id, object.iothread, "-object");
      }
    }
  }

  readDevices(options: readonly GivenOption[]): void {
    for (const { name, value } of options) if (name === "device") this.#claim(value);
    for (const option of options) {
      const { name, value } = option;
      if (name === "device") describeDevice(value, this, this.#devices);
      else if (name === "drive") this.#addDrive(this.#given.get(option));
      else if (name === "disk") this.#addDisk(parseDisk(value, this.#snapshot));
      else if (name === "share") this.#addShare(value);
      else if (name === "virtfs") this.#addVirtfs(value);
      else if (name === "root") this.#addRoot(value);
    }
    this.#checkStdio();
  }

  /** Gives the next network device an address of its own. */
  nextMac(): string {
    return `52:54:00:12:34:${(0x56 + this.#networks++).toString(16).padStart(2, "0")}`;
  }

  newLabel(wanted: string | undefined, kind: string): string {
    if (wanted !== undefined) {
      if (this.labels.has(wanted)) throw new UserError(`two devices have the id "${wanted}"`);
      this.labels.add(wanted);
      return wanted;
    }
    let number = 0;
    while (this.labels.has(`${kind}${number}`)) number++;
    this.labels.add(`${kind}${number}`);
    return `${kind}${number}`;
  }

  addTag(tag: string): void {
    if (this.tags.has(tag)) throw new UserError(`two shared directories have the tag "${tag}"`);
    this.tags.add(tag);
  }

  /** Only when nothing else is plugged in, so that `npm start -- --disk FILE` has FILE as /dev/vda. */
  addSample(sample: SampleFiles): void {
    if (this.#devices.length > 0) return;
    if (sample.disk !== undefined) {
      this.#addDisk({ file: sample.disk, readOnly: false, snapshot: this.#snapshot, ...plainDrive });
    }
    this.#addDirectory("host", { path: sample.share, readOnly: false, securityModel: "none" });
    this.#mounts.push({ tag: "host", folder: "/mnt/host" });
    this.#devices.push({
      kind: "entropy",
      label: this.newLabel(undefined, "rng"),
      plug: pciPlug(),
      ring: defaultRing,
    });
  }

  finish(): Pick<MachineDescription, "devices" | "mounts"> & { root?: string } {
    return {
      devices: this.#withConsole(),
      mounts: this.#mounts,
      ...(this.#root === undefined ? {} : { root: this.#root }),
    };
  }

  #addBackend<T>(map: Map<string, T>, id: string, value: T, option: string): void {
    if (map.has(id)) throw new UserError(`${option}: the id "${id}" is given twice`);
    map.set(id, value);
  }

  #claim(device: string): void {
    const drive = parseKeyval(device, "driver").get("drive");
    if (drive !== undefined) this.#claimed.add(drive);
  }

  #addDrive(given: GivenDrive | undefined): void {
    if (given === undefined) return;
    const claimed = given.id !== undefined && this.#claimed.has(given.id);
    if (given.plugged === true && claimed) {
      throw new UserError(`-drive id=${given.id ?? ""} has if=virtio and a -device of its own: use if=none`);
    }
    if (given.plugged ?? !claimed) this.#addDisk(given.drive, given.serial);
  }

  #addDisk(drive: DriveDescription, serial?: string): void {
    this.#devices.push({
      kind: "blk",
      label: this.newLabel(undefined, "disk"),
      plug: pciPlug(),
      ring: defaultRing,
      drive,
      ...(serial === undefined ? {} : { serial }),
    });
  }

  #addDirectory(tag: string, directory: DirectoryDescription, wanted?: string): void {
    this.addTag(tag);
    const label = this.newLabel(wanted, "share");
    const device: NinePDescription = {
      kind: "9p",
      label,
      plug: pciPlug(),
      ring: defaultRing,
      tag,
      directory,
    };
    this.#devices.push(device);
  }

  #addShare(value: string): void {
    const { path, tag } = parseShare(value);
    this.#addDirectory(tag, { path, readOnly: false, securityModel: "none" });
    this.#mounts.push({ tag, folder: `/mnt/${tag}` });
  }

  #addVirtfs(value: string): void {
    const { id, tag, directory } = parseFsdev("-virtfs", value);
    if (tag === undefined) throw new UserError("-virtfs needs mount_tag=");
    this.#addDirectory(tag, directory, id);
  }

  #addRoot(path: string): void {
    this.#root = "virtio.root";
    this.#addDirectory(this.#root, { path, readOnly: false, securityModel: "none" });
  }

  #checkStdio(): void {
    const ports = this.#devices.flatMap((device) => (device.kind === "console" ? device.ports : []));
    if (ports.filter((port) => port.chardev.kind === "stdio").length > 1) {
      throw new UserError("only one port can have -chardev stdio");
    }
  }

  /** As QEMU, with a console of its own unless one is given; ours is the first so that it is hvc0. */
  #withConsole(): DeviceDescription[] {
    const consoles = this.#devices.some(
      (device) => device.kind === "console" && device.ports.some((p) => p.console),
    );
    if (consoles || this.#nodefaults) return this.#devices;
    const device: ConsoleDescription = {
      kind: "console",
      label: this.newLabel(undefined, "console"),
      unasked: true,
      plug: pciPlug(),
      ring: defaultRing,
      // One port needs no control queues, and each queue costs time when the guest boots.
      maxPorts: 1,
      ports: [{ number: 0, console: true, chardev: { kind: "stdio" } }],
    };
    return [device, ...this.#devices];
  }
}
