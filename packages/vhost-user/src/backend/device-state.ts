import { createReadStream, createWriteStream } from "node:fs";
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

/** Writes the state of a device at rest into a pipe and closes it. */
export async function saveState(device: VirtioDevice, pipe: Descriptor): Promise<void> {
  const bytes = encodeState(device.save?.());
  await new Promise<void>((resolve, reject) => {
    const stream = createWriteStream("", { fd: pipe.release() });
    stream.on("error", reject).on("close", resolve);
    stream.end(bytes);
  });
}

/** Reads a pipe to its end and gives the device its state; the device must have been reset. */
export async function loadState(device: VirtioDevice, pipe: Descriptor): Promise<void> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of createReadStream("", { fd: pipe.release() })) {
    const bytes = piece as Buffer;
    length += bytes.length;
    if (length > MAX_STATE) throw new Error(`device state of more than ${MAX_STATE} bytes`);
    pieces.push(bytes);
  }
  const state = decodeState(Buffer.concat(pieces));
  if (device.restore !== undefined) device.restore(state);
  else if (state !== undefined) throw new Error(`${device.name} has no state`);
}
