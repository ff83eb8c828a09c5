import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import type { OpenPciOptions } from "virtio/driver/pci-open";
import { DriverSession } from "virtio/driver/session";
import { VIRTIO_F_NOTIF_CONFIG_DATA, featureBits } from "virtio/spec/core";
import type { VirtioPciOptions } from "virtio/transport/pci/options";
import { echoDevice, PciRig } from "./support.ts";

const MMIO = SUPPORTED_CORE_FEATURES & ~featureBits(VIRTIO_F_NOTIF_CONFIG_DATA);

type Plugged = ReturnType<InProcessMachine["plugPci"]> | ReturnType<InProcessMachine["plugMmio"]>;

function registersOf(plugged: Plugged): { save(): object; restore(state: unknown): void } {
  return "fn" in plugged ? plugged.fn : plugged.registers;
}

/** Two machines alike; what the first one's device knows goes to the second, whose driver does not notice. */
describe("a device that is saved in one machine and restored in another goes on", () => {
  const ways: readonly [string, (machine: InProcessMachine) => Plugged, OpenPciOptions?][] = [
    ["PCI with MSI-X", (machine) => machine.plugPci(echoDevice(), { features: SUPPORTED_CORE_FEATURES })],
    ["PCI with INTx", (machine) => machine.plugPci(echoDevice(), { msixVectors: 0, modernBar: "io" })],
    [
      "PCI legacy",
      (machine) => machine.plugPci(echoDevice(), { mode: "transitional" }),
      { interface: "legacy" },
    ],
    ["MMIO", (machine) => machine.plugMmio(echoDevice(), { features: MMIO })],
    ["MMIO legacy", (machine) => machine.plugMmio(echoDevice(), { version: 1 })],
  ];

  test.each(ways)("%s", async (_, plug, open) => {
    const one = new InProcessMachine();
    const two = new InProcessMachine();
    // One RAM and one driver: its registers are those of the machine that is `running`.
    two.memory.replace([{ gpa: 0, bytes: one.ram }]);
    let running = one;
    const { bus } = one.platform;
    const through = { read: bus.read.bind(bus), write: bus.write.bind(bus) };
    const old = plug(one);
    const fresh = plug(two);
    bus.read = (space, address, size) =>
      running === one ? through.read(space, address, size) : two.platform.bus.read(space, address, size);
    bus.write = (space, address, size, value) =>
      running === one
        ? through.write(space, address, size, value)
        : two.platform.bus.write(space, address, size, value);
    // Interrupts too: lines and messages of both machines have the same handlers.
    const share = one.platform.interrupts;
    const connect = share.connectLine.bind(share);
    share.connectLine = (line, handler) => {
      two.interrupts.connectLine(line, handler);
      return connect(line, handler);
    };
    const allocate = share.allocateMessage?.bind(share);
    share.allocateMessage = (handler) => {
      two.interrupts.allocateMessage?.(handler);
      return allocate?.(handler);
    };
    const transport = "fn" in old ? old.open(open) : old.open();
    const session = await DriverSession.open(transport, { wanted: 0n });
    const queue = session.addQueue(0, 8);
    session.ready();
    const gpa = transport.memory.allocate(32, 16);
    const roundTrip = async (value: number): Promise<void> => {
      one.ram.fill(value, gpa, gpa + 8);
      expect(await queue.request([{ gpa, length: 4 }], [{ gpa: gpa + 8, length: 4 }])).toBe(4);
      expect(one.ram[gpa + 8]).toBe(value);
    };
    for (let i = 0; i < 13; i++) await roundTrip(i);

    await old.instance.pause();
    const saved = structuredClone({ instance: old.instance.save(), registers: registersOf(old).save() });
    fresh.instance.restore(saved.instance);
    registersOf(fresh).restore(saved.registers);
    fresh.instance.resume();
    // The generation moves on; all else is as it was.
    expect({ ...registersOf(fresh).save(), generation: 0 }).toEqual({ ...saved.registers, generation: 0 });
    running = two;
    const before = two.interrupts.delivered;
    for (let i = 20; i < 40; i++) await roundTrip(i);
    expect(two.interrupts.delivered).toBeGreaterThan(before);
    await session.close();
    expect(fresh.instance.status).toBe(0);
  });
});

describe("PCI registers", () => {
  test(
    clause(
      "dev.pci.common-cfg",
      "selects, vectors, BARs, MSI-X, ISR and INTx come back; generation moves on",
    ),
    () => {
      const options: VirtioPciOptions = { mode: "transitional" };
      const one = new PciRig(echoDevice(), options);
      one.fn.writeConfig(0x10, 4, 0xc000);
      one.fn.writeConfig(0x20, 4, 0xe0000000);
      one.fn.writeConfig(4, 2, 7);
      one.setCommon(0x00, 4, 1);
      one.setCommon(0x08, 4, 3);
      one.setCommon(0x16, 2, 1);
      one.setCommon(0x10, 2, 2);
      one.setCommon(0x1a, 2, 1);
      one.readBar(4, 0x2000, 1);
      one.instance.configChanged();
      const two = new PciRig(echoDevice(), options);
      two.fn.restore(structuredClone(one.fn.save()));
      expect(two.pin).toBe(true);
      expect(two.mapped[0]).toBe(0xc000);
      expect(two.mapped[4]).toBe(0xe0000000);
      expect([two.common(0, 4), two.common(8, 4), two.common(0x16, 2)]).toEqual([1, 3, 1]);
      expect([two.common(0x10, 2), two.common(0x1a, 2)]).toEqual([2, 1]);
      expect(two.common(0x15, 1)).not.toBe(one.common(0x15, 1));
      expect(two.readBar(4, 0x1000, 1)).toBe(2);
      expect(two.pin).toBe(false);
    },
  );

  test("a state that is not of such a function is refused whole", () => {
    const rig = new PciRig(echoDevice());
    const good = rig.fn.save();
    const before = JSON.stringify(rig.fn.save());
    const bad: unknown[] = [
      undefined,
      null,
      17,
      [],
      {},
      { ...good, version: 2 },
      { ...good, isr: 256 },
      { ...good, isr: -1 },
      { ...good, configVector: 0x10000 },
      { ...good, queueVectors: [0] },
      { ...good, queueVectors: [0, "1"] },
      { ...good, queueVectors: "00" },
      { ...good, generation: 1.5 },
      { ...good, common: undefined },
      { ...good, common: { ...good.common, queueSelect: 0x10000 } },
      { ...good, common: { ...good.common, deviceFeatureSelect: NaN } },
      { ...good, legacy: { queueSelect: 0 } },
      { ...good, fn: {} },
      { ...good, fn: { ...good.fn, config: good.fn.config.slice(2) } },
      { ...good, fn: { ...good.fn, msix: undefined } },
      new PciRig(echoDevice(), { mode: "transitional" }).fn.save(),
      new PciRig(echoDevice({ queues: 3 })).fn.save(),
      new PciRig(echoDevice({ id: 7 })).fn.save(),
    ];
    for (const state of bad) {
      expect(() => rig.fn.restore(state), JSON.stringify(state)).toThrow(Error);
      expect(JSON.stringify(rig.fn.save())).toBe(before);
    }
    rig.fn.restore(good);
  });

  test("vectors and ISR bits that cannot be become none", () => {
    const rig = new PciRig(echoDevice());
    rig.fn.restore({ ...rig.fn.save(), isr: 0xff, configVector: 77, queueVectors: [3, 2] });
    expect(rig.fn.save()).toMatchObject({ isr: 3, configVector: 0xffff, queueVectors: [0xffff, 2] });
  });

  test("any JSON is taken or refused, never half", () => {
    fc.assert(
      fc.property(
        fc.jsonValue(),
        fc.constantFrom("version", "fn", "isr", "queueVectors", "common", "generation"),
        (junk, key) => {
          const rig = new PciRig(echoDevice());
          const before = JSON.stringify(rig.fn.save());
          try {
            rig.fn.restore({ ...rig.fn.save(), [key]: junk });
          } catch (error) {
            expect(error).toBeInstanceOf(Error);
            expect(error).not.toBeInstanceOf(TypeError);
            expect(JSON.stringify(rig.fn.save())).toBe(before);
          }
        },
      ),
    );
  });
});

describe("MMIO registers", () => {
  test("a state that is not of such a device is refused whole", () => {
    const machine = new InProcessMachine();
    const { registers } = machine.plugMmio(echoDevice(), {});
    const good = registers.save();
    for (const state of [
      undefined,
      null,
      {},
      { ...good, version: 0 },
      { ...good, interface: 1 },
      { ...good, queueSel: -1 },
      { ...good, queueSel: 2 ** 32 },
      { ...good, interruptStatus: 4 },
      { ...good, queueAlign: [] },
      { ...good, queueAlign: [0, "x"] },
    ]) {
      expect(() => registers.restore(state), JSON.stringify(state)).toThrow(Error);
      expect(registers.save()).toEqual(good);
    }
    registers.restore({ ...good, interruptStatus: 2, queueSel: 5 });
    expect(machine.interrupts.isAsserted(24)).toBe(true);
    expect(registers.read(0x60, 4)).toBe(2);
  });
});
