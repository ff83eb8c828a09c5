import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test } from "vitest";
import { readCapabilities } from "virtio/driver/pci-capabilities";
import { PciConfig } from "virtio/driver/pci-config";
import { findVirtioFunctions } from "virtio/driver/pci-discovery";
import { pciMachine } from "./driver-life.ts";
import { echoDevice } from "./support.ts";

describe("PCI discovery", () => {
  test(clause("drv.pci.discovery", "by vendor and device id, whatever revision and subsystem"), () => {
    const machine = new InProcessMachine();
    machine.plugPci(echoDevice({ id: 2 }), { revision: 77, subsystemVendorId: 0x1234, subsystemId: 0x5678 });
    machine.plugPci(echoDevice({ id: 63 }));
    machine.plugPci(echoDevice({ id: 1 }), { mode: "transitional" });
    const found = findVirtioFunctions(machine.platform.pci);
    expect(found.map(({ deviceId, transitional }) => [deviceId, transitional])).toEqual([
      [2, false],
      [63, false],
      [1, true],
    ]);
  });

  test("transitional ids are those of the spec's table; other legacy ids are told by the subsystem", () => {
    const identifyId = (id: number, subsystem: number): number | undefined => {
      const access = {
        readConfig: (
          at: { device: number; function: number; bus: number },
          offset: number,
          size: number,
        ): number => {
          if (at.device !== 0 || at.function !== 0)
            return size === 1 ? 0xff : size === 2 ? 0xffff : 0xffffffff;
          return (
            new Map([
              [0, 0x1af4],
              [2, id],
              [0x2e, subsystem],
            ]).get(offset) ?? 0
          );
        },
        writeConfig: () => {},
      };
      return findVirtioFunctions(access)[0]?.deviceId;
    };
    expect(identifyId(0x1000, 9)).toBe(1);
    expect(identifyId(0x1009, 9)).toBe(9);
    expect(identifyId(0x1005, 0)).toBe(4);
    expect(identifyId(0x103f, 18)).toBe(18);
    expect(identifyId(0x107f, 0)).toBe(63);
    expect(identifyId(0x1080, 0)).toBeUndefined();
    expect(identifyId(0x0fff, 0)).toBeUndefined();
  });

  test("bridges that lead in a circle end the walk", () => {
    let reads = 0;
    const access = {
      readConfig: (at: { bus: number; device: number }, offset: number): number => {
        reads++;
        if (at.device > 1) return 0xffff;
        return (
          new Map([
            [0, 0x8086],
            [0x0e, 0x81],
            [0x19, (at.bus + 1) % 3],
          ]).get(offset) ?? 0
        );
      },
      writeConfig: () => {},
    };
    expect(findVirtioFunctions(access)).toEqual([]);
    expect(reads).toBeLessThan(3 * 32 * 8 * 4);
  });

  test(clause("drv.pci.vendor-cap", "vendor data is handed out with its vendor id, and never used"), () => {
    const vendorData = [{ vendorId: 0x8086, data: Uint8Array.of(1, 2) }];
    const { plugged, machine, watched, transport } = pciMachine({ vendorData });
    expect(transport.deviceId).toBe(4);
    const config = new PciConfig(machine.platform.pci, plugged.at);
    expect(readCapabilities(config).vendorData).toEqual([{ vendorId: 0x8086, data: Uint8Array.of(1, 2) }]);
    expect(
      watched.log.filter(
        ({ kind, space, address }) => kind === "write" && space === "config" && address >= 64,
      ),
    ).not.toHaveLength(0);
  });

  test("shared memory regions are found where their BAR is", () => {
    const handler = { read: () => 0x55, write: () => {} };
    const { machine, transport } = pciMachine({ sharedMemory: [{ id: 3, length: 0x5000, handler }] });
    const region = "sharedMemory" in transport ? transport.sharedMemory(3) : undefined;
    expect(region).toMatchObject({ id: 3, length: 0x5000 });
    expect(machine.platform.bus.read("memory", region?.address ?? 0, 4)).toBe(0x55);
    expect("sharedMemory" in transport && transport.sharedMemory(0)).toBeUndefined();
  });
});
