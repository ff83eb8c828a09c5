import type { FileCache } from "@virtio/node/block/file-block";

import type {
  CharacterDescription,
  DirectoryDescription,
  DriveDescription,
  IothreadDescription,
  NetdevDescription,
} from "../boot/description.ts";
import { optional } from "../optional.ts";
import { UserError } from "../user-error.ts";
import { parseKeyval } from "./keyval.ts";
import { nbdByName, nbdByServer, nbdNameProperties, nbdServerProperties, withFileKey } from "./nbd.ts";
import { prefixed, socketAddress, socketProperties } from "./socket-address.ts";
import { Properties, unknown, type PropertySpec } from "./values.ts";

/** Reads the options that name what is behind a device. Each gives the id and the description. */

const string = (name: string, help: string, ignored = false): PropertySpec => ({
  name,
  kind: "string",
  help,
  ignored,
});
const toggle = (name: string, help: string, ignored = false): PropertySpec => ({
  name,
  kind: "switch",
  help,
  ignored,
});

/** How the I/O of a file is done. */
const fileProperties: readonly PropertySpec[] = [
  {
    name: "aio",
    kind: ["threads", "native", "io_uring"],
    help: "what waits for the disk; native: io_uring here",
  },
  toggle(
    "mmap",
    "reads copy out of a mapping of the file; a failing disk then ends the process (default off)",
  ),
];

const driveProperties: readonly PropertySpec[] = [
  string("file", "the image, or a URI such as nbd://HOST/EXPORT"),
  string("id", "names the drive"),
  { name: "if", kind: ["virtio", "none"], help: "virtio: plug it in; none: a -device does" },
  {
    name: "format",
    kind: ["raw"],
    help: "images are raw files; said, one that looks otherwise is taken too",
  },
  toggle("readonly", "the guest may not write"),
  toggle("read-only", "the guest may not write"),
  toggle("snapshot", "writes go to memory"),
  { name: "discard", kind: ["unmap", "ignore", "on", "off"], help: "unmap: release what the guest discards" },
  {
    name: "cache",
    kind: ["writeback", "none", "writethrough", "directsync", "unsafe"],
    help: "none: past the host's page cache; writethrough: each write is durable; directsync: both; unsafe: no flushes",
  },
  ...fileProperties,
  { name: "media", kind: ["disk", "cdrom"], help: "cdrom: read-only" },
  { name: "index", kind: "number", help: "drives are in the order given", ignored: true },
  string("serial", "as the device's serial"),
  {
    name: "file.driver",
    kind: ["file", "host_device", "nbd"],
    help: "what the drive is made of, instead of file",
  },
  string("file.filename", "the image"),
  ...prefixed("file.", nbdServerProperties),
];

/** A `-drive`. */
export interface GivenDrive {
  readonly id: string | undefined;
  /** undefined: not said. */
  readonly plugged: boolean | undefined;
  readonly serial: string | undefined;
  readonly drive: DriveDescription;
}

export function parseDrive(text: string, snapshot: boolean): GivenDrive {
  const given = new Properties("-drive", parseKeyval(text), driveProperties);
  const wanted = given.string("if");
  return {
    id: given.string("id"),
    plugged: wanted === undefined ? undefined : wanted === "virtio",
    serial: given.string("serial"),
    drive: {
      ...imageOf(given),
      readOnly:
        (given.switch("readonly") ?? given.switch("read-only") ?? false) || given.string("media") === "cdrom",
      snapshot: given.switch("snapshot") ?? snapshot,
      discard: ["unmap", "on"].includes(given.string("discard") ?? ""),
      cache: cacheOf(given.string("cache")),
      ...fileIoOf(given),
      raw: given.string("format") === "raw",
      locking: true,
    },
  };
}

/** `file=NAME`, or the same taken apart. */
function imageOf(given: Properties): Pick<DriveDescription, "file" | "nbd"> {
  const driver = given.string("file.driver");
  if (driver === "nbd") return nbdByServer(given, "file.");
  // Only what stands alone is looked at for the name of a protocol.
  if (driver !== undefined) return { file: given.required("file.filename") };
  return nbdByName(given, given.required("file"), "file.");
}

const caches: readonly FileCache[] = ["writeback", "none", "writethrough", "directsync", "unsafe"];

function cacheOf(mode: string | undefined): FileCache {
  return caches.find((cache) => cache === mode) ?? "writeback";
}

function fileIoOf(given: Properties): Pick<DriveDescription, "aio" | "mapped"> {
  const aio = given.string("aio");
  return {
    ...optional<"aio", "threads" | "io_uring">(
      "aio",
      aio === undefined ? undefined : aio === "threads" ? "threads" : "io_uring",
    ),
    ...optional("mapped", given.switch("mmap")),
  };
}

/** How a disk is opened when nothing is said. */
export const plainDrive: Pick<DriveDescription, "discard" | "cache" | "raw" | "locking"> = {
  discard: true,
  cache: "writeback",
  raw: false,
  locking: true,
};

const diskProperties: readonly PropertySpec[] = [
  string("file", "the image, or a URI such as nbd://HOST/EXPORT"),
  toggle("readonly", "the guest may not write"),
  toggle("snapshot", "writes go to memory"),
  ...nbdNameProperties,
];

/** A `--disk`. */
export function parseDisk(text: string, snapshot: boolean): DriveDescription {
  const given = new Properties("--disk", parseKeyval(withFileKey(text), "file"), diskProperties);
  const readOnly = given.switch("readonly") ?? false;
  return {
    ...nbdByName(given, given.required("file"), ""),
    readOnly,
    snapshot: given.switch("snapshot") ?? snapshot,
    ...plainDrive,
  };
}

const blockdevProperties: readonly PropertySpec[] = [
  { name: "driver", kind: ["file", "host_device", "nbd", "raw"], help: "raw images only" },
  string("node-name", "names the node"),
  string("filename", "the image"),
  string("file", "node-name of the file below"),
  { name: "file.driver", kind: ["file", "host_device", "nbd"], help: "what the file below is" },
  string("file.filename", "the image"),
  toggle("read-only", "the guest may not write"),
  toggle("auto-read-only", "accepted", true),
  { name: "discard", kind: ["unmap", "ignore"], help: "unmap: release what the guest discards" },
  toggle("cache.direct", "past the host's page cache"),
  toggle("cache.no-flush", "flushes do nothing"),
  ...fileProperties,
  { name: "locking", kind: ["on", "off", "auto"], help: "off: do not look whether the image is in use" },
  ...nbdServerProperties,
  ...prefixed("file.", nbdServerProperties),
];

/** A `-blockdev`; `nodes` holds those given before it. */
export function parseBlockdev(
  text: string,
  snapshot: boolean,
  nodes: ReadonlyMap<string, DriveDescription>,
): { readonly id: string; readonly drive: DriveDescription } {
  const given = new Properties("-blockdev", parseKeyval(text, "driver"), blockdevProperties);
  const driver = given.required("driver");
  const readOnly = given.switch("read-only") ?? false;
  const discard = given.string("discard") === "unmap";
  const below = given.string("file");
  const id = given.required("node-name");
  if (driver === "raw" && below !== undefined) {
    const node = nodes.get(below);
    if (node === undefined) throw unknown("node of -blockdev file=", below, [...nodes.keys()]);
    const drive = {
      ...node,
      readOnly: readOnly || node.readOnly,
      discard: discard || node.discard,
      raw: true,
    };
    return { id, drive };
  }
  const prefix = driver === "raw" ? "file." : "";
  const isNbd = driver === "nbd" || (driver === "raw" && given.string("file.driver") === "nbd");
  const image = isNbd ? nbdByServer(given, prefix) : { file: given.required(`${prefix}filename`) };
  const locking = given.string("locking") !== "off";
  const cache =
    given.switch("cache.no-flush") === true
      ? "unsafe"
      : given.switch("cache.direct") === true
        ? "none"
        : "writeback";
  const how = { discard, cache, ...fileIoOf(given), raw: driver === "raw", locking } as const;
  return { id, drive: { ...image, readOnly, snapshot, ...how } };
}

const id = string("id", "names the backend");
const stdioProperties = [id, toggle("mux", "accepted", true), toggle("signal", "accepted", true)];
const characterKinds: Readonly<Record<string, readonly PropertySpec[]>> = {
  stdio: stdioProperties,
  null: [id],
  ringbuf: [id, { name: "size", kind: "size", help: "bytes kept (default 64K)" }],
  file: [id, string("path", "the file"), toggle("append", "keep what is in the file")],
  socket: [
    id,
    ...socketProperties.slice(1),
    toggle("server", "listen instead of connecting"),
    toggle("wait", "accepted: the machine does not wait", true),
    toggle("nodelay", "accepted", true),
  ],
};

/** A `-chardev`. */
export function parseChardev(text: string): { readonly id: string; readonly chardev: CharacterDescription } {
  const { kind, given } = kindOf("-chardev", text, characterKinds);
  const result = (chardev: CharacterDescription): { id: string; chardev: CharacterDescription } => ({
    id: given.required("id"),
    chardev,
  });
  switch (kind) {
    case "file":
      return result({ kind, path: given.required("path"), append: given.switch("append") ?? false });
    case "ringbuf":
      return result({ kind, size: given.size("size") ?? 65536 });
    case "socket":
      return result({ kind, address: socketAddress(given, ""), server: given.switch("server") ?? false });
    default:
      return result({ kind: kind === "null" ? "null" : "stdio" });
  }
}

const netdevKinds: Readonly<Record<string, readonly PropertySpec[]>> = {
  stream: [
    id,
    toggle("server", "listen instead of connecting"),
    { name: "reconnect-ms", kind: "number", help: "try again after so many milliseconds" },
    { name: "reconnect", kind: "number", help: "try again after so many seconds" },
    ...prefixed("addr.", socketProperties),
  ],
  hubport: [id, { name: "hubid", kind: "number", help: "number of the hub within this machine" }],
};

/** A `-netdev`. */
export function parseNetdev(text: string): { readonly id: string; readonly netdev: NetdevDescription } {
  if (/^user\b/.test(text)) {
    throw new UserError(
      "-netdev user: there is no user-mode network stack here. Use -netdev stream to reach another machine, or " +
        "-netdev hubport to join devices of this one.",
    );
  }
  const { kind, given } = kindOf("-netdev", text, netdevKinds);
  const name = given.required("id");
  if (kind === "hubport") {
    given.required("hubid");
    return { id: name, netdev: { kind: "hub", hub: given.number("hubid") ?? 0 } };
  }
  const seconds = given.number("reconnect");
  const milliseconds = given.number("reconnect-ms") ?? (seconds === undefined ? undefined : seconds * 1000);
  return {
    id: name,
    netdev: {
      kind: "stream",
      address: socketAddress(given, "addr."),
      server: given.switch("server") ?? false,
      ...(milliseconds === undefined || milliseconds === 0 ? {} : { reconnectMilliseconds: milliseconds }),
    },
  };
}

const fsdevProperties: readonly PropertySpec[] = [
  id,
  string("path", "the directory"),
  {
    name: "security_model",
    kind: ["none", "passthrough", "mapped-xattr", "mapped"],
    help: "how owners are kept",
  },
  toggle("readonly", "the guest may not write"),
  { name: "writeout", kind: ["immediate"], help: "accepted", ignored: true },
  { name: "multidevs", kind: ["remap", "forbid", "warn"], help: "accepted", ignored: true },
];

/** An `-fsdev`, or the part of a `-virtfs` that is one. */
export function parseFsdev(
  option: "-fsdev" | "-virtfs",
  text: string,
): {
  readonly id: string | undefined;
  readonly tag: string | undefined;
  readonly directory: DirectoryDescription;
} {
  const tag = option === "-virtfs" ? [string("mount_tag", "the name the guest mounts")] : [];
  const { given } = kindOf(option, text, { local: [...fsdevProperties, ...tag] });
  const model = given.string("security_model") ?? "none";
  return {
    id: given.string("id"),
    tag: given.string("mount_tag"),
    directory: {
      path: given.required("path"),
      readOnly: given.switch("readonly") ?? false,
      securityModel: model === "passthrough" ? model : model === "none" ? model : "mapped-xattr",
    },
  };
}

const objectKinds: Readonly<Record<string, readonly PropertySpec[]>> = {
  "rng-random": [id, string("filename", "the file to read (default: the system's own source)")],
  "rng-builtin": [id],
  iothread: [
    id,
    {
      name: "poll-max-ns",
      kind: "number",
      help: "how long it looks for more before it sleeps (default 32768)",
    },
    { name: "poll-grow", kind: "number", help: "how that is found is not a choice", ignored: true },
    { name: "poll-shrink", kind: "number", help: "how that is found is not a choice", ignored: true },
  ],
};

/** As in QEMU. */
const DEFAULT_POLL_MAX_NS = 32_768;

/** An `-object`: a source of entropy, or a thread. */
export type GivenObject =
  | { readonly kind: "entropy"; readonly id: string; readonly file: string | undefined }
  | { readonly kind: "iothread"; readonly iothread: IothreadDescription };

export function parseObject(text: string): GivenObject {
  const { kind, given } = kindOf("-object", text, objectKinds, "qom-type");
  const objectId = given.required("id");
  if (kind !== "iothread") return { kind: "entropy", id: objectId, file: given.string("filename") };
  const pollMaxNs = given.number("poll-max-ns") ?? DEFAULT_POLL_MAX_NS;
  return { kind, iothread: { id: objectId, pollMaxNs } };
}

function kindOf(
  option: string,
  text: string,
  kinds: Readonly<Record<string, readonly PropertySpec[]>>,
  key = "type",
): { kind: string; given: Properties } {
  // JSON names the kind by QEMU's key; the short form gives it first. "addr.type" is another key than "type".
  const pairs = parseKeyval(text, key);
  const kind = pairs.get(key) ?? pairs.get("backend") ?? pairs.get("fsdriver") ?? "";
  pairs.delete(key);
  const specs = Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (specs === undefined) throw unknown(`${option} kind`, kind, Object.keys(kinds));
  return { kind, given: new Properties(`${option} ${kind}`, pairs, specs) };
}
