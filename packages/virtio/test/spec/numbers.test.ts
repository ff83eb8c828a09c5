import { readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  loadConstants,
  loadFeatures,
  loadRegisters,
  loadStructs,
  type StructRecord,
} from "@virtio/testkit/oracles";

/**
 * Every number that `src/spec` exports, against the oracles that a program took from the spec's own text. By name:
 *
 * - a number: a constant of a listing, a feature bit, `X_SIZE` the size of a struct, or an entry of BY_HAND;
 * - an object of numbers, `VIRTIO_BLK_CONFIG`: offsets of `struct virtio_blk_config`, by the names of its fields;
 *   or an entry of TABLES.
 */

const constants = loadConstants();
const features = new Map(loadFeatures().map((feature) => [feature.name, feature.bit]));
const structs = loadStructs();
const registers = loadRegisters();

/** Numbers that stand in running text or tables of the spec, typed a second time from there. */
const BY_HAND: Readonly<Record<string, number>> = {
  // "Device Status Field"
  VIRTIO_STATUS_ACKNOWLEDGE: 1,
  VIRTIO_STATUS_DRIVER: 2,
  VIRTIO_STATUS_DRIVER_OK: 4,
  VIRTIO_STATUS_FEATURES_OK: 8,
  VIRTIO_STATUS_SUSPEND: 16,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET: 64,
  VIRTIO_STATUS_FAILED: 128,
  // "Split Virtqueues", "Packed Virtqueues": the Queue Size is at most 32768
  VIRTQ_MAX_SIZE: 32768,
  // "Virtio Over MMIO"
  VIRTIO_MMIO_MAGIC_VALUE: 0x74726976,
  VIRTIO_MMIO_VERSION: 2,
  VIRTIO_MMIO_VERSION_LEGACY: 1,
  VIRTIO_MMIO_DEVICE_ID_NONE: 0,
  VIRTIO_MMIO_INTERRUPT_USED: 1 << 0,
  VIRTIO_MMIO_INTERRUPT_CONFIG: 1 << 1,
  // "Virtio Over PCI Bus"
  VIRTIO_PCI_VENDOR_ID: 0x1af4,
  VIRTIO_PCI_DEVICE_ID_BASE: 0x1040,
  VIRTIO_PCI_DEVICE_ID_LAST: 0x107f,
  VIRTIO_PCI_ISR_QUEUE: 1 << 0,
  VIRTIO_PCI_ISR_CONFIG: 1 << 1,
  VIRTIO_PCI_LEGACY_CONFIG: 20,
  VIRTIO_PCI_LEGACY_CONFIG_MSIX: 24,
  VIRTIO_PCI_LEGACY_PAGE_SIZE: 4096,
  // "Block Device": "expressed in 512-byte sectors", "up to 20 bytes long"
  VIRTIO_BLK_SECTOR_SIZE: 512,
  VIRTIO_BLK_ID_BYTES: 20,
  // "Console Device": the lists of virtqueues and of control events
  VIRTIO_CONSOLE_RECEIVEQ_PORT0: 0,
  VIRTIO_CONSOLE_TRANSMITQ_PORT0: 1,
  VIRTIO_CONSOLE_CONTROL_RECEIVEQ: 2,
  VIRTIO_CONSOLE_CONTROL_TRANSMITQ: 3,
  VIRTIO_CONSOLE_DEVICE_READY: 0,
  VIRTIO_CONSOLE_DEVICE_ADD: 1,
  VIRTIO_CONSOLE_DEVICE_REMOVE: 2,
  VIRTIO_CONSOLE_PORT_READY: 3,
  VIRTIO_CONSOLE_CONSOLE_PORT: 4,
  VIRTIO_CONSOLE_RESIZE: 5,
  VIRTIO_CONSOLE_PORT_OPEN: 6,
  VIRTIO_CONSOLE_PORT_NAME: 7,
  // "SCSI Host Device": the list of virtqueues, "MUST be 96", "MUST be 32"
  VIRTIO_SCSI_CONTROLQ: 0,
  VIRTIO_SCSI_EVENTQ: 1,
  VIRTIO_SCSI_REQUESTQ: 2,
  VIRTIO_SCSI_SENSE_DEFAULT: 96,
  VIRTIO_SCSI_CDB_DEFAULT: 32,
  // "Input Device": the list of virtqueues
  VIRTIO_INPUT_EVENTQ: 0,
  VIRTIO_INPUT_STATUSQ: 1,
  // "Traditional Memory Balloon Device": the list of virtqueues, "divided by 4096", the reserved command ids
  VIRTIO_BALLOON_INFLATEQ: 0,
  VIRTIO_BALLOON_DEFLATEQ: 1,
  VIRTIO_BALLOON_STATSQ: 2,
  VIRTIO_BALLOON_FREE_PAGE_VQ: 3,
  VIRTIO_BALLOON_REPORTING_VQ: 4,
  VIRTIO_BALLOON_PAGE_BYTES: 4096,
  VIRTIO_BALLOON_CMD_ID_STOP: 0,
  VIRTIO_BALLOON_CMD_ID_DONE: 1,
  // "GPU Device": the list of virtqueues, "it must be 64x64 in size"
  VIRTIO_GPU_CONTROLQ: 0,
  VIRTIO_GPU_CURSORQ: 1,
  VIRTIO_GPU_CURSOR_PIXELS: 64,
  // "Socket Device": the list of virtqueues, the table of reserved CIDs
  VIRTIO_VSOCK_RX: 0,
  VIRTIO_VSOCK_TX: 1,
  VIRTIO_VSOCK_EVENT_QUEUE: 2,
  VIRTIO_VSOCK_CID_HOST: 2,
  VIRTIO_VSOCK_CID_FIRST: 3,
  VIRTIO_VSOCK_CID_RESERVED: 0xffffffff,
};

const offsets = (table: Readonly<Record<string, { offset: number }>>): Record<string, number> =>
  Object.fromEntries(Object.entries(table).map(([name, { offset }]) => [name, offset]));

/** Tables that are no struct of the listings. */
const TABLES: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  VIRTIO_MMIO: offsets(registers.mmio),
  VIRTIO_MMIO_LEGACY: offsets(registers.mmioLegacy),
  // Widths in the order of the table: 32 32 32 16 16 16 8 8, and with MSI-X 16 16
  VIRTIO_PCI_LEGACY: {
    device_features: 0,
    driver_features: 4,
    queue_address: 8,
    queue_size: 12,
    queue_select: 14,
    queue_notify: 16,
    device_status: 18,
    isr_status: 19,
    config_msix_vector: 20,
    queue_msix_vector: 22,
  },
  // Widths in the order of the listing: 32 32 16 8 8
  VIRTIO_SCSI_REQ_CMD_REPLY: {
    sense_len: 0,
    residual: 4,
    status_qualifier: 8,
    status: 10,
    response: 11,
    sense: 12,
  },
};

/** What VIRTIO_ID_x is called in the spec's table of device ids, where that is not just `x device`. */
const DEVICE_TITLES: Readonly<Record<string, string>> = {
  NET: "network device",
  BLK: "block device",
  ENTROPY: "entropy source",
  BALLOON: "memory ballooning (traditional)",
  SCSI: "SCSI host",
  "9P": "9P transport",
  MAC80211_WLAN: "mac80211 wlan",
  CAIF: "virtio CAIF",
  RTC: "RTC (Real Time Clock) device",
  VSOCK: "Socket device",
  SIGNAL_DIST: "Signal Distribution Module",
  MEM: "Memory device",
  FS: "file system device",
  MAC80211_HWSIM: "mac80211 hwsim wireless simulation device",
  NITRO_SECURE_MODULE: "NitroSecureModule",
  I2C: "I2C adapter",
  SPI: "SPI controller",
  USB: "USB controller",
};

const directory = new URL("../../src/spec/", import.meta.url);
/** The names of feature bits have a test of their own. */
const files = readdirSync(directory).filter((name) => name.endsWith(".ts") && name !== "feature-names.ts");
const modules = await Promise.all(
  files.map(async (name) => ({
    name,
    exports: (await import(new URL(name, directory).href)) as Record<string, unknown>,
  })),
);

describe.each(modules)("src/spec/$name", ({ exports }) => {
  const numbers = Object.entries(exports).filter(([, value]) => typeof value === "number");
  const tables = Object.entries(exports).filter(
    ([, value]) =>
      typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype,
  );

  test("every number is the spec's", () => {
    for (const [name, value] of numbers) expect.soft(value, name).toBe(expectedNumber(name));
  });

  test("every table of offsets is the spec's", () => {
    for (const [name, table] of tables) {
      const expected = TABLES[name];
      if (expected !== undefined) expect.soft(table, name).toEqual(expected);
      else expect.soft(table, name).toEqual(offsetsOf(name, Object.keys(table as object)));
    }
  });
});

function expectedNumber(name: string): number | undefined {
  const struct = name.endsWith("_SIZE") ? structs[name.slice(0, -"_SIZE".length).toLowerCase()] : undefined;
  if (struct !== undefined && !(name in constants)) return struct.size;
  if (name === "VIRTQ_DESC_SIZE") return structs["virtq_desc"]?.size;
  if (name.startsWith("VIRTIO_ID_")) return expectedId(name.slice("VIRTIO_ID_".length));
  return constants[name] ?? features.get(name) ?? BY_HAND[name];
}

function expectedId(name: string): number | undefined {
  const titles = [DEVICE_TITLES[name] ?? name, `${name} device`].map((title) =>
    title.replaceAll("_", " ").toLowerCase(),
  );
  const entry = Object.entries(registers.deviceIds).find(([, title]) => titles.includes(title.toLowerCase()));
  return entry === undefined ? undefined : Number(entry[0]);
}

/** Offsets of the named fields in the struct that a table is named after. */
function offsetsOf(table: string, names: readonly string[]): Record<string, number | null | undefined> {
  const struct: StructRecord | undefined = structs[table.toLowerCase()];
  const field = (name: string) =>
    struct?.fields.find((entry) => entry.name === name || entry.name === `cap.${name}`);
  return Object.fromEntries(names.map((name) => [name, field(name)?.off]));
}

describe("device ids", () => {
  test("every id of the spec's table has a name", async () => {
    const ids = await import("../../src/spec/ids.ts");
    const named = Object.values(ids).sort((a, b) => a - b);
    expect(named).toEqual(
      Object.keys(registers.deviceIds)
        .map(Number)
        .filter((id) => id !== 0),
    );
  });

  test("transitional PCI device ids are the spec's", async () => {
    const { VIRTIO_PCI_TRANSITIONAL_DEVICE_IDS: ids } = await import("../../src/spec/pci.ts");
    const titled = [...ids].map(([id, pci]) => [String(pci), registers.deviceIds[String(id)]]);
    expect(Object.fromEntries(titled)).toEqual(registers.transitionalPciDeviceIds);
  });
});
