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
import type { Negotiation } from "./negotiation.ts";
import type { QueueRegisterValues } from "./queue-registers.ts";

/** One virtqueue of a saved device: its registers as the driver wrote them, right or wrong. */
export interface SavedQueue {
  readonly size: number;
  /** Hexadecimal, 64 bits. */
  readonly descriptorArea: string;
  readonly driverArea: string;
  readonly deviceArea: string;
  readonly enabled: boolean;
  /** Present when the ring was running. */
  readonly ring?: QueueState;
}

/** A device at rest, as plain data: JSON, but for the Uint8Arrays that a device type may put into `device`. */
export interface DeviceInstanceState {
  readonly version: 2;
  /** Virtio device id: a state fits only its own type. */
  readonly id: number;
  readonly status: number;
  /** Hexadecimal: what the driver wrote, judged or not. */
  readonly features: string;
  readonly generation: number;
  /** The driver still has to hear of a change. */
  readonly configChangePending: boolean;
  readonly legacy: boolean;
  /**
   * Hexadecimal: the features that the device type was set up with, at DRIVER_OK or at a legacy driver's first notification
   * (who may write others afterwards). Null when it is not set up.
   */
  readonly active: string | null;
  readonly queues: readonly SavedQueue[];
  /** What the device type saved. */
  readonly device: unknown;
}

/** A virtqueue of a saved device, checked. */
export interface ParsedQueue extends QueueRegisterValues {
  readonly ring?: QueueState;
}

/** The saved device as far as it is not the device type's, checked, with its features as a number. */
export interface ParsedDeviceState extends Omit<
  DeviceInstanceState,
  "features" | "active" | "version" | "queues"
> {
  readonly features: bigint;
  readonly active: bigint | undefined;
  readonly queues: readonly ParsedQueue[];
}

/** What a state must fit to be adopted. */
export interface StateExpectation {
  readonly id: number;
  readonly features: Pick<Negotiation, "offered" | "legacyOffered" | "refusal">;
  readonly queues: readonly { readonly maxSize: number }[];
}

/** Version 1 had no `active`, and areas as numbers, which told addresses of 2^53 and more only roughly. */
const VERSIONS: readonly unknown[] = [1, 2];
const LARGEST_REGISTER = 0xffff_ffff;
const LARGEST_AREA = 2n ** 64n - 1n;

/** Throws an Error that names what is wrong: saved states are hostile input. */
export function parseDeviceState(value: unknown, expected: StateExpectation): ParsedDeviceState {
  const state = stateRecord(value, "saved device");
  const version = state["version"];
  if (!VERSIONS.includes(version))
    throw new RangeError(`saved device: version ${String(version)} is neither 1 nor 2`);
  if (state["id"] !== expected.id)
    throw new RangeError(`saved device: id ${String(state["id"])} is not ${expected.id}`);
  const saved = state["queues"];
  if (!Array.isArray(saved) || saved.length !== expected.queues.length)
    throw new RangeError(`saved device: must have ${expected.queues.length} virtqueues`);
  const status = stateInteger(state["status"], 0xff, "saved device: status");
  const queues = saved.map((queue: unknown, index) => parseQueue(queue, index));
  const features = parseFeatures(state["features"], "features");
  const parsed: ParsedDeviceState = {
    id: expected.id,
    status,
    features,
    generation: stateInteger(state["generation"], LARGEST_REGISTER, "saved device: generation"),
    configChangePending: stateFlag(state["configChangePending"], "saved device: configChangePending"),
    legacy: stateFlag(state["legacy"], "saved device: legacy"),
    active: version === 1 ? wasActive(status, queues, features) : parseActive(state["active"]),
    queues,
    device: state["device"],
  };
  checkFeatures(parsed, expected.features);
  checkLife(parsed);
  if (parsed.active !== undefined) checkRings(parsed, parsed.active, expected.queues);
  return parsed;
}

/** What a state of version 1 leaves to be concluded. */
function wasActive(status: number, queues: readonly ParsedQueue[], features: bigint): bigint | undefined {
  return isLive(status) || queues.some((queue) => queue.ring !== undefined) ? features : undefined;
}

function isLive(status: number): boolean {
  return (status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_SUSPEND)) !== 0;
}

function isStopped(status: number): boolean {
  return (status & (VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_FAILED)) !== 0;
}

/** Before a device has judged them, features may be anything that a driver can write. */
function checkFeatures(
  { status, features, legacy, active }: ParsedDeviceState,
  own: StateExpectation["features"],
): void {
  const judged = (status & VIRTIO_STATUS_FEATURES_OK) !== 0;
  const strange = ((judged ? features : 0n) | (active ?? 0n)) & ~(legacy ? own.legacyOffered : own.offered);
  if (strange !== 0n)
    throw new RangeError(`saved device: features 0x${strange.toString(16)} are not offered here`);
  const refusal = judged ? own.refusal(features) : undefined;
  if (refusal !== undefined) throw new RangeError(`saved device: ${refusal}`);
}

/** Every number may be in range and the whole still be a life that no device ever led. */
function checkLife({ status, features, legacy, active, queues }: ParsedDeviceState): void {
  const has = (bit: number): boolean => (status & bit) !== 0;
  const impossible = (what: string): never => {
    throw new RangeError(`saved device: status ${status} ${what}`);
  };
  const live = isLive(status);
  const setUp = active !== undefined;
  if ((live || setUp) && !legacy && !has(VIRTIO_STATUS_FEATURES_OK))
    impossible("is live without FEATURES_OK");
  if (setUp && !legacy && active !== features) impossible("is live with other features than were accepted");
  if (legacy && has(VIRTIO_STATUS_FEATURES_OK)) impossible("is that of a legacy driver with FEATURES_OK");
  if (has(VIRTIO_STATUS_SUSPEND) && has(VIRTIO_STATUS_DRIVER_OK)) impossible("is both running and suspended");
  if (has(VIRTIO_STATUS_SUSPEND) && !hasFeature(features, VIRTIO_F_SUSPEND))
    impossible("is suspended without VIRTIO_F_SUSPEND");
  if (legacy && (features | (active ?? 0n)) >> 32n !== 0n)
    impossible("is that of a legacy driver with more than 32 feature bits");
  if (live && !setUp && !isStopped(status)) impossible("is live, and the device is not set up");
  if (!setUp && queues.some(({ ring }) => ring !== undefined))
    impossible("has virtqueues that run, and the device is not set up");
}

/** Rings of a device that needs a reset are not saved: they never move again. */
function checkRings(
  { status, queues }: ParsedDeviceState,
  active: bigint,
  own: StateExpectation["queues"],
): void {
  const packed = hasFeature(active, VIRTIO_F_RING_PACKED);
  queues.forEach(({ size, enabled, ring }, index) => {
    const runs = ring !== undefined;
    if (isStopped(status) ? runs : runs !== enabled)
      throw new RangeError(
        `saved device: status ${status} is live, and virtqueue ${index} is enabled or runs, but not both`,
      );
    if (runs && (size > (own[index]?.maxSize ?? 0) || !isQueueSize(size, packed)))
      throw new RangeError(`saved virtqueue ${index}: Queue Size ${size} cannot be`);
  });
}

/** Registers as plain data. */
export function saveRegisters(values: QueueRegisterValues): SavedQueue {
  return {
    size: values.size,
    descriptorArea: values.descriptorArea.toString(16),
    driverArea: values.driverArea.toString(16),
    deviceArea: values.deviceArea.toString(16),
    enabled: values.enabled,
  };
}

function parseQueue(value: unknown, index: number): ParsedQueue {
  const name = `saved virtqueue ${index}`;
  const queue = stateRecord(value, name);
  const ring = queue["ring"];
  return {
    size: stateInteger(queue["size"], LARGEST_REGISTER, `${name}: size`),
    descriptorArea: parseArea(queue["descriptorArea"], `${name}: descriptorArea`),
    driverArea: parseArea(queue["driverArea"], `${name}: driverArea`),
    deviceArea: parseArea(queue["deviceArea"], `${name}: deviceArea`),
    enabled: stateFlag(queue["enabled"], `${name}: enabled`),
    ...(ring === undefined ? {} : { ring: parseQueueState(ring) }),
  };
}

/** Hexadecimal; a number in states of version 1. */
function parseArea(value: unknown, where: string): bigint {
  if (typeof value === "number") {
    const area = BigInt(stateInteger(value, Number.MAX_VALUE, where));
    return area < LARGEST_AREA ? area : LARGEST_AREA;
  }
  if (typeof value === "string" && /^[0-9a-f]{1,16}$/.test(value)) return BigInt(`0x${value}`);
  throw new TypeError(`${where} must be 64 bits in hexadecimal`);
}

function parseActive(value: unknown): bigint | undefined {
  return value === null ? undefined : parseFeatures(value, "active");
}

function parseFeatures(value: unknown, name: string): bigint {
  if (typeof value !== "string" || !/^[0-9a-f]{1,32}$/.test(value))
    throw new TypeError(`saved device: ${name} must be hexadecimal`);
  return BigInt(`0x${value}`);
}
