import { clause } from "@virtio/testkit/clause";
import { loadRegisters, loadStructs } from "@virtio/testkit/oracles";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { IoHandler } from "virtio/bus/types";
import { DEFAULT_CORE_FEATURES, SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import { VIRTIO_F_NOTIFICATION_DATA, featureBits } from "virtio/spec/core";
import { MMIO_FEATURES, PCI_FEATURES } from "virtio/transport/features";
import type { VirtioPciOptions } from "virtio/transport/pci/options";
import { echoDevice, PciRig } from "./support.ts";

const nothing: IoHandler = { read: () => 0, write: () => {} };
const structs = loadStructs();
const registers = loadRegisters();

describe("discovery", () => {
  const byType = Object.entries(registers.transitionalPciDeviceIds);

  test(clause(["dev.pci.discovery", "dev.pci.bus"], "a modern function: 0x1040 and the device id"), () => {
    for (const id of Object.keys(registers.deviceIds)
      .map(Number)
      .filter((value) => value > 0)) {
      const { fn } = new PciRig(echoDevice({ id }));
      expect(fn.readConfig(0, 2)).toBe(0x1af4);
      expect(fn.readConfig(2, 2)).toBe(0x1040 + id);
      expect(fn.readConfig(8, 1)).toBeGreaterThanOrEqual(1);
      expect(fn.readConfig(0x2e, 2)).toBeGreaterThanOrEqual(0x40);
      expect(fn.readConfig(0x0e, 1)).toBe(0);
      expect(fn.readConfig(0x3d, 1)).toBe(1);
    }
  });

  test.each(byType)("a transitional or legacy function has id %s for %s", (pciId, title) => {
    const id = Number(Object.entries(registers.deviceIds).find(([, name]) => name === title)?.[0]);
    for (const mode of ["transitional", "legacy"] as const) {
      const { fn } = new PciRig(echoDevice({ id }), { mode, revision: 9, subsystemId: 0x99 });
      expect(fn.readConfig(2, 2)).toBe(Number(pciId));
      expect(fn.readConfig(8, 1)).toBe(0);
      expect(fn.readConfig(0x2e, 2)).toBe(id);
      expect(fn.bars.find(({ index }) => index === 0)?.kind).toBe("io");
    }
  });

  test("a type without transitional id has no legacy interface", () => {
    expect(() => new PciRig(echoDevice({ id: 26 }), { mode: "transitional" })).toThrow(RangeError);
  });

  test("class, revision and subsystem can be chosen", () => {
    const options: VirtioPciOptions = {
      classCode: 0x010000,
      revision: 3,
      subsystemVendorId: 0x1234,
      subsystemId: 0x5678,
    };
    const { fn } = new PciRig(echoDevice(), options);
    expect(fn.readConfig(8, 4)).toBe(0x01000003);
    expect(fn.readConfig(0x2c, 4)).toBe(0x56781234);
  });

  test(clause("dev.core.features", "nothing is offered that the transport may not offer"), () => {
    expect(MMIO_FEATURES & featureBits(37, 39, 41)).toBe(0n);
    expect(PCI_FEATURES & featureBits(37, 41, 44, 45, 46, 47, 48, 49)).toBe(0n);
    expect(SUPPORTED_CORE_FEATURES & ~PCI_FEATURES).toBe(0n);
    const device = { ...echoDevice(), features: featureBits(41) };
    expect(() => new PciRig(device)).toThrow(/VIRTIO_F_ADMIN_VQ/);
  });
});

const shapes: readonly { name: string; options: VirtioPciOptions; configLength: number; queues: number }[] = [
  { name: "64-bit BAR", options: {}, configLength: 24, queues: 2 },
  { name: "32-bit BAR", options: { modernBar: "memory32" }, configLength: 60, queues: 1 },
  { name: "I/O BAR", options: { modernBar: "io" }, configLength: 300, queues: 5 },
  { name: "coarse BARs", options: { minimumBarSize: 0x20000 }, configLength: 5000, queues: 64 },
  { name: "transitional", options: { mode: "transitional" }, configLength: 1, queues: 1 },
  { name: "no configuration", options: {}, configLength: 0, queues: 1000 },
  { name: "no virtqueues", options: {}, configLength: 4, queues: 0 },
];

describe("virtio structure capabilities", () => {
  const make = (shape: (typeof shapes)[number]): PciRig =>
    new PciRig(echoDevice({ configLength: shape.configLength, queues: shape.queues }), shape.options, {
      features: DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_NOTIFICATION_DATA),
    });

  const present = [
    "dev.pci.caps",
    "dev.pci.common-cfg",
    "dev.pci.notify-cap",
    "dev.pci.isr",
    "dev.pci.device-cfg",
    "dev.pci.cfg-access",
  ];
  test.each(shapes.map((shape) => [clause(present, `are all there: ${shape.name}`), shape] as const))(
    "%s",
    (_, shape) => {
      const rig = make(shape);
      const caps = rig.caps();
      const wanted = [1, 2, 3, 5, ...(shape.configLength > 0 ? [4] : [])];
      expect(new Set(caps.map(({ type }) => type))).toEqual(new Set(wanted));
      expect(caps).toHaveLength(wanted.length);
      const least = new Map([
        [1, structs["virtio_pci_cap"]?.size],
        [2, structs["virtio_pci_notify_cap"]?.size],
        [3, structs["virtio_pci_cap"]?.size],
        [4, structs["virtio_pci_cap"]?.size],
        [5, structs["virtio_pci_cfg_cap"]?.size],
      ]);
      for (const cap of caps) {
        expect(cap.length).toBe(least.get(cap.type));
        expect(cap.at % 4).toBe(0);
        if (cap.type === 5) continue;
        const bar = rig.fn.bars.find(({ index }) => index === cap.bar);
        expect(cap.offset + cap.size).toBeLessThanOrEqual(bar?.size ?? 0);
        if (cap.type === 1 || cap.type === 4) expect(cap.offset % 4).toBe(0);
        if (shape.options.minimumBarSize !== undefined) expect(bar?.size).toBeGreaterThanOrEqual(0x20000);
      }
      // No structure lies on another.
      const places = caps.filter(({ type }) => type !== 5).toSorted((a, b) => a.offset - b.offset);
      places.forEach((cap, i) =>
        expect(cap.offset).toBeGreaterThanOrEqual((places[i - 1]?.offset ?? 0) + (places[i - 1]?.size ?? 0)),
      );
      expect(rig.cap(1).size).toBeGreaterThanOrEqual(structs["virtio_pci_common_cfg"]?.size ?? Infinity);
      if (shape.configLength > 0) expect(rig.cap(4).size).toBeGreaterThanOrEqual(shape.configLength);
    },
  );

  test.each(
    shapes.map((shape) => [clause("dev.pci.notify-cap", `notify addresses: ${shape.name}`), shape] as const),
  )("%s", (_, shape) => {
    const rig = make(shape);
    const cap = rig.cap(2);
    const multiplier = rig.fn.readConfig(cap.at + 16, 4);
    expect(multiplier === 0 || (multiplier % 4 === 0 && Number.isInteger(Math.log2(multiplier)))).toBe(true);
    expect(cap.offset % 4).toBe(0);
    expect(cap.size).toBeGreaterThanOrEqual(4);
    for (let queue = 0; queue < shape.queues; queue++) {
      rig.setCommon(0x16, 2, queue);
      expect(rig.common(0x1e, 2) * multiplier + 4).toBeLessThanOrEqual(cap.size);
    }
  });

  test("the legacy mode has none of them", () => {
    expect(new PciRig(echoDevice(), { mode: "legacy" }).caps()).toEqual([]);
  });

  test("device-specific configuration is read and written at its place", () => {
    for (const shape of shapes.filter(({ configLength }) => configLength >= 8)) {
      const device = echoDevice({ configLength: shape.configLength, queues: shape.queues });
      const rig = new PciRig(device, shape.options);
      const { bar, offset } = rig.cap(4);
      expect(rig.readBar(bar, offset, 1)).toBe(1);
      expect(rig.readBar(bar, offset + 2, 2)).toBe(0x0403);
      expect(rig.readBar(bar, offset + 4, 4)).toBe(0x08070605);
      rig.writeBar(bar, offset + 4, 4, 0xa1b2c3d4);
      expect(Array.from(device.bytes.subarray(4, 8))).toEqual([0xd4, 0xc3, 0xb2, 0xa1]);
      // What is beyond the device's own bytes is padding.
      const end = rig.cap(4).size;
      if (end > shape.configLength) {
        rig.writeBar(bar, offset + end - 1, 1, 7);
        expect(rig.readBar(bar, offset + end - 1, 1)).toBe(0);
      }
    }
  });
});

describe("shared memory and vendor data", () => {
  test(clause("dev.pci.shm-cap", "64-bit capabilities with unique ids inside their BAR"), () => {
    const big = 3 * 2 ** 32;
    const rig = new PciRig(echoDevice(), {
      sharedMemory: [
        { id: 5, length: 100, handler: nothing },
        { id: 0, length: big, handler: { ...nothing, read: (offset) => offset & 0xff } },
      ],
    });
    const caps = rig.caps().filter(({ type }) => type === 8);
    expect(caps.map(({ id }) => id)).toEqual([5, 0]);
    for (const cap of caps) {
      expect(cap.length).toBe(structs["virtio_pci_cap64"]?.size);
      const offset = cap.offset + rig.fn.readConfig(cap.at + 16, 4) * 2 ** 32;
      const length = cap.size + rig.fn.readConfig(cap.at + 20, 4) * 2 ** 32;
      expect(length).toBe(cap.id === 0 ? big : 100);
      const bar = rig.fn.bars.find(({ index }) => index === cap.bar);
      expect(bar?.kind).toBe("memory64");
      expect(offset + length).toBeLessThanOrEqual(bar?.size ?? 0);
    }
    const second = caps[1];
    expect(rig.readBar(second?.bar ?? -1, (second?.offset ?? 0) + 0x12, 1)).toBe(0x12);
    expect(rig.readBar(second?.bar ?? -1, 200, 1)).toBe(0);
  });

  test(clause("dev.core.shm", "a region holds nothing that controls the device"), () => {
    const written: number[] = [];
    const handler: IoHandler = { read: () => 0xee, write: (offset) => void written.push(offset) };
    const rig = new PciRig(echoDevice(), { sharedMemory: [{ id: 1, length: 0x3000, handler }] });
    const before = JSON.stringify([rig.instance.status, rig.fn.save()]);
    for (let offset = 0; offset < 0x4000; offset += 4) {
      rig.writeBar(2, offset, 4, 0xffffffff);
      expect(rig.readBar(2, offset, 4)).toBe(offset < 0x3000 ? 0xee : 0);
    }
    expect(written).toHaveLength(0xc00);
    expect(JSON.stringify([rig.instance.status, rig.fn.save()])).toBe(before);
  });

  test("an id twice, or none, is refused", () => {
    const region = { id: 1, length: 4096, handler: nothing };
    expect(() => new PciRig(echoDevice(), { sharedMemory: [region, region] })).toThrow(RangeError);
    expect(() => new PciRig(echoDevice(), { sharedMemory: [{ ...region, id: 256 }] })).toThrow(RangeError);
    expect(() => new PciRig(echoDevice(), { sharedMemory: [{ ...region, length: 0 }] })).toThrow(RangeError);
  });

  test(
    clause("dev.pci.vendor-cap", "vendor data: whole dwords, another vendor, reads without effect"),
    () => {
      const vendorData = [
        { vendorId: 0x1234, data: Uint8Array.of(1, 2, 3) },
        { vendorId: 0x1234, data: Uint8Array.of(9, 8, 7, 6, 5, 4) },
      ];
      const rig = new PciRig(echoDevice(), { vendorData });
      const caps = rig.caps().filter(({ type }) => type === 9);
      expect(caps.map(({ length }) => length)).toEqual([12, 12]);
      const [first] = caps;
      const bytes = (): number[] =>
        Array.from({ length: 12 }, (_, i) => rig.fn.readConfig((first?.at ?? 0) + i, 1));
      const before = bytes();
      expect(before.slice(4)).toEqual([0x34, 0x12, 1, 2, 3, 0, 0, 0]);
      expect(bytes()).toEqual(before);
      const forbidden = { vendorData: [{ vendorId: 0x1af4, data: new Uint8Array(2) }] };
      expect(() => new PciRig(echoDevice(), forbidden)).toThrow(RangeError);
    },
  );
});

describe("PCI configuration access", () => {
  test(clause("dev.pci.cfg-access", "a window to every structure, for each width"), () => {
    const device = echoDevice();
    const rig = new PciRig(device);
    const cap = rig.cap(5);
    const access = (bar: number, offset: number, size: number, value?: number): number => {
      rig.fn.writeConfig(cap.at + 4, 1, bar);
      rig.fn.writeConfig(cap.at + 12, 4, size);
      rig.fn.writeConfig(cap.at + 8, 4, offset);
      const width = size === 1 || size === 2 ? size : 4;
      if (value === undefined) return rig.fn.readConfig(cap.at + 16, width);
      rig.fn.writeConfig(cap.at + 16, width, value);
      return value;
    };
    const { bar, offset } = rig.cap(4);
    expect(access(bar, offset, 1)).toBe(1);
    expect(access(bar, offset + 2, 2)).toBe(0x0403);
    expect(access(bar, offset + 4, 4)).toBe(0x08070605);
    access(bar, offset, 4, 0x11223344);
    access(bar, offset + 4, 2, 0x5566);
    access(bar, offset + 6, 1, 0x77);
    expect(Array.from(device.bytes.subarray(0, 8))).toEqual([0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x77, 8]);
    expect(device.configWrites).toHaveLength(3);
    // What no driver may ask for does nothing.
    for (const [b, o, s] of [
      [bar, offset + 1, 4],
      [7, 0, 4],
      [5, 0, 4],
      [bar, 2 ** 31, 4],
      [bar, offset, 3],
      [bar, offset, 0],
      [bar, offset, 2 ** 31],
    ] as const) {
      access(b, o, s, 0);
    }
    expect(device.configWrites).toHaveLength(3);
  });

  test("the other capabilities cannot be written", () => {
    const rig = new PciRig(echoDevice());
    const window = rig.cap(5);
    const bytes = (): number[] =>
      Array.from({ length: 192 }, (_, i) => i + 64)
        .filter((i) => i < window.at || i >= window.at + 20)
        .map((i) => rig.fn.readConfig(i, 1));
    const before = bytes();
    fc.assert(
      fc.property(fc.integer({ min: 64, max: 255 }), fc.nat({ max: 255 }), (offset, value) => {
        // MSI-X: Enable and Function Mask are the two bits that can.
        if (offset === rig.msixCap() + 3) return;
        rig.fn.writeConfig(offset, 1, value);
        expect(bytes()).toEqual(before);
      }),
    );
  });
});
