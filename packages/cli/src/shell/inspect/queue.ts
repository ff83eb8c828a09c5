import type { DmaMemory } from "virtio/driver/types";
import { readLe16, readLe32, readLe64 } from "virtio/memory/bytes";
import { VIRTIO_F_RING_PACKED, hasFeature } from "virtio/spec/core";
import type { QueueConfig } from "virtio/virtqueue/types";
import type { Context } from "../command.ts";
import type { ShellDevice } from "../devices.ts";
import { CommandError } from "../errors.ts";
import { decimal } from "../numbers.ts";
import { findDevices, heading } from "./find.ts";
import { hexOf } from "./words.ts";

const DESCRIPTOR = 16;
/** Descriptors that are shown. */
const SHOWN = 8;
const SPLIT_FLAGS: readonly (readonly [number, string])[] = [
  [1, "NEXT"],
  [2, "WRITE"],
  [4, "INDIRECT"],
];
const PACKED_FLAGS: readonly (readonly [number, string])[] = [
  ...SPLIT_FLAGS,
  [0x80, "AVAIL"],
  [0x8000, "USED"],
];
const EVENT_FLAGS = ["enabled", "disabled", "at a descriptor", "reserved"] as const;

/** `virtio queue [dev] [n]`: a line for each virtqueue in use, or one of them with its first descriptors. */
export async function showQueues(context: Context, [text, numberText]: readonly string[]): Promise<number> {
  const number = numberText === undefined ? undefined : decimal(numberText, "virtio queue");
  for (const device of await findDevices(context, text)) {
    context.out.write(`${heading(device)}\n`);
    const { transport } = device;
    if (transport === undefined) continue;
    const queues = [...transport.queues.values()].sort((a, b) => a.index - b.index);
    const asked = number === undefined ? queues : queues.filter(({ index }) => index === number);
    if (number !== undefined && asked.length === 0)
      throw new CommandError(`${device.name} does not use virtqueue ${number}`);
    if (queues.length === 0) context.out.write("  no virtqueue is in use\n");
    const packed = hasFeature(transport.driverFeatures ?? 0n, VIRTIO_F_RING_PACKED);
    for (const queue of asked)
      context.out.write(queueText(device, transport.memory, queue, packed, number !== undefined));
  }
  return 0;
}

function queueText(
  _device: ShellDevice,
  memory: DmaMemory,
  config: QueueConfig,
  packed: boolean,
  whole: boolean,
): string {
  const { index, size, descriptorArea, driverArea, deviceArea } = config;
  const ring = packed ? "packed" : "split";
  const extras = [config.indirect === true ? "indirect" : "", config.eventIdx === true ? "event index" : ""];
  const title = [ring, `${size} descriptors`, ...extras.filter((extra) => extra !== "")].join(", ");
  const areas =
    `    descriptor area ${hexOf(descriptorArea, 8)}\n    driver area     ${hexOf(driverArea, 8)}\n` +
    `    device area     ${hexOf(deviceArea, 8)}\n`;
  const state = packed ? packedState(memory, config) : splitState(memory, config);
  return `  virtqueue ${index}: ${title}\n${areas}${state}${whole ? descriptors(memory, config, packed) : ""}`;
}

function splitState(
  memory: DmaMemory,
  { size, driverArea, deviceArea, eventIdx = false }: QueueConfig,
): string {
  const available = memory.view(driverArea, 4 + 2 * size + (eventIdx ? 2 : 0));
  const used = memory.view(deviceArea, 4 + 8 * size + (eventIdx ? 2 : 0));
  const index = (bytes: Uint8Array): number => readLe16(bytes, 2);
  const offered = (index(available) - index(used)) & 0xffff;
  const event = (bytes: Uint8Array, at: number, name: string): string =>
    eventIdx ? `, ${name} ${readLe16(bytes, at)}` : "";
  return (
    `    available: idx ${index(available)}, flags ${readLe16(available, 0)}${event(available, 4 + 2 * size, "used_event")}\n` +
    `    used:      idx ${index(used)}, flags ${readLe16(used, 0)}${event(used, 4 + 8 * size, "avail_event")}\n` +
    `    with the device: ${offered} chain(s)\n`
  );
}

function packedState(memory: DmaMemory, { driverArea, deviceArea }: QueueConfig): string {
  const event = (gpa: number): string => {
    const bytes = memory.view(gpa, 4);
    const place = readLe16(bytes, 0);
    return `notifications ${EVENT_FLAGS[readLe16(bytes, 2) & 3] ?? ""}, offset ${place & 0x7fff}, wrap ${place >> 15}`;
  };
  return `    of the driver:   ${event(driverArea)}\n    of the device:   ${event(deviceArea)}\n`;
}

function descriptors(memory: DmaMemory, { size, descriptorArea }: QueueConfig, packed: boolean): string {
  const shown = Math.min(size, SHOWN);
  const bytes = memory.view(descriptorArea, shown * DESCRIPTOR);
  const names = packed ? PACKED_FLAGS : SPLIT_FLAGS;
  let text = "";
  for (let i = 0; i < shown; i++) {
    const at = i * DESCRIPTOR;
    const length = readLe32(bytes, at + 8);
    const flags = readLe16(bytes, at + (packed ? 14 : 12));
    const words = names.filter(([bit]) => (flags & bit) !== 0).map(([, name]) => name);
    const last = packed ? `id ${readLe16(bytes, at + 12)}` : `next ${readLe16(bytes, at + 14)}`;
    text += `    [${String(i).padStart(3)}] addr ${hexOf(readLe64(bytes, at), 8)} len ${String(length).padStart(7)} ${last.padEnd(9)} ${words.join(" ")}`;
    text = `${text.trimEnd()}\n`;
  }
  return size > shown ? `${text}    … ${size - shown} more\n` : text;
}
