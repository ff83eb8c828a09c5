import { patientScheduler } from "@virtio/testkit/patient-scheduler";
/** Why requests fail, and buffers of the wrong direction, as whoever watches hears of them. */
import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import { NetHub } from "virtio/backends/net-hub";
import { NullCharacterBackend } from "virtio/backends/null-character";
import { ReadOnlyBlockBackend } from "virtio/backends/read-only-block";
import type { VirtioDevice } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import { ninePDevice } from "virtio/devices/9p/device";
import { BlkDevice } from "virtio/devices/blk/device";
import { ConsoleDevice } from "virtio/devices/console/device";
import { entropyDevice } from "virtio/devices/entropy/device";
import { NetDevice } from "virtio/devices/net/device";
import { RegionMemory } from "virtio/memory/region-memory";
import { featureBits, VIRTIO_F_VERSION_1 } from "virtio/spec/core";
import { VIRTIO_MMIO as MMIO } from "virtio/spec/mmio";
import { virtioMmio } from "virtio/transport/mmio/registers";

const NEXT = 1;
const WRITE = 2;

/** What is said when a driver offers one chain: bytes for the device to read, and room for it to write. */
function said(device: VirtioDevice, queue: number, readable: Uint8Array, writable: number): string[] {
  const bytes = new Uint8Array(1 << 20);
  const view = new DataView(bytes.buffer);
  const heard: string[] = [];
  const instance = new DeviceInstance(device, {
    label: "d",
    scheduler: patientScheduler,
    memory: new RegionMemory([{ gpa: 0, bytes }]),
    features: featureBits(VIRTIO_F_VERSION_1),
    observer: {
      hint: (_, hint) => void heard.push(`${hint.clause}: ${hint.rule}`),
      failed: (_, index, reason) => void heard.push(`${index}: ${reason}`),
    },
  });
  const mmio = virtioMmio(instance, { interrupt: { set: () => undefined } });
  const set = (offset: number, value: number): void => mmio.write(offset, 4, value);
  set(MMIO.Status, 3);
  for (const window of [0, 1]) {
    set(MMIO.DriverFeaturesSel, window);
    set(MMIO.DriverFeatures, Number(BigInt.asUintN(32, instance.offered >> BigInt(32 * window))));
  }
  set(MMIO.Status, 0xb);
  set(MMIO.QueueSel, queue);
  set(MMIO.QueueSize, 8);
  set(MMIO.QueueDescLow, 0x1000);
  set(MMIO.QueueDriverLow, 0x2000);
  set(MMIO.QueueDeviceLow, 0x3000);
  set(MMIO.QueueReady, 1);
  set(MMIO.Status, 0xf);
  const parts = [
    { at: 0x1_0000, length: readable.length, flags: 0 },
    { at: 0x2_0000, length: writable, flags: WRITE },
  ].filter(({ length }) => length > 0);
  bytes.set(readable, 0x1_0000);
  parts.forEach(({ at, length, flags }, i) => {
    view.setUint32(0x1000 + 16 * i, at, true);
    view.setUint32(0x1008 + 16 * i, length, true);
    view.setUint16(0x100c + 16 * i, flags | (i + 1 < parts.length ? NEXT : 0), true);
    view.setUint16(0x100e + 16 * i, i + 1, true);
  });
  view.setUint16(0x2002, 1, true);
  set(MMIO.QueueNotify, queue);
  return heard;
}

function request(type: number, sector: number, data = 0): Uint8Array {
  const bytes = new Uint8Array(16 + data);
  new DataView(bytes.buffer).setUint32(0, type, true);
  new DataView(bytes.buffer).setBigUint64(8, BigInt(sector), true);
  return bytes;
}

const disk = (readOnly = false): BlkDevice =>
  new BlkDevice(
    readOnly ? new ReadOnlyBlockBackend(new MemoryBlockBackend(1 << 20)) : new MemoryBlockBackend(1 << 20),
  );

describe("a block device", () => {
  test.each([
    {
      title: "read beyond the end",
      bytes: request(0, 8192),
      room: 513,
      says: ["0: IOERR: sector 8192 is beyond the end, at sector 2048"],
    },
    {
      title: "a read that crosses the end",
      bytes: request(0, 2047),
      room: 1025,
      says: ["0: IOERR: sector 2048 is beyond the end, at sector 2048"],
    },
    {
      title: "no whole sector",
      bytes: request(0, 0),
      room: 101,
      says: ["0: IOERR: 100 bytes of data are no whole sectors"],
    },
    { title: "an unknown type", bytes: request(99, 0), room: 1, says: ["0: UNSUPP: request type 99"] },
    {
      title: "no header",
      bytes: new Uint8Array(8),
      room: 1,
      says: ["0: IOERR: 8 device-readable bytes are no header of 16"],
    },
    {
      title: "a serial in too little room",
      bytes: request(8, 0),
      room: 11,
      says: ["0: IOERR: GET_ID into 10 bytes, not 20"],
    },
    {
      title: "data the wrong way",
      bytes: request(0, 0, 512),
      room: 513,
      says: ["own.direction: device-readable data in a request that reads"],
    },
    {
      title: "a write with room for data",
      bytes: request(1, 0, 512),
      room: 513,
      says: ["own.direction: device-writable data in a request that writes"],
    },
    { title: "a good read", bytes: request(0, 0), room: 513, says: [] },
  ])("$title", ({ bytes, room, says }) => expect(said(disk(), 0, bytes, room)).toEqual(says));

  test(clause(["dev.blk.operation"], "a write to a read-only disk"), () =>
    expect(said(disk(true), 0, request(1, 0, 512), 1)).toEqual(["0: IOERR: the disk is read-only"]),
  );
});

const share = (): VirtioDevice => ninePDevice({ tag: "t", fileSystem: new MemoryFileSystem() });

describe("a 9p share", () => {
  test("a message before Tversion", () => {
    // size, Tclunk, tag, fid
    const bytes = Uint8Array.from([11, 0, 0, 0, 120, 1, 0, 7, 0, 0, 0]);
    expect(said(share(), 0, bytes, 64)).toEqual(["0: Tclunk: EPROTO"]);
  });

  test("no message at all", () =>
    expect(said(share(), 0, new Uint8Array(3), 64)).toEqual([
      "0: no message: EINVAL, shorter than a header",
    ]));
});

describe("a network device", () => {
  const net = (): VirtioDevice =>
    new NetDevice({
      backend: new NetHub().port(),
      mac: Uint8Array.of(2, 0, 0, 0, 0, 1),
    });

  test("a control command that is none", () =>
    expect(said(net(), 2, Uint8Array.of(9, 0), 1)).toEqual([
      "2: ERR: class 9, command 0: there is none such",
    ]));

  test("a control command without its data", () =>
    expect(said(net(), 2, Uint8Array.of(0, 0), 1)).toEqual([
      "2: ERR: class 0, command 0: too few bytes of data, or a value out of range",
    ]));

  test("a frame with room to write, and too short", () =>
    expect(said(net(), 1, new Uint8Array(20), 8)).toEqual([
      "own.direction: a device-writable buffer in a transmitq",
      "1: dropped: 8 bytes are no Ethernet header",
    ]));
});

test("a console hears of a port that does not exist", () => {
  const device = new ConsoleDevice({
    ports: [{ backend: new NullCharacterBackend(), kind: "console" }],
    maxPorts: 2,
  });
  // id 9, PORT_OPEN, 1
  const bytes = Uint8Array.from([9, 0, 0, 0, 6, 0, 1, 0]);
  expect(said(device, 3, bytes, 0)).toEqual(["3: event 6 ignored: a port that was not announced"]);
});

test("an entropy device hears of a request without room", () => {
  // A descriptor of length 0, for the device to write.
  expect(
    said(
      entropyDevice(() => undefined),
      0,
      new Uint8Array(0),
      0,
    ),
  ).toEqual(["own.direction: a request without a device-writable buffer"]);
});
