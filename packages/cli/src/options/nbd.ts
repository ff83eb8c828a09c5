import { checkedTarget, describeTarget, isNbdName, type NbdTarget, parseNbdName } from "@virtio/node/nbd/uri";

import type { DriveDescription, NbdDescription } from "../boot/description.ts";
import { optional } from "../optional.ts";
import { messageOf } from "../user-error.ts";
import { prefixed, socketAddress, socketProperties } from "./socket-address.ts";
import type { Properties, PropertySpec } from "./values.ts";

/** Reads what says that a disk is behind an NBD server, in QEMU's words. */

/** What can be said of an export beside its name. */
export const nbdNameProperties: readonly PropertySpec[] = [
  {
    name: "reconnect-delay",
    kind: "number",
    help: "NBD: seconds that requests wait for a lost server (default 0)",
  },
  { name: "open-timeout", kind: "number", help: "NBD: seconds to wait for the server at first (default 0)" },
  {
    name: "request-timeout",
    kind: "number",
    help: "NBD: seconds of silence after which the server counts as lost (default 0: never)",
  },
  { name: "connections", kind: "number", help: "NBD: 1 to 16, where the server allows it (default 1)" },
];

/** QEMU's `BlockdevOptionsNbd`. */
export const nbdServerProperties: readonly PropertySpec[] = [
  ...prefixed("server.", socketProperties),
  {
    name: "server.keep-alive",
    kind: "switch",
    help: "accepted: TCP connections are always watched",
    ignored: true,
  },
  { name: "export", kind: "string", help: "NBD: name of the export (default: the server's own)" },
  ...nbdNameProperties,
];

/** A `--disk` that is a URI has an `=` in it that separates nothing. */
export function withFileKey(text: string): string {
  return isNbdName(text) ? `file=${text}` : text;
}

/** An image, or an export when the name says so. */
export function nbdByName(
  given: Properties,
  file: string,
  prefix: string,
): Pick<DriveDescription, "file" | "nbd"> {
  if (!isNbdName(file)) {
    const lost = nbdServerProperties.find(({ name }) => given.string(prefix + name) !== undefined);
    if (lost !== undefined) throw given.error(`${prefix}${lost.name} is for NBD, and ${file} is a file`);
    return { file };
  }
  return describe(() => parseNbdName(file), given, prefix);
}

/** An export by the parts of its address. */
export function nbdByServer(given: Properties, prefix: string): Pick<DriveDescription, "file" | "nbd"> {
  const address = socketAddress(given, `${prefix}server.`);
  const exportName = given.string(`${prefix}export`) ?? "";
  return describe(() => checkedTarget({ address, exportName }), given, prefix);
}

function describe(
  read: () => NbdTarget,
  given: Properties,
  prefix: string,
): { file: string; nbd: NbdDescription } {
  let target;
  try {
    target = read();
  } catch (error) {
    throw given.error(messageOf(error));
  }
  const connections = given.number(`${prefix}connections`);
  if (connections !== undefined && (connections < 1 || connections > 16)) {
    throw given.error(`${prefix}connections is from 1 to 16`);
  }
  const nbd = {
    target,
    ...optional("reconnectDelay", seconds(given, `${prefix}reconnect-delay`)),
    ...optional("openTimeout", seconds(given, `${prefix}open-timeout`)),
    ...optional("requestTimeout", seconds(given, `${prefix}request-timeout`)),
    ...optional("connections", connections),
  };
  return { file: describeTarget(target), nbd };
}

const LONGEST = 1_000_000;

function seconds(given: Properties, name: string): number | undefined {
  const value = given.number(name);
  if (value !== undefined && value > LONGEST) throw given.error(`${name} is at most ${LONGEST} seconds`);
  return value;
}
