import { CommandError } from "../errors.ts";

/** An IPv4 address as a number. */
export type Ip = number;

/** Throws a CommandError that names `what`. */
export function parseIp(text: string, what: string): Ip {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  const bytes = match?.slice(1).map(Number) ?? [];
  if (bytes.length !== 4 || bytes.some((byte) => byte > 255))
    throw new CommandError(`*** ERROR: ${what}: "${text.slice(0, 40)}" is no IPv4 address`);
  return bytes.reduce((ip, byte) => ip * 256 + byte, 0);
}

export function ipText(ip: Ip): string {
  return [24, 16, 8, 0].map((shift) => (ip >>> shift) & 0xff).join(".");
}

export function macText(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}
