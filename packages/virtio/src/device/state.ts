import {
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_SUSPEND,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
  hasFeature,
} from "../spec/core.ts";
import { isQueueSize, parseQueueState } from "../virtqueue/state.ts";
import type { QueueState } from "../virtqueue/types.ts";
import { stateFlag, stateInteger, stateRecord } from "./checked-state.ts";

/** One virtqueue of a saved device. */
export interface SavedQueue {
  readonly size: number;
  readonly descriptorArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
  readonly enabled: boolean;
  /** Present when the ring was running. */
  readonly ring?: QueueState;
}

/** A device at rest, as plain data: JSON, but for the Uint8Arrays that a device type may put into `device`. */
export interface DeviceInstanceState {
  readonly version: 1;
  /** Virtio device id: a state fits only its own type. */
  readonly id: number;
  readonly status: number;
  /** Hexadecimal. */
  readonly features: string;
  readonly generation: number;
  /** The driver still has to hear of a change. */
  readonly configChangePending: boolean;
  readonly legacy: boolean;
  readonly queues: readonly SavedQueue[];
  /** What the device type saved. */
  readonly device: unknown;
}

/** The saved device as far as it is not the device type's, checked, with its features as a number. */
export interface ParsedDeviceState extends Omit<DeviceInstanceState, "features"> {
  readonly features: bigint;
}

/** What a state must fit to be adopted. */
export interface StateExpectation {
  readonly id: number;
  readonly offered: bigint;
  readonly maxSizes: readonly number[];
}

/** Throws an Error that names what is wrong: saved states are hostile input. */
export function parseDeviceState(value: unknown, expected: StateExpectation): ParsedDeviceState {
  const state = stateRecord(value, "saved device");
  if (state["version"] !== 1)
    throw new RangeError(`saved device: version ${String(state["version"])} is not 1`);
  if (state["id"] !== expected.id)
    throw new RangeError(`saved device: id ${String(state["id"])} is not ${expected.id}`);
  const features = parseFeatures(state["features"]);
  const legacy = stateFlag(state["legacy"], "saved device: legacy");
  const strange = features & ~expected.offered;
  if (strange !== 0n)
    throw new RangeError(`saved device: features 0x${strange.toString(16)} are not offered here`);
  const saved = state["queues"];
  if (!Array.isArray(saved) || saved.length !== expected.maxSizes.length)
    throw new RangeError(`saved device: must have ${expected.maxSizes.length} virtqueues`);
  const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
  const parsed: ParsedDeviceState = {
    version: 1,
    id: expected.id,
    status: stateInteger(state["status"], 0xff, "saved device: status"),
    features,
    generation: stateInteger(state["generation"], 0xffff_ffff, "saved device: generation"),
    configChangePending: stateFlag(state["configChangePending"], "saved device: configChangePending"),
    legacy,
    queues: saved.map((queue: unknown, index) =>
      parseQueue(queue, index, packed, expected.maxSizes[index] ?? 0),
    ),
    device: state["device"],
  };
  checkLife(parsed);
  return parsed;
}

/** Every number may be in range and the whole still be a life that no device ever led. */
function checkLife({ status, features, legacy, queues }: ParsedDeviceState): void {
  const has = (bit: number): boolean => (status & bit) !== 0;
  const impossible = (what: string): never => {
    throw new RangeError(`saved device: status ${status} ${what}`);
  };
  const live = has(VIRTIO_STATUS_DRIVER_OK) || has(VIRTIO_STATUS_SUSPEND);
  if (live && !legacy && !has(VIRTIO_STATUS_FEATURES_OK)) impossible("is live without FEATURES_OK");
  if (has(VIRTIO_STATUS_SUSPEND) && has(VIRTIO_STATUS_DRIVER_OK)) impossible("is both running and suspended");
  if (has(VIRTIO_STATUS_SUSPEND) && !hasFeature(features, VIRTIO_F_SUSPEND))
    impossible("is suspended without VIRTIO_F_SUSPEND");
  if (legacy && features >> 32n !== 0n)
    impossible("is that of a legacy driver with more than 32 feature bits");
  if (!live || has(VIRTIO_STATUS_DEVICE_NEEDS_RESET) || has(VIRTIO_STATUS_FAILED)) return;
  queues.forEach(({ enabled, ring }, index) => {
    if (enabled !== (ring !== undefined))
      impossible(`is live, and virtqueue ${index} is enabled or runs, but not both`);
  });
}

function parseQueue(value: unknown, index: number, packed: boolean, maxSize: number): SavedQueue {
  const name = `saved virtqueue ${index}`;
  const queue = stateRecord(value, name);
  const enabled = stateFlag(queue["enabled"], `${name}: enabled`);
  const size = stateInteger(queue["size"], 0xffff, `${name}: size`);
  if (enabled && (size > maxSize || !isQueueSize(size, packed)))
    throw new RangeError(`${name}: Queue Size ${size} cannot be`);
  const area = (key: string): number => stateInteger(queue[key], Number.MAX_VALUE, `${name}: ${key}`);
  const ring = queue["ring"];
  return {
    size,
    descriptorArea: area("descriptorArea"),
    driverArea: area("driverArea"),
    deviceArea: area("deviceArea"),
    enabled,
    ...(ring === undefined ? {} : { ring: parseQueueState(ring) }),
  };
}

function parseFeatures(value: unknown): bigint {
  if (typeof value !== "string" || !/^[0-9a-f]{1,32}$/.test(value))
    throw new TypeError("saved device: features must be hexadecimal");
  return BigInt(`0x${value}`);
}
