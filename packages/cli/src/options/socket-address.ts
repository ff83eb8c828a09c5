import type { SocketAddress } from "../boot/description.ts";
import type { Properties, PropertySpec } from "./values.ts";

/** QEMU's `SocketAddress`, as far as there is one here. */
export const socketProperties: readonly PropertySpec[] = [
  { name: "type", kind: ["inet", "unix"], help: "kind of address" },
  { name: "host", kind: "string", help: "name or address" },
  { name: "port", kind: "number", help: "TCP port" },
  { name: "path", kind: "string", help: "path of a unix socket" },
];

/** The same properties of something that is inside another. */
export function prefixed(prefix: string, specs: readonly PropertySpec[]): PropertySpec[] {
  return specs.map((spec) => ({ ...spec, name: prefix + spec.name }));
}

export function socketAddress(given: Properties, prefix: string): SocketAddress {
  const path = given.string(`${prefix}path`);
  const type = given.string(`${prefix}type`) ?? (path === undefined ? "inet" : "unix");
  if (type === "unix") return { type, path: given.required(`${prefix}path`) };
  given.required(`${prefix}port`);
  const port = given.number(`${prefix}port`) ?? 0;
  if (port > 65535) throw given.error(`${prefix}port is at most 65535`);
  return { type: "inet", host: given.string(`${prefix}host`) || "127.0.0.1", port };
}
