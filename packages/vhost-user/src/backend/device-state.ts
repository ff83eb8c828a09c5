import { createReadStream, createWriteStream, fstatSync } from "node:fs";
import { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { VirtioDevice } from "virtio/device/device";
import type { Descriptor } from "../native/descriptor.ts";

/** Bytes of a device's state that are accepted. */
const MAX_STATE = 64 << 20;

/** What a device type saves, as bytes: JSON with Uint8Arrays in base64. */
export function encodeState(state: unknown): Uint8Array {
  const text = JSON.stringify({ version: 1, state }, (_, value: unknown) =>
    value instanceof Uint8Array ? { $bytes: Buffer.from(value).toString("base64") } : value,
  );
  return new TextEncoder().encode(text);
}

/** Throws an Error when it is nothing that `encodeState` made. */
export function decodeState(bytes: Uint8Array): unknown {
  const parsed: unknown = JSON.parse(new TextDecoder().decode(bytes), (_, value: unknown) =>
    typeof value === "object" && value !== null && "$bytes" in value && typeof value.$bytes === "string"
      ? new Uint8Array(Buffer.from(value.$bytes, "base64"))
      : value,
  );
  if (typeof parsed !== "object" || parsed === null || !("version" in parsed) || parsed.version !== 1)
    throw new Error("device state: not one of version 1");
  return "state" in parsed ? parsed.state : undefined;
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
  let length = 0;
  await pipeline(
    reader(channel),
    async (source: AsyncIterable<Uint8Array>) => {
      for await (const piece of source) {
        length += piece.length;
        if (length > MAX_STATE) throw new Error(`device state of more than ${MAX_STATE} bytes`);
        pieces.push(piece);
      }
    },
    { signal: abort },
  );
  const state = decodeState(Buffer.concat(pieces));
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
