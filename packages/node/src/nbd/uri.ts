import { flagOption, textOption, wholeOption } from "virtio/check-option";
import { isIPv6 } from "node:net";
import { NBD_DEFAULT_PORT, NBD_MAX_STRING } from "./protocol.ts";

/** Where an export is. */
export interface NbdTarget {
  readonly address: NbdAddress;
  /** "" is the server's default export. */
  readonly exportName: string;
  /** Absent: not encrypted. */
  readonly tls?: NbdTls;
}

export type NbdAddress =
  | { readonly host: string; readonly port: number }
  /** A Unix socket; a path that begins with NUL is in Linux's abstract namespace. */
  | { readonly path: string };

/** X.509 only. */
export interface NbdTls {
  /** A folder with ca-cert.pem, and with client-cert.pem and client-key.pem when the server asks for them. */
  readonly certificates?: string;
  /** The name that the server's certificate must have. Default: the host; `localhost` on a Unix socket. */
  readonly hostname?: string;
  /** False: any certificate is taken. Default true. */
  readonly verifyPeer?: boolean;
}

const SCHEMES = ["nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+tcp", "nbds+unix"];
const TLS_PARAMETERS = ["tls-certificates", "tls-hostname", "tls-verify-peer", "tls-type"];

/** Whether `text` is written as a URI of NBD, or as QEMU's `nbd:…`; not whether it is right. */
export function isNbdName(text: string): boolean {
  return /^nbds?(?:\+[a-z0-9]+)?:/i.test(text);
}

/**
 * Reads `nbd://host:port/export`, `nbd+unix:///export?socket=PATH`, `nbds://…` ("The NBD URI format"), and QEMU's
 * `nbd:HOST:PORT[:exportname=NAME]` and `nbd:unix:PATH[:exportname=NAME]`. Throws an Error that quotes what is wrong.
 */
export function parseNbdName(text: string): NbdTarget {
  return /^nbds?(?:\+[a-z0-9]+)?:\/\//i.test(text) ? parseUri(text) : parseShort(text);
}

/** A target that was not read from a name, held to the same rules: the same target, or an Error that says what is wrong. */
export function checkedTarget(target: NbdTarget): NbdTarget {
  const { address, exportName, tls } = target;
  checkedName(exportName, textOption("nbd: exportName", exportName));
  if ("path" in address) checkedPath(address.path, textOption("nbd: path", address.path, 1));
  else {
    textOption("nbd: host", address.host, 1);
    wholeOption("nbd: port", address.port, 1, 0xffff);
  }
  if (tls?.certificates !== undefined) textOption("nbd: certificates", tls.certificates, 1);
  if (tls?.hostname !== undefined) textOption("nbd: hostname", tls.hostname, 1);
  if (tls?.verifyPeer !== undefined) flagOption("nbd: verifyPeer", tls.verifyPeer);
  return target;
}

/** How messages name an export. */
export function describeTarget({ address, exportName, tls }: NbdTarget): string {
  const scheme = tls === undefined ? "nbd" : "nbds";
  const name = encodeURIComponent(exportName).replaceAll("%2F", "/");
  if ("path" in address) {
    return `${scheme}+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll("%2F", "/")}`;
  }
  const host = isIPv6(address.host) ? `[${address.host}]` : address.host;
  return `${scheme}://${host}:${address.port}/${name}`;
}

function parseUri(text: string): NbdTarget {
  const [, scheme = "", authority = "", path = "", query] =
    /^([^:]*):\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/.exec(text) ?? [];
  const kind = scheme.toLowerCase();
  if (scheme === "") throw wrong(text, "it is no URI");
  if (!SCHEMES.includes(kind)) {
    throw wrong(text, `${scheme} is not supported; there are ${SCHEMES.join(", ")}`);
  }
  const parameters = parseQuery(text, query, kind);
  return {
    address: kind.endsWith("+unix")
      ? unixAddress(text, authority, parameters)
      : inetAddress(text, authority, decode(text, authority)),
    exportName: checkedName(text, decode(text, path)),
    ...(kind.startsWith("nbds") ? { tls: tlsOf(text, parameters) } : {}),
  };
}

function parseQuery(text: string, query: string | undefined, kind: string): ReadonlyMap<string, string> {
  const known = [
    ...(kind.endsWith("+unix") ? ["socket"] : []),
    ...(kind.startsWith("nbds") ? TLS_PARAMETERS : []),
  ];
  const parameters = new Map<string, string>();
  for (const part of (query ?? "").split("&")) {
    if (part === "") continue;
    const equals = part.indexOf("=");
    const key = decode(text, equals < 0 ? part : part.slice(0, equals));
    if (!known.includes(key)) {
      throw wrong(
        text,
        `parameter "${key}" is not known${known.length > 0 ? `; there are ${known.join(", ")}` : ""}`,
      );
    }
    if (parameters.has(key)) throw wrong(text, `parameter "${key}" is given twice`);
    parameters.set(key, equals < 0 ? "" : decode(text, part.slice(equals + 1)));
  }
  return parameters;
}

function unixAddress(text: string, authority: string, parameters: ReadonlyMap<string, string>): NbdAddress {
  const path = parameters.get("socket") ?? "";
  if (path === "") throw wrong(text, "it needs ?socket=PATH");
  if (authority !== "") throw wrong(text, `a Unix socket has no host: "${authority}"; write three slashes`);
  return checkedPath(text, path);
}

function inetAddress(text: string, raw: string, authority: string): NbdAddress {
  if (raw.includes("@")) throw wrong(text, "user names are for TLS-PSK, which is not supported");
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d*))?$/.exec(authority);
  if (match === null) throw wrong(text, `"${authority}" is no HOST:PORT (IPv6 addresses stand in brackets)`);
  const [, literal, host, port] = match;
  if (literal !== undefined && !isIPv6(literal)) throw wrong(text, `"${literal}" is no IPv6 address`);
  return {
    host: literal ?? (host || "localhost"),
    port: port === undefined || port === "" ? NBD_DEFAULT_PORT : checkedPort(text, port),
  };
}

function tlsOf(text: string, parameters: ReadonlyMap<string, string>): NbdTls {
  const type = parameters.get("tls-type") ?? "x509";
  if (type !== "x509") throw wrong(text, `tls-type=${type} is not supported; there is x509`);
  const verify = parameters.get("tls-verify-peer") ?? "1";
  if (verify !== "0" && verify !== "1") throw wrong(text, `tls-verify-peer is 0 or 1, not "${verify}"`);
  const certificates = parameters.get("tls-certificates");
  const hostname = parameters.get("tls-hostname");
  return {
    ...(certificates === undefined ? {} : { certificates }),
    ...(hostname === undefined ? {} : { hostname }),
    verifyPeer: verify === "1",
  };
}

/** What QEMU takes without slashes. */
function parseShort(text: string): NbdTarget {
  const [, place = "", exportName = ""] = /^nbd:([^]*?)(?::exportname=([^]*))?$/i.exec(text) ?? [];
  const name = checkedName(text, exportName);
  if (place.startsWith("unix:")) {
    if (place.length === 5) throw wrong(text, "it needs a path behind unix:");
    return { address: checkedPath(text, place.slice(5)), exportName: name };
  }
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d+)$/.exec(place);
  if (match === null)
    throw wrong(text, "it is neither nbd:HOST:PORT, nbd:unix:PATH nor a URI such as nbd://HOST/EXPORT");
  const [, literal, host = "", port = ""] = match;
  return {
    address: { host: literal ?? (host || "localhost"), port: checkedPort(text, port) },
    exportName: name,
  };
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw wrong(text, `"${part}" is not percent-encoded UTF-8`);
  }
}

function checkedPort(text: string, port: string): number {
  const value = Number(port);
  if (value >= 1 && value <= 65_535) return value;
  throw wrong(text, `port ${port} is not from 1 to 65535`);
}

/** Room in struct sockaddr_un on Linux. */
const MAX_PATH = 107;

function checkedPath(text: string, path: string): NbdAddress {
  if (Buffer.byteLength(path) > MAX_PATH)
    throw wrong(text, `a path of more than ${MAX_PATH} bytes is no Unix socket`);
  if (path.includes("\0", 1)) throw wrong(text, "the path contains NUL");
  if (Buffer.from(path).toString() !== path) throw wrong(text, "the path is no Unicode");
  return { path };
}

/** "Conventions": the limits of strings. */
function checkedName(text: string, name: string): string {
  if (name.includes("\0")) throw wrong(text, "the name of the export contains NUL");
  if (Buffer.from(name).toString() !== name) throw wrong(text, "the name of the export is no Unicode");
  if (Buffer.byteLength(name) > NBD_MAX_STRING) {
    throw wrong(text, `the name of the export is longer than ${NBD_MAX_STRING} bytes`);
  }
  return name;
}

const LONGEST_QUOTE = 200;

function wrong(text: string, why: string): Error {
  return new Error(`"${text.slice(0, LONGEST_QUOTE)}": ${why.slice(0, 2 * LONGEST_QUOTE)}`);
}
