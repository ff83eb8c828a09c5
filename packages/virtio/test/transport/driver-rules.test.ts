import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test, vi } from "vitest";
import { SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import { MODERN_PCI_FEATURES } from "virtio/driver/features";
import { openMmio } from "virtio/driver/mmio-transport";
import { openPci, sharedMemoryRegions, type OpenPciOptions } from "virtio/driver/pci-open";
import { DRIVER_RING_FEATURES, DriverSession } from "virtio/driver/session";
import type { DriverTransport } from "virtio/driver/types";
import {
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import { readCapabilities } from "virtio/driver/pci-capabilities";
import { findVirtioFunctions } from "virtio/driver/pci-discovery";
import { PciConfig } from "virtio/driver/pci-config";
import { commonConfigViolations, mmioViolations, WatchedPlatform, type Access } from "./driver-rules.ts";
import { echoDevice } from "./support.ts";

const notifConfigData = (queue: number): number => 0x1230 + queue;
const MMIO_FEATURES = SUPPORTED_CORE_FEATURES & ~featureBits(VIRTIO_F_NOTIF_CONFIG_DATA);

/** A driver's whole life: features, both virtqueues, requests, configuration, queue reset, close. */
async function live(transport: DriverTransport, ring: bigint, interrupt: () => void): Promise<void> {
  const session = await DriverSession.open(transport, { wanted: 1n, ring });
  session.readConfig(0, 4);
  session.readConfig(8, 8);
  const queues = [session.addQueue(0, 8), session.addQueue(1, 8)];
  session.writeConfig(4, Uint8Array.of(1, 2));
  session.ready();
  const gpa = transport.memory.allocate(64, 16);
  for (const queue of queues) {
    for (let i = 0; i < 20; i++) {
      expect(await queue.request([{ gpa, length: 16 }], [{ gpa: gpa + 16, length: 16 }])).toBe(16);
    }
  }
  interrupt();
  if (session.has(VIRTIO_F_RING_RESET)) await transport.resetQueue(1);
  expect(session.failure).toBeUndefined();
  await session.close();
}

function pciMachine(options: Parameters<InProcessMachine["plugPci"]>[1] = {}, open: OpenPciOptions = {}) {
  const machine = new InProcessMachine();
  const plugged = machine.plugPci(echoDevice(), {
    features: SUPPORTED_CORE_FEATURES,
    notifConfigData,
    ...options,
  });
  const watched = new WatchedPlatform(machine.platform);
  const { memoryWindow, ioWindow } = machine;
  const transport = openPci(watched.platform, plugged.at, { memoryWindow, ioWindow, ...open });
  const structure = (type: number): { base: number; length: number; multiplier: number } => {
    const config = new PciConfig(machine.platform.pci, plugged.at);
    const found = readCapabilities(config).structures.find((candidate) => candidate.type === type);
    if (found === undefined) throw new Error(`no structure ${type}`);
    const base = config.read(0x10 + 4 * found.bar, 4) & ~0xf;
    return { base: (base >>> 0) + found.offset, length: found.length, multiplier: found.notifyMultiplier };
  };
  const accesses = (type: number): Access[] => {
    const { base, length } = structure(type);
    return watched.within("memory", base, length);
  };
  return { machine, plugged, watched, transport, accesses };
}

const V1 = featureBits(VIRTIO_F_VERSION_1);
const rings = [
  V1,
  V1 | featureBits(VIRTIO_F_RING_PACKED),
  V1 | featureBits(VIRTIO_F_NOTIFICATION_DATA),
  V1 | featureBits(VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_RING_RESET),
  DRIVER_RING_FEATURES | featureBits(VIRTIO_F_RING_RESET),
];

describe("PCI, every access of a driver's life", () => {
  const common = ["drv.pci.common-cfg", "drv.pci.layout", "drv.core.vq-reset", "drv.core.reset"];
  const titled = rings.map((ring) => [clause(common, `features 0x${ring.toString(16)}`), ring] as const);
  test.each(titled)("%s", async (_, ring) => {
    for (const interrupts of ["msix", "intx"] as const) {
      const { plugged, transport, accesses } = pciMachine({}, { interrupts });
      await live(transport, ring, () => plugged.instance.configChanged());
      const log = accesses(1);
      expect(log.length).toBeGreaterThan(50);
      expect(commonConfigViolations(log)).toEqual([]);
      expect(log.some(({ address, kind }) => address === 58 && kind === "write")).toBe(
        (ring & featureBits(VIRTIO_F_RING_RESET)) !== 0n,
      );
    }
  });

  test("the checker finds what is wrong", () => {
    const bad = (address: number, size: 1 | 2 | 4, value: number): Access => ({
      kind: "write",
      space: "memory",
      address,
      size,
      value,
    });
    expect(commonConfigViolations([bad(20, 4, 1)])).toHaveLength(1);
    expect(commonConfigViolations([bad(4, 4, 1)])).toHaveLength(1);
    expect(commonConfigViolations([bad(28, 2, 1)])).toHaveLength(1);
    expect(commonConfigViolations([bad(28, 2, 0)])).toHaveLength(2);
    expect(commonConfigViolations([bad(20, 1, 0), bad(20, 1, 1)])).toHaveLength(1);
  });

  test(clause("drv.pci.layout", "one field of the configuration is read at its own width"), async () => {
    const { transport, accesses } = pciMachine();
    const session = await DriverSession.open(transport, { wanted: 0n });
    for (const [offset, length] of [
      [0, 1],
      [2, 2],
      [4, 4],
      [8, 8],
      [1, 3],
    ] as const) {
      session.readConfig(offset, length);
    }
    expect(accesses(4).map(({ address, size }) => [address, size])).toEqual([
      [0, 1],
      [2, 2],
      [4, 4],
      [8, 4],
      [12, 4],
      [1, 1],
      [2, 1],
      [3, 1],
    ]);
  });

  test(
    clause(
      "drv.pci.notify",
      "16 bits with the index, 32 with NOTIFICATION_DATA, the device's name for it with NOTIF_CONFIG_DATA",
    ),
    async () => {
      for (const ring of rings) {
        const { plugged, transport, accesses } = pciMachine();
        await live(transport, ring, () => plugged.instance.configChanged());
        const data = (ring & featureBits(VIRTIO_F_NOTIFICATION_DATA)) !== 0n;
        const named = (ring & featureBits(VIRTIO_F_NOTIF_CONFIG_DATA)) !== 0n;
        const log = accesses(2);
        expect(log.length).toBeGreaterThan(0);
        for (const { address, size, value } of log) {
          const queue = address / 4;
          expect([0, 1]).toContain(queue);
          expect(size).toBe(data ? 4 : 2);
          expect(value & 0xffff).toBe(named ? notifConfigData(queue) : queue);
          if (!data) expect(value).toBeLessThan(0x10000);
        }
        // next_off moves with what was made available.
        if (data) expect(new Set(log.map(({ value }) => value >>> 16)).size).toBeGreaterThan(1);
      }
    },
  );

  test(
    clause("drv.core.features", "what the transport does not know is not accepted, whatever is offered"),
    async () => {
      const { watched, transport, accesses } = pciMachine();
      watched.lie = ({ kind, address, size }) =>
        kind === "read" && size === 4 && (address & 0xffffff) === 0x4004 ? 0xffffffff : undefined;
      await DriverSession.open(transport, { wanted: 0n }).catch(() => undefined);
      const words = accesses(1).filter(({ kind, address }) => kind === "write" && address === 12);
      const accepted = words.reduce((sum, { value }, i) => sum | (BigInt(value) << BigInt(32 * i)), 0n);
      expect(words).toHaveLength(2);
      expect(accepted & ~MODERN_PCI_FEATURES).toBe(0n);
      expect(accepted & V1).toBe(V1);
    },
  );

  test("the legacy interface: what takes several accesses is read until two reads agree", async () => {
    for (const steady of [true, false]) {
      const machine = new InProcessMachine();
      const device = echoDevice();
      const plugged = machine.plugPci(device, { mode: "legacy" });
      const session = await DriverSession.open(plugged.open(), { wanted: 0n });
      let reads = 0;
      const { config } = device;
      if (config === undefined) throw new Error("no configuration");
      const watch = vi.spyOn(config, "read").mockImplementation((offset, target) => {
        // The capacity changes between its two halves.
        if (++reads === 2 || !steady) device.bytes.fill(reads);
        target.set(device.bytes.subarray(offset, offset + target.length));
      });
      if (steady) expect(session.readConfig(0, 8)).toEqual(new Uint8Array(8).fill(2));
      else expect(() => session.readConfig(0, 8)).toThrow(/stood still/);
      expect(session.readConfig(4, 4)).toHaveLength(4);
      watch.mockRestore();
    }
  });

  test(clause("drv.pci.isr", "with MSI-X the ISR status is left alone"), async () => {
    const { machine, plugged, transport, accesses } = pciMachine();
    await live(transport, V1, () => plugged.instance.configChanged());
    expect(machine.interrupts.delivered).toBeGreaterThan(0);
    expect(accesses(3)).toEqual([]);
  });

  test(
    clause("drv.pci.msix", "any Table Size; no vector outside it; each mapping is read back"),
    async () => {
      for (const msixVectors of [1, 2, 3, 2048]) {
        const { plugged, transport, accesses } = pciMachine({ msixVectors });
        await live(transport, V1, () => plugged.instance.configChanged());
        const log = accesses(1);
        const vectors = log.filter(
          ({ address, kind }) => kind === "write" && (address === 16 || address === 26),
        );
        expect(vectors.length).toBeGreaterThanOrEqual(3);
        expect(vectors.every(({ value }) => value < msixVectors)).toBe(true);
        log.forEach((access, i) => {
          if (!vectors.includes(access)) return;
          expect(log[i + 1]).toMatchObject({ kind: "read", address: access.address, value: access.value });
        });
      }
    },
  );

  test(
    clause("drv.pci.msix", "a mapping that fails is an error, not a driver that waits for ever"),
    async () => {
      for (const address of [16, 26]) {
        const { watched, transport } = pciMachine();
        watched.lie = (access) =>
          access.kind === "read" &&
          access.size === 2 &&
          (access.address & 0xfff) === address &&
          access.value < 8
            ? 0xffff
            : undefined;
        await expect(live(transport, V1, () => {})).rejects.toThrow(/no vector/);
      }
    },
  );

  test(
    clause("drv.pci.caps", "capabilities are read only, but for the configuration access one"),
    async () => {
      const { watched, plugged, transport } = pciMachine({}, { access: "config", interrupts: "intx" });
      await live(transport, V1, () => plugged.instance.configChanged());
      const config = new PciConfig(watched.platform.pci, plugged.at);
      const window = readCapabilities(config).structures.find(({ type }) => type === 5)?.capability ?? 0;
      const written = watched.log.filter(
        ({ kind, space, address }) => kind === "write" && space === "config" && address >= 64,
      );
      expect(written.length).toBeGreaterThan(0);
      expect(written.every(({ address }) => address >= window + 4 && address < window + 20)).toBe(true);
    },
  );

  test(clause("drv.pci.cfg-access", "aligned accesses inside a structure, through the window"), async () => {
    const { watched, plugged, transport } = pciMachine({}, { access: "config", interrupts: "intx" });
    await live(transport, V1, () => plugged.instance.configChanged());
    const { structures } = readCapabilities(new PciConfig(watched.platform.pci, plugged.at));
    const window = structures.find(({ type }) => type === 5)?.capability ?? 0;
    let [bar, length, offset] = [-1, 0, 0];
    let data = 0;
    for (const { space, address, kind, value, size } of watched.log) {
      if (space !== "config" || address < window + 4 || address >= window + 20) continue;
      if (address === window + 16) {
        data++;
        expect(size).toBe(length);
        expect(offset % length).toBe(0);
        const inside = structures.some(
          (place) =>
            place.type !== 5 &&
            place.bar === bar &&
            offset >= place.offset &&
            offset + length <= place.offset + place.length,
        );
        expect(inside).toBe(true);
      } else if (kind === "write") {
        if (address === window + 4) bar = value;
        if (address === window + 8) offset = value;
        if (address === window + 12) length = value;
      }
    }
    expect(data).toBeGreaterThan(100);
  });

  test("registers are never touched outside the structures", async () => {
    for (const mode of ["modern", "legacy"] as const) {
      const { watched, plugged, transport, accesses } = pciMachine({ mode });
      await live(transport, V1, () => plugged.instance.configChanged());
      const devices = watched.log.filter(({ space }) => space !== "config");
      if (mode === "modern") {
        const known = [1, 2, 3, 4].flatMap(accesses);
        const table = devices.filter(({ size, address }) => size === 4 && address < 0xe0001000);
        expect(known.length + table.length).toBe(devices.length);
      } else {
        expect(
          devices
            .filter(({ space }) => space === "io")
            .every(({ address }) => address >= 0x6000 && address < 0x6040),
        ).toBe(true);
      }
    }
  });
});

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
    const handler = { read: () => 0, write: () => {} };
    const { plugged, machine } = pciMachine({ sharedMemory: [{ id: 3, length: 0x5000, handler }] });
    const [region] = sharedMemoryRegions(machine.platform, plugged.at);
    expect(region).toMatchObject({ id: 3, length: 0x5000 });
    expect(machine.platform.bus.read("memory", region?.address ?? 0, 4)).toBe(0);
  });
});

describe("MMIO, every access of a driver's life", () => {
  const ids = ["drv.mmio.registers", "drv.mmio.init", "drv.mmio.interrupts"];
  const versions = ([2, 1] as const).map((version) => [clause(ids, `version ${version}`), version] as const);
  test.each(versions)("%s", async (_, version) => {
    for (const ring of version === 2 ? rings : [0n]) {
      const machine = new InProcessMachine();
      const plugged = machine.plugMmio(echoDevice(), { version, features: MMIO_FEATURES });
      const watched = new WatchedPlatform(machine.platform);
      const transport = openMmio(watched.platform, plugged.place);
      if (transport === undefined) throw new Error("not found");
      const log = (): Access[] => watched.within("memory", plugged.place.base, plugged.place.length);
      expect(
        log()
          .slice(0, 3)
          .map(({ kind, address }) => [kind, address]),
      ).toEqual([
        ["read", 0],
        ["read", 4],
        ["read", 8],
      ]);
      await live(transport, ring, () => plugged.instance.configChanged());
      expect(mmioViolations(log(), version === 1)).toEqual([]);
      const served = log().filter(({ kind, address }) => kind === "write" && address === 0x64);
      expect(served.length).toBeGreaterThan(0);
      expect(machine.interrupts.isAsserted(plugged.place.line)).toBe(false);
    }
  });

  test(
    clause(ids, "each interrupt: InterruptStatus is read first, and acknowledged after it was handled"),
    async () => {
      const machine = new InProcessMachine();
      const plugged = machine.plugMmio(echoDevice(), {});
      const watched = new WatchedPlatform(machine.platform);
      const transport = openMmio(watched.platform, plugged.place);
      if (transport === undefined) throw new Error("not found");
      const session = await DriverSession.open(transport, { wanted: 0n });
      session.ready();
      const order: string[] = [];
      session.onConfigChange = () => void order.push("handled");
      watched.lie = ({ kind, address }) => {
        if (address === plugged.place.base + 0x60) order.push("status");
        if (address === plugged.place.base + 0x64 && kind === "write") order.push("ack");
        // Undefined bits are ignored, and not acknowledged.
        return kind === "read" && address === plugged.place.base + 0x60 ? 0xfffffffe : undefined;
      };
      const before = watched.log.length;
      plugged.instance.configChanged();
      watched.lie = undefined;
      expect(order.slice(0, 3)).toEqual(["status", "handled", "ack"]);
      const ack = watched.log
        .slice(before)
        .find(({ kind, address }) => kind === "write" && address === plugged.place.base + 0x64);
      expect(ack?.value).toBe(2);
    },
  );

  test(clause(ids, "what is no device is left alone"), () => {
    for (const [address, value, reads] of [
      [0, 0x12345678, 1],
      [4, 3, 2],
      [4, 0, 2],
      [8, 0, 3],
    ] as const) {
      const machine = new InProcessMachine();
      const { place } = machine.plugMmio(echoDevice(), {});
      const watched = new WatchedPlatform(machine.platform);
      watched.lie = (access) => (access.address === place.base + address ? value : undefined);
      expect(openMmio(watched.platform, place)).toBeUndefined();
      expect(watched.log).toHaveLength(reads);
    }
    const machine = new InProcessMachine();
    const { place } = machine.plugMmio(echoDevice(), { version: 1 });
    expect(openMmio(machine.platform, place, { legacy: false })).toBeUndefined();
  });

  test("nothing is lost between handling an interrupt and acknowledging it", async () => {
    const machine = new InProcessMachine();
    const plugged = machine.plugMmio(echoDevice(), {});
    const watched = new WatchedPlatform(machine.platform);
    const transport = openMmio(watched.platform, plugged.place);
    if (transport === undefined) throw new Error("not found");
    let late = true;
    // The device works on just before the acknowledgement arrives.
    watched.lie = ({ kind, address }) => {
      if (late && kind === "write" && address === plugged.place.base + 0x64) {
        late = false;
        plugged.instance.configChanged();
      }
      return undefined;
    };
    const session = await DriverSession.open(transport, { wanted: 0n });
    session.ready();
    let changes = 0;
    session.onConfigChange = () => void changes++;
    plugged.instance.configChanged();
    expect(changes).toBe(2);
  });
});
