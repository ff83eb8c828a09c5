import { CommandError } from "./errors.ts";

/** A hexadecimal number, with or without 0x. Throws a CommandError that names `what`. */
export function hex(text: string | undefined, what: string): number {
  const match = /^(?:0[xX])?([0-9a-fA-F]{1,14})$/.exec(text ?? "");
  const value = match === null ? NaN : Number.parseInt(match[1] ?? "", 16);
  if (!Number.isSafeInteger(value))
    throw new CommandError(`${what}: "${(text ?? "").slice(0, 40)}" is no hexadecimal number`);
  return value;
}

/** A decimal number. */
export function decimal(text: string | undefined, what: string): number {
  if (!/^\d{1,9}$/.test(text ?? ""))
    throw new CommandError(`${what}: "${(text ?? "").slice(0, 40)}" is no decimal number`);
  return Number(text);
}

export function hex8(value: number): string {
  return value.toString(16).padStart(8, "0");
}

const UNITS = ["E", "P", "T", "G", "M", "K"] as const;

/** `4.4 MiB`, `512 Bytes`: to one digit, as U-Boot writes sizes. */
export function sizeText(size: number): string {
  let unit = 0;
  for (let index = 0; index < UNITS.length; index++, unit++)
    if (size >= 2 ** (10 * (UNITS.length - index))) break;
  const name = UNITS[unit];
  if (name === undefined) return `${size} Bytes`;
  const tenths = Math.floor((size * 10) / 2 ** (10 * (UNITS.length - unit)) + 0.5);
  const larger = UNITS[unit - 1];
  if (tenths >= 10_240 && larger !== undefined) return `1 ${larger}iB`;
  const whole = Math.floor(tenths / 10);
  return tenths % 10 === 0 ? `${whole} ${name}iB` : `${whole}.${tenths % 10} ${name}iB`;
}

/** ` in 12 ms (3.4 MiB/s)`. */
export function rateText(bytes: number, milliseconds: number): string {
  const rate = milliseconds > 0 ? ` (${sizeText(Math.floor(bytes / milliseconds) * 1000)}/s)` : "";
  return `in ${milliseconds} ms${rate}`;
}
