import { parseSize } from "../options/values.ts";
import { UserError } from "../user-error.ts";
import { formatKeyval, option, tryKeyval, type QemuOption } from "./command-line.ts";

/** How guest memory becomes shared with us. */
export interface SharedMemory {
  /** Options that become others, or none. */
  readonly replaced: ReadonlyMap<QemuOption, readonly QemuOption[]>;
  readonly added: readonly QemuOption[];
  readonly notes: readonly string[];
}

const MEBIBYTE = 2 ** 20;
/** QEMU's own rounding of `-m`. */
const GRANULE = 8192;

/**
 * vhost-user passes guest memory as descriptors, so all of it is in memory-backend objects that are shared: the user's where there
 * are some, else one of the size of `-m`.
 */
export function shareMemory(
  options: readonly QemuOption[],
  defaultMemory: number,
  newId: string,
): SharedMemory {
  const replaced = new Map<QemuOption, QemuOption[]>();
  const notes: string[] = [];
  for (const given of options) {
    const object = given.name === "object" ? tryKeyval(given.value, "qom-type") : undefined;
    const kind = /^memory-backend-(ram|file|memfd)$/.exec(object?.get("qom-type") ?? "")?.[1];
    if (object === undefined || kind === undefined || object.get("share") === "on") continue;
    if (kind === "memfd" && !object.has("share")) continue;
    object.set("share", "on");
    if (kind === "ram") object.set("qom-type", "memory-backend-memfd");
    if (kind === "file") notes.push(`${object.get("mem-path") ?? ""} is written to: guest memory is shared`);
    replaced.set(given, [option("object", formatKeyval(object, "qom-type"))]);
  }
  if (hasBackend(options)) return { replaced, added: [], notes };
  const path = options.findLast(({ name }) => name === "mem-path");
  if (path !== undefined) replaced.set(path, []);
  const pairs: [string, string][] = [
    ["qom-type", path === undefined ? "memory-backend-memfd" : "memory-backend-file"],
    ["id", newId],
    ["size", `${memorySize(options, defaultMemory)}`],
    ...(path === undefined ? [] : ([["mem-path", path.value]] satisfies [string, string][])),
    ["share", "on"],
  ];
  const added = [
    option("object", formatKeyval(pairs, "qom-type")),
    option("machine", `memory-backend=${newId}`),
  ];
  return { replaced, added, notes };
}

/** The user has said what guest memory is. */
function hasBackend(options: readonly QemuOption[]): boolean {
  return options.some(({ name, value }) => {
    if (["machine", "M"].includes(name)) return tryKeyval(value, "type")?.has("memory-backend") === true;
    return name === "numa" && tryKeyval(value, "type")?.has("memdev") === true;
  });
}

/** Bytes; what is said later counts. */
function memorySize(options: readonly QemuOption[], defaultMemory: number): number {
  const said = options
    .filter(({ name }) => name === "m")
    .map(({ value }) => tryKeyval(value, "size")?.get("size"))
    .findLast((size) => size !== undefined);
  if (said === undefined) return defaultMemory;
  const size = parseSize(said, MEBIBYTE);
  if (size === undefined) throw new UserError(`-m ${said} is no size such as 256 or 1G`);
  // Nothing means the default, as ever.
  return size === 0 ? defaultMemory : Math.ceil(size / GRANULE) * GRANULE;
}
