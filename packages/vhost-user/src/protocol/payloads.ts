import { reject } from "./errors.ts";
import { CONFIG_HEADER_SIZE, MAX_TABLE_REGIONS } from "./numbers.ts";

/**
 * The payloads of messages: each has `encodeX` and `decodeX`. Numbers are little-endian (the byte order of every machine
 * that this package runs on); 64-bit numbers are decoded to Numbers and must be below 2**53, features to bigint. A
 * decoder throws a PeerError for what cannot be, and copies what it keeps.
 */

export interface VringState {
  readonly index: number;
  readonly value: number;
}

/** Ring addresses: user addresses of the front-end, or I/O virtual ones with VIRTIO_F_ACCESS_PLATFORM. */
export interface VringAddress {
  readonly index: number;
  /** VRING_F_LOG. */
  readonly flags: number;
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
  /** Guest address under which writes to the used ring are logged. */
  readonly log: number;
}

export interface RegionDescription {
  readonly guestAddress: number;
  readonly size: number;
  readonly userAddress: number;
  /** Where the region starts in its descriptor's file. */
  readonly mmapOffset: number;
}

export interface LogDescription {
  readonly size: number;
  readonly offset: number;
}

export interface IotlbMessage {
  readonly iova: number;
  readonly size: number;
  readonly userAddress: number;
  /** IOTLB_READ, IOTLB_WRITE. */
  readonly permissions: number;
  readonly type: number;
}

export interface ConfigAccess {
  readonly offset: number;
  readonly flags: number;
  /** In a GET_CONFIG request its contents mean nothing, its length does. */
  readonly bytes: Uint8Array;
}

export interface InflightDescription {
  readonly size: number;
  readonly offset: number;
  readonly queues: number;
  readonly queueSize: number;
}

export interface DeviceStateTransfer {
  /** STATE_SAVE or STATE_LOAD. */
  readonly direction: number;
  readonly phase: number;
}

/** "VhostUserShared": nothing but the name of an object. */
export const UUID_SIZE = 16;

const dataView = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function sized(payload: Uint8Array, size: number, name: string): DataView {
  if (payload.length !== size) reject(`${name} of ${payload.length} bytes instead of ${size}`);
  return dataView(payload);
}

function number64(view: DataView, at: number, name: string): number {
  const value = view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000;
  if (value > Number.MAX_SAFE_INTEGER) reject(`${name} of 2^53 or more`);
  return value;
}

function put64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 0x1_0000_0000, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

function encode(size: number, fill: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size);
  fill(dataView(bytes));
  return bytes;
}

export const encodeU64 = (value: bigint | number): Uint8Array =>
  encode(8, (view) => view.setBigUint64(0, BigInt(value), true));

export const decodeU64 = (payload: Uint8Array): bigint => sized(payload, 8, "u64").getBigUint64(0, true);

export const encodeVringState = ({ index, value }: VringState): Uint8Array =>
  encode(8, (view) => {
    view.setUint32(0, index, true);
    view.setUint32(4, value, true);
  });

export function decodeVringState(payload: Uint8Array): VringState {
  const view = sized(payload, 8, "vring state");
  return { index: view.getUint32(0, true), value: view.getUint32(4, true) };
}

export const encodeVringAddress = (address: VringAddress): Uint8Array =>
  encode(40, (view) => {
    view.setUint32(0, address.index, true);
    view.setUint32(4, address.flags, true);
    put64(view, 8, address.descriptor);
    put64(view, 16, address.used);
    put64(view, 24, address.available);
    put64(view, 32, address.log);
  });

export function decodeVringAddress(payload: Uint8Array): VringAddress {
  const view = sized(payload, 40, "vring address");
  return {
    index: view.getUint32(0, true),
    flags: view.getUint32(4, true),
    descriptor: number64(view, 8, "descriptor address"),
    used: number64(view, 16, "used address"),
    available: number64(view, 24, "available address"),
    log: number64(view, 32, "log address"),
  };
}

const REGION_SIZE = 32;

function putRegion(view: DataView, at: number, region: RegionDescription): void {
  put64(view, at, region.guestAddress);
  put64(view, at + 8, region.size);
  put64(view, at + 16, region.userAddress);
  put64(view, at + 24, region.mmapOffset);
}

/** A region must be one: not empty, and no sum of its numbers is beyond 2**53. */
function readRegion(view: DataView, at: number): RegionDescription {
  const region = {
    guestAddress: number64(view, at, "guest address"),
    size: number64(view, at + 8, "region size"),
    userAddress: number64(view, at + 16, "user address"),
    mmapOffset: number64(view, at + 24, "mmap offset"),
  };
  if (region.size === 0) reject("memory region of no bytes");
  for (const start of [region.guestAddress, region.userAddress, region.mmapOffset])
    if (start + region.size > Number.MAX_SAFE_INTEGER) reject("memory region beyond 2^53");
  return region;
}

export const encodeMemoryTable = (regions: readonly RegionDescription[]): Uint8Array =>
  encode(8 + REGION_SIZE * regions.length, (view) => {
    view.setUint32(0, regions.length, true);
    regions.forEach((region, i) => putRegion(view, 8 + REGION_SIZE * i, region));
  });

export function decodeMemoryTable(payload: Uint8Array): RegionDescription[] {
  if (payload.length < 8) reject(`memory table of ${payload.length} bytes`);
  const view = dataView(payload);
  const count = view.getUint32(0, true);
  if (count > MAX_TABLE_REGIONS)
    reject(`memory table of ${count} regions, ${MAX_TABLE_REGIONS} are the most`);
  // libvhost-user's own front-ends send the table with all of its 8 places.
  if (payload.length < 8 + REGION_SIZE * count) reject(`memory table of ${count} regions is too short`);
  return Array.from({ length: count }, (_, i) => readRegion(view, 8 + REGION_SIZE * i));
}

/** ADD_MEM_REG and REM_MEM_REG. */
export const encodeRegion = (region: RegionDescription): Uint8Array =>
  encode(8 + REGION_SIZE, (view) => putRegion(view, 8, region));

export const decodeRegion = (payload: Uint8Array): RegionDescription =>
  readRegion(sized(payload, 8 + REGION_SIZE, "memory region"), 8);

export const encodeLog = ({ size, offset }: LogDescription): Uint8Array =>
  encode(16, (view) => {
    put64(view, 0, size);
    put64(view, 8, offset);
  });

export function decodeLog(payload: Uint8Array): LogDescription {
  const view = sized(payload, 16, "log description");
  return { size: number64(view, 0, "log size"), offset: number64(view, 8, "log offset") };
}

/** The structure of the kernel, whose size is padded to 32. */
export const encodeIotlb = (message: IotlbMessage): Uint8Array =>
  encode(32, (view) => {
    put64(view, 0, message.iova);
    put64(view, 8, message.size);
    put64(view, 16, message.userAddress);
    view.setUint8(24, message.permissions);
    view.setUint8(25, message.type);
  });

export function decodeIotlb(payload: Uint8Array): IotlbMessage {
  // "Everything" is 2**64 - 1 bytes from 0 on; what is beyond 2**53 cannot be in any region.
  const view = sized(payload, 32, "IOTLB message");
  const clamped = (at: number): number =>
    Math.min(
      Number.MAX_SAFE_INTEGER,
      view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000,
    );
  return {
    iova: clamped(0),
    size: clamped(8),
    userAddress: clamped(16),
    permissions: view.getUint8(24),
    type: view.getUint8(25),
  };
}

export const encodeConfig = ({ offset, flags, bytes }: ConfigAccess): Uint8Array =>
  encode(CONFIG_HEADER_SIZE + bytes.length, (view) => {
    view.setUint32(0, offset, true);
    view.setUint32(4, bytes.length, true);
    view.setUint32(8, flags, true);
    new Uint8Array(view.buffer, CONFIG_HEADER_SIZE).set(bytes);
  });

export function decodeConfig(payload: Uint8Array): ConfigAccess {
  if (payload.length < CONFIG_HEADER_SIZE) reject(`configuration access of ${payload.length} bytes`);
  const view = dataView(payload);
  const size = view.getUint32(4, true);
  if (payload.length - CONFIG_HEADER_SIZE !== size)
    reject(`configuration access says ${size} bytes and has ${payload.length - CONFIG_HEADER_SIZE}`);
  return {
    offset: view.getUint32(0, true),
    flags: view.getUint32(8, true),
    bytes: payload.slice(CONFIG_HEADER_SIZE),
  };
}

export const encodeInflight = ({ size, offset, queues, queueSize }: InflightDescription): Uint8Array =>
  encode(24, (view) => {
    put64(view, 0, size);
    put64(view, 8, offset);
    view.setUint16(16, queues, true);
    view.setUint16(18, queueSize, true);
  });

/** QEMU's structure is packed (20 bytes); a compiler that pads it makes 24. */
export function decodeInflight(payload: Uint8Array): InflightDescription {
  if (payload.length !== 20 && payload.length !== 24)
    reject(`inflight description of ${payload.length} bytes`);
  const view = dataView(payload);
  return {
    size: number64(view, 0, "inflight size"),
    offset: number64(view, 8, "inflight offset"),
    queues: view.getUint16(16, true),
    queueSize: view.getUint16(18, true),
  };
}

export const encodeDeviceState = ({ direction, phase }: DeviceStateTransfer): Uint8Array =>
  encode(8, (view) => {
    view.setUint32(0, direction, true);
    view.setUint32(4, phase, true);
  });

export function decodeDeviceState(payload: Uint8Array): DeviceStateTransfer {
  const view = sized(payload, 8, "device state transfer");
  return { direction: view.getUint32(0, true), phase: view.getUint32(4, true) };
}
