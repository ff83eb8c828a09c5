import { randomInt } from "node:crypto";
import type { Ip } from "./addresses.ts";
import { BROADCAST_IP } from "./frames.ts";
import type { Datagram, Stack } from "./stack.ts";

/** What a server gave (RFC 2131, RFC 2132). */
export interface Lease {
  readonly ip: Ip;
  readonly netmask: Ip;
  readonly gateway: Ip;
  /** Where files are: the next server, or else the DHCP server. */
  readonly server: Ip;
  readonly dns: readonly Ip[];
  readonly hostname: string;
  readonly domain: string;
  readonly rootPath: string;
  readonly bootFile: string;
}

const SERVER_PORT = 67;
const CLIENT_PORT = 68;
const FIXED = 236;
const COOKIE = 0x63825363;
const OPTIONS_AT = FIXED + 4;
/** Messages this long pass every relay. */
const MINIMUM = 300;
const DISCOVER = 1;
const OFFER = 2;
const REQUEST = 3;
const ACK = 5;
const NAK = 6;
const OPTION = {
  netmask: 1,
  router: 3,
  dns: 6,
  hostname: 12,
  domain: 15,
  rootPath: 17,
  requestedIp: 50,
  type: 53,
  server: 54,
  wanted: 55,
  maxSize: 57,
  tftpServer: 66,
  bootFile: 67,
  end: 255,
} as const;
const WANTED = [1, 3, 6, 12, 15, 17, 66, 67] as const;
/** Milliseconds to wait for an answer, one try after the other. */
const WAITS = [1000, 2000, 4000, 8000] as const;

/** Asks for an address. Undefined: nobody gave one. `attempt` is told of each broadcast, from 1 on. */
export async function askForLease(
  stack: Stack,
  attempt: (count: number) => void,
): Promise<Lease | undefined> {
  stack.listen(CLIENT_PORT);
  const xid = randomInt(2 ** 32);
  for (const [index, wait] of WAITS.entries()) {
    attempt(index + 1);
    await stack.send(BROADCAST_IP, SERVER_PORT, message(stack.mac, xid, DISCOVER, []));
    const offer = await answer(stack, xid, wait, [OFFER]);
    if (offer === undefined) continue;
    const server = offer.options.get(OPTION.server);
    const options: [number, Uint8Array][] = [[OPTION.requestedIp, bytesOf(offer.ip)]];
    if (server !== undefined) options.push([OPTION.server, server]);
    await stack.send(BROADCAST_IP, SERVER_PORT, message(stack.mac, xid, REQUEST, options));
    const end = await answer(stack, xid, wait, [ACK, NAK]);
    if (end?.type === ACK) return leaseOf(end);
  }
  return undefined;
}

function message(
  mac: Uint8Array,
  xid: number,
  type: number,
  options: readonly (readonly [number, Uint8Array])[],
): Uint8Array {
  const all: (readonly [number, Uint8Array])[] = [
    [OPTION.type, Uint8Array.of(type)],
    [OPTION.maxSize, Uint8Array.of(576 >> 8, 576 & 0xff)],
    ...options,
    [OPTION.wanted, Uint8Array.from(WANTED)],
  ];
  const length = all.reduce((sum, [, value]) => sum + 2 + value.length, OPTIONS_AT + 1);
  const bytes = new Uint8Array(Math.max(MINIMUM, length));
  const view = new DataView(bytes.buffer);
  bytes.set([1, 1, 6, 0]);
  view.setUint32(4, xid);
  // We have no address to be answered at: broadcast.
  view.setUint16(10, 0x8000);
  bytes.set(mac, 28);
  view.setUint32(FIXED, COOKIE);
  let at = OPTIONS_AT;
  for (const [code, value] of all) {
    bytes.set([code, value.length], at);
    bytes.set(value, at + 2);
    at += 2 + value.length;
  }
  bytes[at] = OPTION.end;
  return bytes;
}

interface Answer {
  readonly type: number;
  readonly ip: Ip;
  readonly nextServer: Ip;
  readonly file: string;
  readonly options: ReadonlyMap<number, Uint8Array>;
}

async function answer(
  stack: Stack,
  xid: number,
  milliseconds: number,
  types: readonly number[],
): Promise<Answer | undefined> {
  const deadline = Date.now() + milliseconds;
  for (let left: number = milliseconds; left > 0; left = deadline - Date.now()) {
    const datagram = await stack.receive(left);
    if (datagram === undefined) return undefined;
    const decoded = decode(datagram, xid, stack.mac);
    if (decoded !== undefined && types.includes(decoded.type)) return decoded;
  }
  return undefined;
}

/** Undefined: no answer to us. */
function decode({ payload, sourcePort }: Datagram, xid: number, mac: Uint8Array): Answer | undefined {
  if (sourcePort !== SERVER_PORT || payload.length < OPTIONS_AT) return undefined;
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const forUs =
    payload[0] === 2 && view.getUint32(4) === xid && mac.every((byte, i) => payload[28 + i] === byte);
  if (!forUs || view.getUint32(FIXED) !== COOKIE) return undefined;
  const options = optionsOf(payload.subarray(OPTIONS_AT));
  const ip = view.getUint32(16);
  if (ip === 0 && options.get(OPTION.type)?.[0] !== NAK) return undefined;
  return {
    type: options.get(OPTION.type)?.[0] ?? 0,
    ip,
    nextServer: view.getUint32(20),
    file: textOf(payload.subarray(108, FIXED)),
    options,
  };
}

function optionsOf(bytes: Uint8Array): Map<number, Uint8Array> {
  const options = new Map<number, Uint8Array>();
  for (let at = 0; at < bytes.length;) {
    const code = bytes[at] ?? OPTION.end;
    if (code === OPTION.end) break;
    const length = code === 0 ? -1 : (bytes[at + 1] ?? 0);
    if (code !== 0 && at + 2 + length <= bytes.length)
      options.set(code, bytes.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return options;
}

function leaseOf({ ip, nextServer, file, options }: Answer): Lease {
  const addresses = (code: number): Ip[] => {
    const bytes = options.get(code) ?? new Uint8Array();
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return Array.from({ length: Math.floor(bytes.length / 4) }, (_, i) => view.getUint32(4 * i));
  };
  const text = (code: number): string => textOf(options.get(code) ?? new Uint8Array());
  const [netmask = 0] = addresses(OPTION.netmask);
  const [gateway = 0] = addresses(OPTION.router);
  const [server = 0] = addresses(OPTION.server);
  return {
    ip,
    netmask,
    gateway,
    server: nextServer === 0 ? server : nextServer,
    dns: addresses(OPTION.dns),
    hostname: text(OPTION.hostname),
    domain: text(OPTION.domain),
    rootPath: text(OPTION.rootPath),
    bootFile: text(OPTION.bootFile) || file,
  };
}

/** Printable characters only: it goes to a terminal, and into variables. */
function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const text = String.fromCharCode(...bytes.subarray(0, end < 0 ? bytes.length : end));
  return text.replace(/[^\x20-\x7e]/g, "?");
}

function bytesOf(ip: Ip): Uint8Array {
  return Uint8Array.of(ip >>> 24, (ip >>> 16) & 0xff, (ip >>> 8) & 0xff, ip & 0xff);
}
