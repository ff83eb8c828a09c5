import { patientScheduler } from "@virtio/testkit/patient-scheduler";
import { clause } from "@virtio/testkit/clause";
import { loadRegisters } from "@virtio/testkit/oracles";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { AccessSize } from "virtio/bus/types";
import type { VirtioDevice } from "virtio/device/device";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { DeviceInstance } from "virtio/device/instance";
import { RegionMemory } from "virtio/memory/region-memory";
import {
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import { virtioMmio, type VirtioMmioOptions } from "virtio/transport/mmio/registers";
import { echoDevice } from "./support.ts";

const modern = loadRegisters().mmio;
const old = loadRegisters().mmioLegacy;
const V1 = featureBits(VIRTIO_F_VERSION_1);

function rig(device: VirtioDevice = echoDevice(), options: Partial<VirtioMmioOptions> = {}) {
  const ram = new Uint8Array(0x100000);
  const memory = new RegionMemory([{ gpa: 0, bytes: ram }]);
  const instance = new DeviceInstance(device, {
    label: "rig",
    memory,
    features: DEFAULT_CORE_FEATURES,
    scheduler: patientScheduler,
  });
  const line = { level: false };
  const registers = virtioMmio(instance, {
    interrupt: { set: (level) => void (line.level = level) },
    ...options,
  });
  const table = options.version === 1 ? old : modern;
  const offset = (name: string): number => {
    const found = table[name]?.offset;
    if (found === undefined) throw new Error(`no register ${name}`);
    return found;
  };
  const read = (name: string): number => registers.read(offset(name), 4);
  const write = (name: string, value: number): void => registers.write(offset(name), 4, value);
  const negotiate = (features: bigint): void => {
    for (const status of [0, 1, 3]) write("Status", status);
    for (const select of [0, 1]) {
      write("DriverFeaturesSel", select);
      write("DriverFeatures", Number((features >> BigInt(32 * select)) & 0xffffffffn));
    }
    write("Status", 11);
  };
  const enable = (queue: number, base: number): void => {
    write("QueueSel", queue);
    write("QueueSize", 8);
    write("QueueDescLow", base);
    write("QueueDriverLow", base + 0x1000);
    write("QueueDeviceLow", base + 0x2000);
    write("QueueReady", 1);
  };
  /** One writable buffer of 4 bytes, made available. */
  const offer = (base: number): void => {
    const view = new DataView(ram.buffer);
    view.setUint32(base, base + 0x3000, true);
    view.setUint32(base + 8, 4, true);
    view.setUint16(base + 12, 2, true);
    view.setUint16(base + 0x1002, view.getUint16(base + 0x1002, true) + 1, true);
  };
  const used = (base: number): number => new DataView(ram.buffer).getUint16(base + 0x2002, true);
  return { ram, instance, registers, line, read, write, negotiate, enable, offer, used };
}

describe("registers", () => {
  test(clause("dev.mmio.registers", "magic value, version, ids"), () => {
    const { read, registers } = rig(echoDevice({ id: 42 }), { vendorId: 0x12345678 });
    expect(read("MagicValue")).toBe(0x74726976);
    expect(read("Version")).toBe(2);
    expect(read("DeviceID")).toBe(42);
    expect(read("VendorID")).toBe(0x12345678);
    expect(registers.length).toBe(0x200);
    expect(rig(echoDevice({ configLength: 300 })).registers.length).toBe(0x400);
  });

  test("features, 32 bits at a time, NOTIF_CONFIG_DATA never", () => {
    const { read, write, instance } = rig({ ...echoDevice(), features: 5n | (1n << 77n) });
    let shown = 0n;
    for (const select of [0, 1, 2, 3]) {
      write("DeviceFeaturesSel", select);
      shown |= BigInt(read("DeviceFeatures")) << BigInt(32 * select);
    }
    expect(shown).toBe(instance.offered);
    write("DeviceFeaturesSel", 9);
    expect(read("DeviceFeatures")).toBe(0);
    const memory = new RegionMemory([]);
    const features = featureBits(VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_VERSION_1);
    const other = new DeviceInstance(echoDevice(), { label: "x", memory, features });
    expect(() => virtioMmio(other, { interrupt: { set: () => {} } })).toThrow(/VIRTIO_F_NOTIF_CONFIG_DATA/);
  });

  test("read-only ones cannot be written, write-only ones read 0", () => {
    const state = (r: ReturnType<typeof rig>): unknown => [r.instance.status, r.registers.save()];
    for (const [name, { access }] of Object.entries(modern)) {
      const it = rig();
      it.negotiate(V1);
      if (access === "W") expect(it.read(name), name).toBe(0);
      if (access !== "R") continue;
      const before = [it.read(name), state(it)];
      it.write(name, 0xffffffff);
      expect([it.read(name), state(it)], name).toEqual(before);
    }
  });

  test("control registers answer to aligned 32-bit accesses alone", () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 0xff }),
        fc.constantFrom<AccessSize>(1, 2, 4),
        fc.nat({ max: 0xffffffff }),
        (offset, size, value) => {
          fc.pre(size !== 4 || offset % 4 !== 0);
          const it = rig();
          it.negotiate(V1);
          const before = JSON.stringify([it.instance.status, it.registers.save()]);
          expect(it.registers.read(offset, size)).toBe(0);
          it.registers.write(offset, size, value);
          expect(JSON.stringify([it.instance.status, it.registers.save()])).toBe(before);
        },
      ),
    );
  });

  test("configuration is accessed with byte alignment at any width", () => {
    const device = echoDevice({ configLength: 10 });
    const { registers } = rig(device);
    expect(registers.read(0x100, 1)).toBe(1);
    expect(registers.read(0x103, 2)).toBe(0x0504);
    expect(registers.read(0x107, 4)).toBe(0x000a0908);
    expect(registers.read(0x1fc, 4)).toBe(0);
    registers.write(0x102, 2, 0xbbaa);
    registers.write(0x109, 4, 0xcc);
    expect(Array.from(device.bytes)).toEqual([1, 2, 0xaa, 0xbb, 5, 6, 7, 8, 9, 0xcc]);
  });

  test(clause("dev.mmio.registers", "ConfigGeneration changes with the configuration"), () => {
    const { read, instance } = rig();
    const seen = new Set([read("ConfigGeneration")]);
    for (let i = 0; i < 300; i++) {
      instance.configChanged();
      seen.add(read("ConfigGeneration"));
    }
    expect(seen.size).toBe(301);
  });
});

describe("interrupts", () => {
  test(clause("dev.mmio.registers", "InterruptStatus holds each event until it is acknowledged"), () => {
    const it = rig();
    it.negotiate(V1);
    it.enable(0, 0x4000);
    it.write("Status", 15);
    expect(it.read("InterruptStatus")).toBe(0);
    it.offer(0x4000);
    it.write("QueueNotify", 0);
    expect(it.used(0x4000)).toBe(1);
    expect([it.read("InterruptStatus"), it.line.level]).toEqual([1, true]);
    it.instance.configChanged();
    expect(it.read("InterruptStatus")).toBe(3);
    it.write("InterruptACK", 1);
    expect([it.read("InterruptStatus"), it.line.level]).toEqual([2, true]);
    it.write("InterruptACK", 0xfffffffe);
    expect([it.read("InterruptStatus"), it.line.level]).toEqual([0, false]);
  });

  test(
    clause(["dev.mmio.registers", "dev.core.reset"], "a reset clears InterruptStatus and QueueReady"),
    () => {
      const it = rig();
      it.negotiate(V1 | featureBits(VIRTIO_F_RING_RESET));
      it.enable(0, 0x4000);
      it.enable(1, 0x8000);
      it.write("Status", 15);
      it.instance.configChanged();
      it.write("Status", 0);
      expect([it.read("InterruptStatus"), it.line.level, it.read("Status")]).toEqual([0, false, 0]);
      for (const queue of [0, 1]) {
        it.write("QueueSel", queue);
        expect([it.read("QueueReady"), it.read("QueueReset")]).toEqual([0, 0]);
      }
    },
  );
});

describe("virtqueues", () => {
  test(clause("dev.mmio.registers", "nothing happens while QueueReady is 0"), () => {
    const it = rig();
    it.negotiate(V1);
    it.enable(0, 0x4000);
    it.write("Status", 15);
    it.offer(0x4000);
    it.write("QueueReady", 0);
    expect(it.read("QueueReady")).toBe(0);
    it.write("QueueNotify", 0);
    expect(it.used(0x4000)).toBe(0);
    it.write("QueueReady", 1);
    expect(it.read("QueueReady")).toBe(1);
    expect(it.used(0x4000)).toBe(1);
  });

  test("QueueSizeMax, also of what is not there; the other registers stand while QueueReady is 1", () => {
    const it = rig();
    it.negotiate(V1);
    it.enable(0, 0x4000);
    expect(it.read("QueueSizeMax")).toBe(64);
    it.write("QueueSize", 16);
    it.write("QueueDescLow", 0x10000);
    expect(it.instance.queue(0)).toMatchObject({ size: 8, descriptorArea: 0x4000 });
    it.write("QueueSel", 2);
    expect([it.read("QueueSizeMax"), it.read("QueueReady")]).toEqual([0, 0]);
    it.write("QueueReady", 1);
    expect(it.read("QueueReady")).toBe(0);
  });

  test("addresses by halves", () => {
    const it = rig();
    for (const name of ["Desc", "Driver", "Device"]) {
      it.write(`Queue${name}High`, 0x12);
      it.write(`Queue${name}Low`, 0x89abcde0);
    }
    const address = 0x12_89ab_cde0;
    expect(it.instance.queue(0)).toMatchObject({
      descriptorArea: address,
      driverArea: address,
      deviceArea: address,
    });
  });

  test(
    clause(["dev.mmio.registers", "dev.core.vq-reset"], "QueueReset resets one virtqueue, when negotiated"),
    () => {
      for (const negotiated of [false, true]) {
        const it = rig();
        it.negotiate(negotiated ? V1 | featureBits(VIRTIO_F_RING_RESET) : V1);
        it.enable(0, 0x4000);
        it.write("Status", 15);
        it.write("QueueReset", 1);
        expect(it.read("QueueReset")).toBe(0);
        expect(it.read("QueueReady")).toBe(negotiated ? 0 : 1);
        if (!negotiated) continue;
        it.offer(0x4000);
        it.write("QueueNotify", 0);
        expect(it.used(0x4000)).toBe(0);
        it.enable(0, 0x10000);
        expect([it.read("QueueReset"), it.read("QueueReady")]).toEqual([0, 1]);
        it.offer(0x10000);
        it.write("QueueNotify", 0);
        expect(it.used(0x10000)).toBe(1);
      }
    },
  );
});

describe("shared memory", () => {
  test(clause("dev.mmio.registers", "base and length by halves, all ones where there is none"), () => {
    const big = 5 * 2 ** 32 + 0x1000;
    const { read, write } = rig(echoDevice(), {
      sharedMemory: [{ id: 7, base: 0x12_3456_7000, length: big }],
    });
    const all = (): number[] => ["SHMLenLow", "SHMLenHigh", "SHMBaseLow", "SHMBaseHigh"].map(read);
    expect(all()).toEqual([0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff]);
    write("SHMSel", 7);
    expect(all()).toEqual([0x1000, 5, 0x34567000, 0x12]);
  });
});

describe("the legacy interface", () => {
  const legacy = () => rig(echoDevice({ maxSize: 8 }), { version: 1 });

  test("version 1, the first 32 features alone", () => {
    const it = legacy();
    expect(it.read("Version")).toBe(1);
    expect(BigInt(it.read("HostFeatures"))).toBe((it.instance.offered & 0xffffffffn) | featureBits(27));
    it.write("HostFeaturesSel", 1);
    expect(it.read("HostFeatures")).toBe(0);
    it.write("GuestFeaturesSel", 1);
    it.write("GuestFeatures", 1);
    it.write("GuestFeaturesSel", 0);
    it.write("GuestFeatures", 3);
    expect(it.instance.driverFeatures).toBe(3n);
  });

  function start(it: ReturnType<typeof legacy>, { page = 4096, align = 4096, size = 8, pfn = 4 } = {}): void {
    it.write("GuestPageSize", page);
    for (const status of [0, 1, 3]) it.write("Status", status);
    it.write("QueueSel", 0);
    expect(it.read("QueuePFN")).toBe(0);
    it.write("QueueSize", size);
    it.write("QueueAlign", align);
    it.write("QueuePFN", pfn);
    it.write("Status", 7);
  }

  test("a virtqueue at a page, with the alignment the driver says", () => {
    const it = legacy();
    // GuestPageSize is written once and survives a reset: Linux does so.
    start(it, { align: 64 });
    expect(it.read("Status")).toBe(7);
    expect(it.read("QueuePFN")).toBe(4);
    // 8 descriptors, then the available ring, then the used ring at the next multiple of 64.
    expect(it.instance.queue(0)).toMatchObject({
      size: 8,
      descriptorArea: 0x4000,
      driverArea: 0x4080,
      deviceArea: 0x40c0,
    });
    const view = new DataView(it.ram.buffer);
    view.setUint32(0x4000, 0x8000, true);
    view.setUint32(0x4008, 4, true);
    view.setUint16(0x400c, 2, true);
    view.setUint16(0x4082, 1, true);
    it.write("QueueNotify", 0);
    expect(view.getUint16(0x40c2, true)).toBe(1);
    expect(it.read("InterruptStatus")).toBe(1);
    it.write("QueuePFN", 0);
    expect(it.read("QueuePFN")).toBe(0);
    it.write("Status", 0);
    expect(it.read("QueuePFN")).toBe(0);
  });

  test.each([
    ["no page size", { page: 0 }],
    ["a page size that is no power of two", { page: 4095 }],
    ["an alignment of 0", { align: 0 }],
    ["an alignment that is no power of two", { align: 100 }],
    ["an alignment beyond all memory", { align: 2 ** 31 }],
    ["a size of 0", { size: 0 }],
    ["a size beyond the maximum", { size: 16 }],
  ])("%s stops the device", (_, bad) => {
    const it = legacy();
    start(it, bad);
    expect(it.read("Status") & 64).toBe(64);
  });

  test("the modern registers are not there", () => {
    const it = legacy();
    start(it);
    for (const name of ["QueueReady", "ConfigGeneration", "SHMLenLow", "QueueReset"]) {
      it.registers.write(modern[name]?.offset ?? 0, 4, 1);
      expect(it.registers.read(modern[name]?.offset ?? 0, 4), name).toBe(0);
    }
    expect(it.read("QueuePFN")).toBe(4);
  });
});

test("a machine reset resets all", () => {
  const it = rig();
  it.negotiate(V1);
  it.instance.configChanged();
  it.registers.reset();
  expect([it.read("Status"), it.line.level]).toEqual([0, false]);
});
