import type { DriverSession } from "../../driver/session.ts";
import { readLe16, readLe32 } from "../../memory/bytes.ts";
import { decodeUtf8 } from "../../memory/utf8.ts";
import {
  VIRTIO_INPUT_ABSINFO as ABS,
  VIRTIO_INPUT_ABSINFO_SIZE,
  VIRTIO_INPUT_CFG_ABS_INFO,
  VIRTIO_INPUT_CFG_EV_BITS,
  VIRTIO_INPUT_CFG_ID_DEVIDS,
  VIRTIO_INPUT_CFG_ID_NAME,
  VIRTIO_INPUT_CFG_ID_SERIAL,
  VIRTIO_INPUT_CFG_PROP_BITS,
  VIRTIO_INPUT_CONFIG as CONFIG,
  VIRTIO_INPUT_CONFIG_SIZE,
  VIRTIO_INPUT_DEVIDS as IDS,
  VIRTIO_INPUT_DEVIDS_SIZE,
} from "../../spec/input.ts";
import { EV_ABS, EV_CNT } from "./evdev.ts";

/** An absolute axis. All numbers are signed and of 32 bits. */
export interface InputAxis {
  readonly min: number;
  readonly max: number;
  /** Changes up to this are noise. */
  readonly fuzz: number;
  /** Values up to this count as the middle. */
  readonly flat: number;
  /** Units a millimetre, or a radian. */
  readonly resolution: number;
}

/** What an input device says about itself ("Device configuration layout"). */
export interface InputInfo {
  readonly name: string;
  readonly serial: string;
  /** Absent when the device has none. */
  readonly ids?: {
    readonly bustype: number;
    readonly vendor: number;
    readonly product: number;
    readonly version: number;
  };
  /** INPUT_PROP_… numbers. */
  readonly properties: ReadonlySet<number>;
  /** Codes that it can send (of EV_LED and the like: be sent), by EV_… type. A type that is not here it does not have. */
  readonly events: ReadonlyMap<number, ReadonlySet<number>>;
  /** By ABS_… code. */
  readonly axes: ReadonlyMap<number, InputAxis>;
}

/** Bytes of one piece of information at most. */
const LARGEST = VIRTIO_INPUT_CONFIG_SIZE - CONFIG["u.string"];
/** ABS_… codes are below this. */
const ABS_CNT = 0x40;

/** Asks for everything; only after FEATURES_OK. */
export function readInputInfo(session: DriverSession): InputInfo {
  const ids = query(session, VIRTIO_INPUT_CFG_ID_DEVIDS);
  const events = new Map<number, ReadonlySet<number>>();
  for (let type = 0; type < EV_CNT; type++) {
    const bitmap = query(session, VIRTIO_INPUT_CFG_EV_BITS, type);
    if (bitmap.length > 0) events.set(type, bits(bitmap));
  }
  const axes = new Map<number, InputAxis>();
  for (const code of events.get(EV_ABS) ?? []) {
    const axis = code < ABS_CNT ? query(session, VIRTIO_INPUT_CFG_ABS_INFO, code) : new Uint8Array(0);
    if (axis.length >= VIRTIO_INPUT_ABSINFO_SIZE) axes.set(code, parseAxis(axis));
  }
  return {
    name: text(query(session, VIRTIO_INPUT_CFG_ID_NAME)),
    serial: text(query(session, VIRTIO_INPUT_CFG_ID_SERIAL)),
    ...(ids.length >= VIRTIO_INPUT_DEVIDS_SIZE && {
      ids: {
        bustype: readLe16(ids, IDS.bustype),
        vendor: readLe16(ids, IDS.vendor),
        product: readLe16(ids, IDS.product),
        version: readLe16(ids, IDS.version),
      },
    }),
    properties: bits(query(session, VIRTIO_INPUT_CFG_PROP_BITS)),
    events,
    axes,
  };
}

/** One piece of information; no bytes when the device does not have it. */
export function query(
  session: Pick<DriverSession, "readConfig" | "writeConfig">,
  select: number,
  subsel: number = 0,
): Uint8Array {
  // "A driver MUST set both select and subsel when querying": two fields, so two writes of one byte.
  session.writeConfig(CONFIG.select, Uint8Array.of(select));
  session.writeConfig(CONFIG.subsel, Uint8Array.of(subsel));
  const size = session.readConfig(CONFIG.size, 1)[0] ?? 0;
  return size === 0 ? new Uint8Array(0) : session.readConfig(CONFIG["u.string"], Math.min(size, LARGEST));
}

function bits(bitmap: Uint8Array): Set<number> {
  const set = new Set<number>();
  for (let bit = 0; bit < 8 * bitmap.length; bit++)
    if ((((bitmap[bit >>> 3] ?? 0) >>> (bit & 7)) & 1) === 1) set.add(bit);
  return set;
}

/** "Strings do not include a NUL terminator", but QEMU's serial numbers and others' names may have one. */
function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return decodeUtf8(bytes, 0, end < 0 ? bytes.length : end);
}

function parseAxis(bytes: Uint8Array): InputAxis {
  const signed = (at: number): number => readLe32(bytes, at) | 0;
  return {
    min: signed(ABS.min),
    max: signed(ABS.max),
    fuzz: signed(ABS.fuzz),
    flat: signed(ABS.flat),
    resolution: signed(ABS.res),
  };
}
