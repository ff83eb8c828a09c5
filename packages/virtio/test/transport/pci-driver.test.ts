import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test, vi } from "vitest";
import { MODERN_PCI_FEATURES } from "virtio/driver/features";
import { readCapabilities } from "virtio/driver/pci-capabilities";
import { PciConfig } from "virtio/driver/pci-config";
import { DRIVER_RING_FEATURES, DriverSession } from "virtio/driver/session";
import {
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_RESET,
  featureBits,
} from "virtio/spec/core";
import { commonConfigViolations, type Access } from "./driver-rules.ts";
import { live, notifConfigData, pciMachine, rings, V1 } from "./driver-life.ts";
import { echoDevice } from "./support.ts";

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
      const { watched, transport, structure, accesses } = pciMachine({ features: V1 });
      const { base } = structure(1);
      watched.lie = ({ kind, address }) => (kind === "read" && address === base + 4 ? 0xffffffff : undefined);
      await DriverSession.open(transport, { wanted: 0n }).catch(() => undefined);
      const words = accesses(1).filter(({ kind, address }) => kind === "write" && address === 12);
      const accepted = words.reduce((sum, { value }, i) => sum | (BigInt(value) << BigInt(32 * i)), 0n);
      expect(words).toHaveLength(2);
      expect(accepted & ~MODERN_PCI_FEATURES).toBe(0n);
      expect(accepted & DRIVER_RING_FEATURES).toBe(DRIVER_RING_FEATURES);
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

  test("MSI-X turns INTx off, INTx turns it on; vectors are mapped again after a reset", async () => {
    for (const interrupts of ["msix", "intx"] as const) {
      const { plugged, transport } = pciMachine({}, { interrupts });
      expect((plugged.fn.readConfig(4, 2) & 0x400) !== 0).toBe(interrupts === "msix");
      for (let life = 0; life < 2; life++) {
        const session = await DriverSession.open(transport, { wanted: 0n });
        let changes = 0;
        session.onConfigChange = () => void changes++;
        session.ready();
        plugged.instance.configChanged();
        expect(changes).toBe(1);
      }
    }
  });

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
