import { createReadStream, createWriteStream, fstatSync } from "node:fs";
import { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { VirtioDevice } from "virtio/device/device";
import { JsonGauge, checkJsonLimits, type JsonLimits } from "virtio/device/json-limits";
import type { Descriptor } from "../native/descriptor.ts";

/**
 * What a device's state may be, saved or loaded. The largest is that of a shared directory: a fid takes some hundred bytes and ten
 * elements, so that fifty thousand fit.
 */
export const STATE_LIMITS: JsonLimits = { bytes: 8 << 20, depth: 32, elements: 1 << 19, shapes: 4096 };

const WHAT = "device state";

/** What a device type saves, as bytes: JSON with Uint8Arrays in base64. Throws an Error when it is more than can be loaded. */
export function encodeState(state: unknown): Uint8Array {
  const text = JSON.stringify({ version: 1, state }, (_, value: unknown) =>
    value instanceof Uint8Array ? { $bytes: Buffer.from(value).toString("base64") } : value,
  );
  const bytes = new TextEncoder().encode(text);
  checkJsonLimits(WHAT, bytes, STATE_LIMITS);
  return bytes;
}

/** Throws an Error when it is nothing that `encodeState` made. Its time and memory are bounded by `STATE_LIMITS`. */
export function decodeState(bytes: Uint8Array): unknown {
  checkJsonLimits(WHAT, bytes, STATE_LIMITS);
  return parseState(bytes);
}

/** Of bytes that are within the limits. */
function parseState(bytes: Uint8Array): unknown {
  const parsed: unknown = JSON.parse(new TextDecoder().decode(bytes));
  if (!isRecord(parsed) || parsed["version"] !== 1) throw new Error(`${WHAT}: not one of version 1`);
  return withBytes(parsed["state"]);
}

/** Puts back the Uint8Arrays. In place, for a reviver of `JSON.parse` takes many times as long. */
function withBytes(value: unknown): unknown {
  if (Array.isArray(value)) {
    const items: unknown[] = value;
    for (let i = 0; i < items.length; i++) items[i] = withBytes(items[i]);
    return items;
  }
  if (!isRecord(value)) return value;
  const { $bytes: base64 } = value;
  if (typeof base64 === "string") return new Uint8Array(Buffer.from(base64, "base64"));
  for (const key of Object.keys(value)) {
    // As a name of a field it would not set a field.
    if (key === "__proto__") throw new Error(`${WHAT}: a field is called ${key}`);
    value[key] = withBytes(value[key]);
  }
  return value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Writes the state of a device at rest into a channel and closes it, in any case. An abort ends it whatever the peer does. */
export async function saveState(
  device: VirtioDevice,
  channel: Descriptor,
  abort: AbortSignal,
): Promise<void> {
  const target = writer(channel);
  try {
    await pipeline([encodeState(device.save?.())], target, { signal: abort });
  } finally {
    // A device that cannot save leaves it as it is.
    target.destroy();
  }
}

/** Reads a channel to its end and gives the device its state; the device must have been reset. */
export async function loadState(
  device: VirtioDevice,
  channel: Descriptor,
  abort: AbortSignal,
): Promise<void> {
  const pieces: Uint8Array[] = [];
  // As it comes: what is too much is not waited for, and no turn of the event loop does all of the counting.
  const gauge = new JsonGauge(WHAT, STATE_LIMITS);
  await pipeline(
    reader(channel),
    async (source: AsyncIterable<Uint8Array>) => {
      for await (const piece of source) {
        gauge.add(piece);
        pieces.push(piece);
      }
    },
    { signal: abort },
  );
  const state = parseState(Buffer.concat(pieces));
  if (device.restore !== undefined) device.restore(state);
  else if (state !== undefined) throw new Error(`${device.name} has no state`);
}

/**
 * Pipes and sockets are waited for by the event loop: a thread that blocks in one could not be ended. What is neither is
 * a file and does not block.
 */
function reader(channel: Descriptor): Readable {
  return stream(channel, (fd) =>
    isFile(fd) ? createReadStream("", { fd }) : new Socket({ fd, readable: true, writable: false }),
  );
}

function writer(channel: Descriptor): Writable {
  return stream(channel, (fd) =>
    isFile(fd) ? createWriteStream("", { fd }) : new Socket({ fd, readable: false, writable: true }),
  );
}

/** The stream closes the descriptor; what can be no stream (such as an eventfd) is closed here. */
function stream<T>(channel: Descriptor, make: (fd: number) => T): T {
  try {
    const made = make(channel.fd);
    channel.release();
    return made;
  } catch (error) {
    channel.close();
    throw error;
  }
}

const isFile = (fd: number): boolean => fstatSync(fd).isFile();
