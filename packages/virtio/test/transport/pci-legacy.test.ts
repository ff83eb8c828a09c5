import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { AccessSize } from "virtio/bus/types";
import { SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import { VIRTIO_F_VERSION_1, featureBits } from "virtio/spec/core";
import { legacyLayout } from "virtio/virtqueue/split-layout";
import { echoDevice, PciRig } from "./support.ts";

// "Legacy Interfaces: A Note on PCI Device Layout"
const HEADER = {
  deviceFeatures: 0,
  driverFeatures: 4,
  queueAddress: 8,
  queueSize: 12,
  queueSelect: 14,
  queueNotify: 16,
  status: 18,
  isr: 19,
  configVector: 20,
  queueVector: 22,
};

function legacy(mode: "legacy" | "transitional" = "legacy", device = echoDevice({ maxSize: 8 })): PciRig {
  return new PciRig(device, { mode }, { features: SUPPORTED_CORE_FEATURES });
}
const read = (rig: PciRig, offset: number, size: AccessSize): number => rig.readBar(0, offset, size);
const write = (rig: PciRig, offset: number, size: AccessSize, value: number): void =>
  rig.writeBar(0, offset, size, value);

/** Makes one buffer available in the legacy layout at a page and notifies. */
function request(rig: PciRig, page: number, queue: number): number {
  const { driverArea, deviceArea } = legacyLayout(page * 4096, 8, 4096);
  const view = new DataView(rig.ram.buffer);
  const buffer = page * 4096 + 0x3000;
  view.setUint32(page * 4096, buffer, true);
  view.setUint32(page * 4096 + 8, 4, true);
  view.setUint16(page * 4096 + 12, 2, true);
  const index = view.getUint16(driverArea + 2, true);
  view.setUint16(driverArea + 2, index + 1, true);
  write(rig, HEADER.queueNotify, 2, queue);
  return view.getUint16(deviceArea + 2, true);
}

describe.each(["legacy", "transitional"] as const)("the legacy interface of a %s function", (mode) => {
  test("is an I/O BAR0 with the first 32 features, ANY_LAYOUT among them", () => {
    const rig = legacy(mode);
    expect(rig.fn.bars[0]).toMatchObject({ index: 0, kind: "io" });
    const features = read(rig, HEADER.deviceFeatures, 4);
    expect(BigInt(features)).toBe((rig.instance.offered & 0xffffffffn) | featureBits(27));
    write(rig, HEADER.driverFeatures, 4, features);
    expect(read(rig, HEADER.driverFeatures, 4)).toBe(features);
    expect(rig.instance.driverFeatures >> 32n).toBe(0n);
  });

  test("works without FEATURES_OK, at a page number, with the size the device dictates", () => {
    const rig = legacy(mode);
    write(rig, HEADER.status, 1, 1);
    write(rig, HEADER.status, 1, 3);
    write(rig, HEADER.driverFeatures, 4, 0);
    write(rig, HEADER.queueSelect, 2, 1);
    expect(read(rig, HEADER.queueSize, 2)).toBe(8);
    expect(read(rig, HEADER.queueAddress, 4)).toBe(0);
    write(rig, HEADER.queueSize, 2, 4);
    expect(read(rig, HEADER.queueSize, 2)).toBe(8);
    write(rig, HEADER.queueAddress, 4, 0x10);
    expect(read(rig, HEADER.queueAddress, 4)).toBe(0x10);
    write(rig, HEADER.status, 1, 7);
    expect(rig.instance.legacy).toBe(true);
    expect(read(rig, HEADER.status, 1)).toBe(7);
    expect(request(rig, 0x10, 1)).toBe(1);
    expect(rig.pin).toBe(true);
    expect(read(rig, HEADER.isr, 1)).toBe(1);
    expect(read(rig, HEADER.isr, 1)).toBe(0);
    expect(rig.pin).toBe(false);
    // Address 0 stops it.
    write(rig, HEADER.queueAddress, 4, 0);
    expect(read(rig, HEADER.queueAddress, 4)).toBe(0);
    expect(request(rig, 0x10, 1)).toBe(1);
    write(rig, HEADER.queueSelect, 2, 2);
    expect(read(rig, HEADER.queueSize, 2)).toBe(0);
    write(rig, HEADER.queueAddress, 4, 0x20);
    expect(read(rig, HEADER.queueAddress, 4)).toBe(0);
    write(rig, HEADER.status, 1, 0);
    expect(read(rig, HEADER.status, 1)).toBe(0);
  });

  test("can be used before DRIVER_OK, and configuration written before the features", () => {
    const device = echoDevice({ maxSize: 8 });
    const rig = legacy(mode, device);
    write(rig, 20, 1, 0x99);
    expect(device.bytes[0]).toBe(0x99);
    write(rig, HEADER.status, 1, 3);
    write(rig, HEADER.queueAddress, 4, 0x10);
    expect(request(rig, 0x10, 0)).toBe(1);
  });

  test("configuration follows the header: at 20, and at 24 while MSI-X is enabled", () => {
    const rig = legacy(mode);
    expect(read(rig, 20, 4)).toBe(0x04030201);
    rig.enableMsix(3);
    expect(read(rig, 24, 4)).toBe(0x04030201);
    write(rig, HEADER.configVector, 2, 2);
    expect(read(rig, HEADER.configVector, 2)).toBe(2);
    write(rig, HEADER.queueVector, 2, 9);
    expect(read(rig, HEADER.queueVector, 2)).toBe(0xffff);
    rig.instance.configChanged();
    expect(rig.messages).toEqual([{ address: 0xfee00000, data: 0x42 }]);
    rig.fn.writeConfig(rig.msixCap() + 2, 2, 0);
    expect(read(rig, 20, 4)).toBe(0x04030201);
  });

  test("configuration gives the same bytes whatever the width", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 20, max: 60 }), fc.constantFrom<AccessSize>(1, 2, 4))),
        (accesses) => {
          const device = echoDevice({ configLength: 30 });
          const rig = legacy(mode, device);
          for (const [offset, size] of accesses) {
            let expected = 0;
            for (let i = size - 1; i >= 0; i--)
              expected = expected * 256 + (device.bytes[offset - 20 + i] ?? 0);
            expect(read(rig, offset, size)).toBe(expected);
          }
        },
      ),
    );
  });

  test("a wide read of status and ISR clears the ISR once", () => {
    const rig = legacy(mode);
    write(rig, HEADER.status, 1, 3);
    rig.instance.configChanged();
    expect(read(rig, HEADER.status, 2)).toBe(0x0203);
    expect(read(rig, HEADER.status, 4)).toBe(0x02010003);
  });
});

describe("a transitional function", () => {
  const V1 = featureBits(VIRTIO_F_VERSION_1);

  test("takes a driver of either kind, one after the other", () => {
    const rig = legacy("transitional");
    write(rig, HEADER.driverFeatures, 4, 0);
    write(rig, HEADER.queueAddress, 4, 0x10);
    write(rig, HEADER.status, 1, 7);
    expect(rig.instance.legacy).toBe(true);
    expect(request(rig, 0x10, 0)).toBe(1);
    rig.negotiate(V1);
    expect(rig.instance.legacy).toBe(false);
    expect(rig.instance.status).toBe(11);
    rig.enableQueue(0, 8, 0x20000);
    rig.setCommon(0x14, 1, 15);
    rig.offer(0x20000, 1);
    const { bar, offset } = rig.cap(2);
    rig.writeBar(bar, offset, 2, 0);
    expect(rig.usedIndex(0x20000)).toBe(1);
    write(rig, HEADER.status, 1, 0);
    write(rig, HEADER.status, 1, 3);
    expect(rig.instance.legacy).toBe(true);
    expect(rig.instance.status).toBe(3);
  });

  test("assumes that a legacy driver accepted no feature above bit 31", () => {
    const rig = legacy("transitional");
    rig.setCommon(0x14, 1, 1);
    rig.setCommon(0x08, 4, 1);
    rig.setCommon(0x0c, 4, 5);
    rig.setCommon(0x18, 2, 2);
    write(rig, HEADER.driverFeatures, 4, 3);
    expect(rig.instance.driverFeatures).toBe(3n);
    // Nor a Queue Size: the device dictates it.
    write(rig, HEADER.queueAddress, 4, 0x10);
    expect(rig.instance.queue(0)?.size).toBe(8);
  });
});
