/**
 * The file of a saved machine: a header, JSON, the byte arrays that the JSON points to, v86's own state, and RAM without
 * its zeroes. Nothing is compressed: that would take longer than to read it. Everything in it is untrusted when it is read.
 */
import { checkJsonLimits, type JsonLimits } from "virtio/device/json-limits";
import { host } from "./globals.ts";

/** A piece of RAM that is not all zero. */
export interface MemoryRun {
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface MachineState {
  /** What the machine was made of. */
  readonly fingerprint: string;
  /** Plain data with `Uint8Array` and `undefined` in it. */
  readonly devices: unknown;
  readonly v86: ArrayBuffer;
  /** In order, without overlap. */
  readonly ram: readonly MemoryRun[];
}

const MAGIC = "VIRTIOVM";
const VERSION = 1;
/** Magic, version, and the lengths of JSON, byte arrays, v86's state and RAM. */
const HEADER_SIZE = MAGIC.length + 5 * 4;
/** Of the JSON: some hundred thousand things that devices keep, and RAM of 4 GiB of which every second page is zero. */
const LIMITS: JsonLimits = { bytes: 64 << 20, depth: 40, elements: 1 << 22, shapes: 4096 };
/** Stands in JSON for what JSON cannot say: `{"@": "undefined"}` and `{"@": [offset, length]}`. */
const ESCAPE = "@";

export function writeMachineState(state: MachineState): Uint8Array<ArrayBuffer> {
  const blobs: Uint8Array[] = [];
  const content = {
    fingerprint: state.fingerprint,
    devices: encode(state.devices, blobs),
    ram: state.ram.map(({ address, bytes }) => [address, bytes.length]),
  };
  const json = new host.TextEncoder().encode(JSON.stringify(content));
  const ram = state.ram.map(({ bytes }) => bytes);
  const lengths = [json.length, totalLength(blobs), state.v86.byteLength, totalLength(ram)];
  const header = new Uint8Array(HEADER_SIZE);
  header.set(new host.TextEncoder().encode(MAGIC));
  const fields = new DataView(header.buffer);
  [VERSION, ...lengths].forEach((field, i) => fields.setUint32(MAGIC.length + 4 * i, field, true));
  const parts = [header, json, ...blobs, new Uint8Array(state.v86), ...ram];
  // What could not be restored is said now.
  checkJsonLimits("the saved state", json, LIMITS);
  const file = new Uint8Array(totalLength(parts));
  let at = 0;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}

/** Throws an Error that says in what way the file is none. RAM stays where it is in the file. */
export function readMachineState(file: Uint8Array): MachineState {
  const magic = new host.TextEncoder().encode(MAGIC);
  if (file.length < HEADER_SIZE || !magic.every((byte, i) => file[i] === byte))
    throw new Error("this is no saved state of an embedded machine");
  const header = new DataView(file.buffer, file.byteOffset, HEADER_SIZE);
  const field = (i: number): number => header.getUint32(MAGIC.length + 4 * i, true);
  if (field(0) !== VERSION) throw new Error(`the saved state has version ${field(0)}, not ${VERSION}`);
  const lengths = [1, 2, 3, 4].map(field);
  const expected = HEADER_SIZE + lengths.reduce((sum, length) => sum + length, 0);
  if (file.length !== expected)
    throw new Error(`the saved state has ${file.length} bytes instead of ${expected}: it is not whole`);
  let at = HEADER_SIZE;
  const [json, blobs, v86, ram] = lengths.map((length) => file.subarray(at, (at += length)));
  const content = parseJson(json ?? file);
  if (typeof content["fingerprint"] !== "string") throw damaged();
  return {
    fingerprint: content["fingerprint"],
    devices: decode(content["devices"], blobs ?? file),
    // A copy, which `slice` is not when the file is a Buffer of Node.js.
    v86: new Uint8Array(v86 ?? file).buffer,
    ram: decodeRam(content["ram"], ram ?? file),
  };
}

function decodeRam(runs: unknown, bytes: Uint8Array): MemoryRun[] {
  if (!Array.isArray(runs)) throw damaged();
  let at = 0;
  let end = 0;
  const decoded = runs.map((run: unknown): MemoryRun => {
    const pair: readonly unknown[] = Array.isArray(run) ? run : [];
    const [address, length] = pair;
    if (!isSize(address) || !isSize(length) || address < end || length > bytes.length - at) throw damaged();
    end = address + length;
    return { address, bytes: bytes.subarray(at, (at += length)) };
  });
  if (at !== bytes.length) throw damaged();
  return decoded;
}

function totalLength(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

function damaged(): Error {
  return new Error("the saved state is damaged");
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function parseJson(bytes: Uint8Array): Record<string, unknown> {
  checkJsonLimits("the saved state", bytes, LIMITS);
  try {
    const value: unknown = JSON.parse(new host.TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (isRecord(value)) return value;
  } catch {
    // Said below.
  }
  throw damaged();
}

function encode(value: unknown, blobs: Uint8Array[]): unknown {
  if (value === undefined) return { [ESCAPE]: "undefined" };
  if (value instanceof Uint8Array) {
    const place = [totalLength(blobs), value.length];
    blobs.push(value);
    return { [ESCAPE]: place };
  }
  if (Array.isArray(value)) return value.map((element) => encode(element, blobs));
  if (!isRecord(value)) return value;
  if (ESCAPE in value) throw new Error(`a device state has a field of the name ${ESCAPE}`);
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, encode(field, blobs)]));
}

function decode(value: unknown, blobs: Uint8Array): unknown {
  if (Array.isArray(value)) return value.map((element) => decode(element, blobs));
  if (!isRecord(value)) return value;
  if (ESCAPE in value) return decodeEscape(value[ESCAPE], blobs);
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, decode(field, blobs)]));
}

function decodeEscape(escape: unknown, blobs: Uint8Array): Uint8Array | undefined {
  if (escape === "undefined") return undefined;
  const place: readonly unknown[] = Array.isArray(escape) ? escape : [];
  const [offset, length] = place;
  if (!isSize(offset) || !isSize(length) || offset + length > blobs.length) throw damaged();
  return new Uint8Array(blobs.subarray(offset, offset + length));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
