/**
 * The file of a saved machine: a header, JSON, the byte arrays that the JSON points to, and v86's own state.
 * Everything in it is untrusted when it is read.
 */
import { host } from "./globals.ts";

export interface MachineState {
  /** What the machine was made of. */
  readonly fingerprint: string;
  /** Plain data with `Uint8Array` and `undefined` in it. */
  readonly devices: unknown;
  readonly v86: ArrayBuffer;
}

const MAGIC = "VIRTIOVM";
const VERSION = 1;
/** Magic, version, and the lengths of JSON, byte arrays and v86's state. */
const HEADER_SIZE = MAGIC.length + 4 * 4;
/** Stands in JSON for what JSON cannot say: `{"@": "undefined"}` and `{"@": [offset, length]}`. */
const ESCAPE = "@";

export function writeMachineState({ fingerprint, devices, v86 }: MachineState): Uint8Array<ArrayBuffer> {
  const blobs = new Blobs();
  const json = new host.TextEncoder().encode(
    JSON.stringify({ fingerprint, devices: encode(devices, blobs) }),
  );
  const file = new Uint8Array(HEADER_SIZE + json.length + blobs.length + v86.byteLength);
  const header = new DataView(file.buffer);
  file.set(new host.TextEncoder().encode(MAGIC));
  [VERSION, json.length, blobs.length, v86.byteLength].forEach((field, i) =>
    header.setUint32(MAGIC.length + 4 * i, field, true),
  );
  file.set(json, HEADER_SIZE);
  blobs.copyTo(file.subarray(HEADER_SIZE + json.length));
  file.set(new Uint8Array(v86), HEADER_SIZE + json.length + blobs.length);
  return file;
}

/** Throws an Error that says in what way the file is none. */
export function readMachineState(file: Uint8Array): MachineState {
  const magic = new host.TextEncoder().encode(MAGIC);
  if (file.length < HEADER_SIZE || !magic.every((byte, i) => file[i] === byte))
    throw new Error("this is no saved state of an embedded machine");
  const header = new DataView(file.buffer, file.byteOffset, HEADER_SIZE);
  const field = (i: number): number => header.getUint32(MAGIC.length + 4 * i, true);
  if (field(0) !== VERSION) throw new Error(`the saved state has version ${field(0)}, not ${VERSION}`);
  const [jsonLength, blobLength, v86Length] = [field(1), field(2), field(3)];
  const expected = HEADER_SIZE + jsonLength + blobLength + v86Length;
  if (file.length !== expected)
    throw new Error(`the saved state has ${file.length} bytes instead of ${expected}: it is not whole`);
  const blobs = file.subarray(HEADER_SIZE + jsonLength, HEADER_SIZE + jsonLength + blobLength);
  const content = parseJson(file.subarray(HEADER_SIZE, HEADER_SIZE + jsonLength));
  if (typeof content["fingerprint"] !== "string")
    throw new Error("the saved state does not say of what it is");
  return {
    fingerprint: content["fingerprint"],
    devices: decode(content["devices"], blobs),
    // A copy, which `slice` is not when the file is a Buffer of Node.js.
    v86: new Uint8Array(file.subarray(HEADER_SIZE + jsonLength + blobLength)).buffer,
  };
}

function parseJson(bytes: Uint8Array): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new host.TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (isRecord(value)) return value;
  } catch {
    // Said below.
  }
  throw new Error("the saved state is damaged");
}

class Blobs {
  readonly #parts: Uint8Array[] = [];
  length = 0;

  add(bytes: Uint8Array): number {
    const offset = this.length;
    this.#parts.push(bytes);
    this.length += bytes.length;
    return offset;
  }

  copyTo(target: Uint8Array): void {
    let offset = 0;
    for (const part of this.#parts) {
      target.set(part, offset);
      offset += part.length;
    }
  }
}

function encode(value: unknown, blobs: Blobs): unknown {
  if (value === undefined) return { [ESCAPE]: "undefined" };
  if (value instanceof Uint8Array) return { [ESCAPE]: [blobs.add(value), value.length] };
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
  const whole = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;
  if (whole(offset) && whole(length) && offset + length <= blobs.length)
    return new Uint8Array(blobs.subarray(offset, offset + length));
  throw new Error("the saved state is damaged");
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
