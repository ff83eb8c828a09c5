import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AddressSpace } from "virtio/bus/address-space";
import { StandardPciFunction, type PciIdentity } from "virtio/bus/pci/function";
import { PciHost } from "virtio/bus/pci/host";
import { MsixTable } from "virtio/bus/pci/msix";
import * as pci from "virtio/bus/pci/registers";
import type { AccessSize, IoHandler, PciBar } from "virtio/bus/types";
import { readBars } from "virtio/driver/pci-bars";
import { ecamConfigAccess, PciConfig, portConfigAccess } from "virtio/driver/pci-config";

const identity: PciIdentity = {
  vendorId: 0x1af4,
  deviceId: 0x1044,
  revision: 1,
  classCode: 0x123456,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x1100,
  interruptPin: 1,
};

interface Access {
  offset: number;
  size: number;
  value: number | undefined;
}

function recorder(): IoHandler & { readonly log: Access[] } {
  const log: Access[] = [];
  return {
    log,
    read: (offset, size) => {
      log.push({ offset, size, value: undefined });
      return 0xa5;
    },
    write: (offset, size, value) => void log.push({ offset, size, value }),
  };
}

function machine() {
  const memory = new AddressSpace();
  const io = new AddressSpace();
  const lines: { device: number; pin: number; level: boolean }[] = [];
  const messages: { address: number; data: number }[] = [];
  const host = new PciHost({
    memory,
    io,
    interruptLine: (device, pin) => ({ set: (level) => void lines.push({ device, pin, level }) }),
    msi: { send: (address, data) => void messages.push({ address, data }) },
  });
  return { memory, io, host, lines, messages };
}

function bar(index: number, kind: PciBar["kind"], size: number, handler: IoHandler = recorder()): PciBar {
  return { index, kind, size, handler };
}

describe("base address registers", () => {
  const shapes: readonly PciBar[] = [
    bar(0, "io", 4),
    bar(0, "io", 256),
    bar(0, "memory32", 16),
    bar(1, "memory32", 0x20000),
    bar(5, "memory32", 2 ** 31),
    bar(0, "memory64", 4096),
    bar(4, "memory64", 2 ** 32),
    bar(2, "memory64", 2 ** 40),
  ];
  test.each(shapes)("$kind of $size bytes at index $index is found by sizing", (shape) => {
    const fn = new StandardPciFunction(identity);
    fn.addBar(shape);
    const config = new PciConfig(
      { readConfig: (_, o, s) => fn.readConfig(o, s), writeConfig: (_, o, s, v) => fn.writeConfig(o, s, v) },
      { bus: 0, device: 0, function: 0 },
    );
    expect(readBars(config)).toEqual([
      {
        index: shape.index,
        space: shape.kind === "io" ? "io" : "memory",
        wide: shape.kind === "memory64",
        size: shape.size,
        address: 0,
      },
    ]);
    expect(fn.readConfig(pci.PCI_BAR0 + 4 * shape.index, 4) & 0xf).toBe(
      shape.kind === "io" ? 1 : shape.kind === "memory64" ? 4 : 0,
    );
  });

  test.each([
    bar(0, "io", 2),
    bar(0, "memory32", 8),
    bar(0, "memory32", 3000),
    bar(5, "memory64", 4096),
    bar(6, "io", 16),
    bar(0, "memory32", 2 ** 32),
  ])("$kind of $size bytes at index $index cannot be", (shape) => {
    expect(() => new StandardPciFunction(identity).addBar(shape)).toThrow(RangeError);
  });

  test("two BARs cannot share a register", () => {
    const fn = new StandardPciFunction(identity);
    fn.addBar(bar(0, "memory64", 4096));
    expect(() => fn.addBar(bar(1, "memory32", 4096))).toThrow(RangeError);
  });

  test("are decoded where they point to while the command register says so", () => {
    const { memory, io, host } = machine();
    const fn = new StandardPciFunction(identity);
    const ports = recorder();
    const registers = recorder();
    fn.addBar(bar(0, "io", 32, ports));
    fn.addBar(bar(4, "memory64", 4096, registers));
    host.plug(fn);
    fn.writeConfig(pci.PCI_BAR0, 4, 0x6001);
    fn.writeConfig(pci.PCI_BAR0 + 16, 4, 0xe0001000);
    fn.writeConfig(pci.PCI_BAR0 + 20, 4, 0x12);
    const high = 0x12_e000_1000;
    expect(memory.read(high, 4)).toBe(0xffffffff);
    fn.writeConfig(pci.PCI_COMMAND, 2, pci.PCI_COMMAND_MEMORY);
    expect(memory.read(high, 4)).toBe(0xa5);
    expect(io.read(0x6000, 1)).toBe(0xff);
    fn.writeConfig(pci.PCI_COMMAND, 2, pci.PCI_COMMAND_IO);
    expect(memory.read(high, 4)).toBe(0xffffffff);
    io.write(0x601c, 2, 0x1234);
    expect(ports.log).toEqual([{ offset: 0x1c, size: 2, value: 0x1234 }]);
    // Moved while decoded.
    fn.writeConfig(pci.PCI_BAR0, 4, 0x7001);
    expect(io.read(0x6000, 1)).toBe(0xff);
    expect(io.read(0x7000, 1)).toBe(0xa5);
    fn.reset();
    expect(io.read(0x7000, 1)).toBe(0xff);
    expect(fn.readConfig(pci.PCI_BAR0, 4)).toBe(1);
  });

  test("an address of 0, and the answer to sizing, are no addresses", () => {
    const { memory, io, host } = machine();
    const fn = new StandardPciFunction(identity);
    fn.addBar(bar(0, "io", 32));
    fn.addBar(bar(1, "memory32", 4096));
    fn.addBar(bar(2, "memory64", 4096));
    host.plug(fn);
    fn.writeConfig(pci.PCI_COMMAND, 2, pci.PCI_COMMAND_IO | pci.PCI_COMMAND_MEMORY);
    expect([io.read(0, 1), memory.read(0, 1)]).toEqual([0xff, 0xff]);
    for (const register of [0x10, 0x14, 0x18]) fn.writeConfig(register, 4, 0xffffffff);
    expect([io.isFree(0, 0x10000), memory.isFree(0, 2 ** 33)]).toEqual([true, true]);
    fn.writeConfig(0x1c, 4, 0xffffffff);
    expect(memory.isFree(0, 2 ** 53 - 1)).toBe(true);
    fn.writeConfig(0x18, 4, 0);
    fn.writeConfig(0x1c, 4, 1);
    expect(memory.read(2 ** 32, 1)).toBe(0xa5);
  });

  test("one on top of another waits until the place is free", () => {
    const { memory, host } = machine();
    const first = new StandardPciFunction(identity);
    const second = new StandardPciFunction(identity);
    first.addBar(bar(0, "memory32", 4096, { ...recorder(), read: () => 1 }));
    second.addBar(bar(0, "memory32", 4096, { ...recorder(), read: () => 2 }));
    for (const fn of [first, second]) {
      host.plug(fn);
      fn.writeConfig(pci.PCI_BAR0, 4, 0xe0000000);
      fn.writeConfig(pci.PCI_COMMAND, 2, pci.PCI_COMMAND_MEMORY);
    }
    expect(memory.read(0xe0000000, 1)).toBe(1);
    first.writeConfig(pci.PCI_BAR0, 4, 0xe0001000);
    expect(memory.read(0xe0000000, 1)).toBe(2);
    expect(memory.read(0xe0001000, 1)).toBe(1);
  });
});

describe("configuration space", () => {
  test("identity, and what software cannot change", () => {
    const fn = new StandardPciFunction(identity);
    const before = Array.from({ length: 64 }, (_, i) => fn.readConfig(i, 1));
    for (let i = 0; i < 64; i += 4) fn.writeConfig(i, 4, 0xffffffff);
    for (let i = 0; i < 64; i += 4) fn.writeConfig(i, 4, 0);
    expect(Array.from({ length: 64 }, (_, i) => fn.readConfig(i, 1))).toEqual(before);
    expect(fn.readConfig(0, 4)).toBe(0x10441af4);
    expect(fn.readConfig(8, 4)).toBe(0x12345601);
    expect(fn.readConfig(0x2c, 4)).toBe(0x11001af4);
    expect(fn.readConfig(252, 4)).toBe(0);
    expect(fn.readConfig(1000, 4)).toBe(0);
  });

  test("capabilities are one list; too many are refused", () => {
    const fn = new StandardPciFunction(identity);
    expect(fn.readConfig(pci.PCI_STATUS, 2) & pci.PCI_STATUS_CAPABILITIES).toBe(0);
    const offsets = [5, 10, 2].map((length) => fn.addCapability(9, new Uint8Array(length)));
    expect(fn.readConfig(pci.PCI_STATUS, 2) & pci.PCI_STATUS_CAPABILITIES).not.toBe(0);
    const walked: number[] = [];
    for (let at = fn.readConfig(0x34, 1); at !== 0; at = fn.readConfig(at + 1, 1)) walked.push(at);
    expect(walked).toEqual(offsets);
    expect(offsets.every((offset) => offset % 4 === 0)).toBe(true);
    expect(() => fn.addCapability(9, new Uint8Array(200))).toThrow(RangeError);
  });

  test("both mechanisms reach it, and nothing answers for what is not there", () => {
    const { host, io, memory } = machine();
    const fn = new StandardPciFunction(identity);
    host.plug(fn, 5);
    io.map(0xcf8, 8, host.ports);
    memory.map(0xf0000000, 0x100000, host.ecam);
    const bus = {
      read: (space: "io" | "memory", address: number, size: AccessSize) =>
        (space === "io" ? io : memory).read(address, size),
      write: (space: "io" | "memory", address: number, size: AccessSize, value: number) =>
        (space === "io" ? io : memory).write(address, size, value),
    };
    for (const access of [portConfigAccess(bus), ecamConfigAccess(bus, 0xf0000000)]) {
      expect(access.readConfig({ bus: 0, device: 5, function: 0 }, 2, 2)).toBe(0x1044);
      expect(access.readConfig({ bus: 0, device: 5, function: 1 }, 0, 4)).toBe(0xffffffff);
      expect(access.readConfig({ bus: 0, device: 4, function: 0 }, 0, 2)).toBe(0xffff);
      access.writeConfig({ bus: 0, device: 5, function: 0 }, 0x3c, 1, 0x4b);
      expect(access.readConfig({ bus: 0, device: 5, function: 0 }, 0x3c, 1)).toBe(0x4b);
      access.writeConfig({ bus: 0, device: 5, function: 0 }, 0x3c, 1, 0);
    }
    expect(portConfigAccess(bus).readConfig({ bus: 1, device: 5, function: 0 }, 0, 4)).toBe(0xffffffff);
    io.write(0xcf8, 4, 0x2800);
    expect(io.read(0xcfc, 4)).toBe(0xffffffff);
    expect(() => host.plug(new StandardPciFunction(identity), 5)).toThrow(RangeError);
    expect(() => host.plug(new StandardPciFunction(identity), 32)).toThrow(RangeError);
  });
});

describe("interrupts", () => {
  test("INTx: Interrupt Status, and the pin unless it is disabled", () => {
    const { host, lines } = machine();
    const fn = new StandardPciFunction(identity);
    host.plug(fn, 3);
    const status = (): boolean => (fn.readConfig(pci.PCI_STATUS, 2) & pci.PCI_STATUS_INTERRUPT) !== 0;
    fn.setInterrupt(true);
    expect(status()).toBe(true);
    expect(lines).toEqual([{ device: 3, pin: 1, level: true }]);
    fn.writeConfig(pci.PCI_COMMAND, 2, pci.PCI_COMMAND_INTX_DISABLE);
    expect(status()).toBe(true);
    expect(lines.at(-1)?.level).toBe(false);
    fn.writeConfig(pci.PCI_COMMAND, 2, 0);
    expect(lines.at(-1)?.level).toBe(true);
    fn.setInterrupt(false);
    expect(status()).toBe(false);
    expect(lines.at(-1)?.level).toBe(false);
    expect(lines).toHaveLength(4);
  });

  function msixFunction(vectors: number) {
    const { host, messages, lines } = machine();
    const fn = new StandardPciFunction(identity);
    const table = new MsixTable(vectors);
    fn.addBar(bar(1, "memory32", table.barSize, table));
    fn.addMsix(table, 1);
    host.plug(fn);
    const capability = fn.readConfig(0x34, 1);
    return { fn, table, messages, lines, capability };
  }
  const ENABLE = pci.PCI_MSIX_CONTROL_ENABLE;
  const MASK_ALL = pci.PCI_MSIX_CONTROL_MASK_ALL;

  test("the MSI-X capability tells size, table and pending bits", () => {
    for (const vectors of [1, 3, 2048]) {
      const { fn, table, capability } = msixFunction(vectors);
      expect(fn.readConfig(capability, 1)).toBe(0x11);
      expect(fn.readConfig(capability + 2, 2)).toBe(vectors - 1);
      expect(fn.readConfig(capability + 4, 4)).toBe(1);
      expect(fn.readConfig(capability + 8, 4)).toBe(table.pbaOffset + 1);
      expect(table.pbaOffset).toBeGreaterThanOrEqual(vectors * 16);
      expect(table.barSize).toBeGreaterThanOrEqual(table.pbaOffset + vectors / 8);
      expect(table.read(12, 4)).toBe(1);
    }
    expect(() => new MsixTable(0)).toThrow(RangeError);
    expect(() => new MsixTable(2049)).toThrow(RangeError);
  });

  test("a message is sent once: at once, or when the last mask in its way falls", () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant("trigger" as const), vector: fc.nat({ max: 4 }) }),
      fc.record({ kind: fc.constant("mask" as const), vector: fc.nat({ max: 4 }), masked: fc.boolean() }),
      fc.record({
        kind: fc.constant("control" as const),
        value: fc.constantFrom(0, ENABLE, MASK_ALL, ENABLE | MASK_ALL),
      }),
      fc.record({ kind: fc.constant("master" as const), on: fc.boolean() }),
    );
    fc.assert(
      fc.property(fc.array(step, { minLength: 30, maxLength: 60 }), (steps) => {
        const { fn, table, messages, capability } = msixFunction(5);
        for (let vector = 0; vector < 5; vector++) {
          table.write(vector * 16, 4, 0xfee00000);
          table.write(vector * 16 + 4, 4, vector);
          table.write(vector * 16 + 8, 4, 0x40 + vector);
        }
        const masked = [true, true, true, true, true];
        const pending = [false, false, false, false, false];
        let enabled = false;
        let allMasked = false;
        let master = false;
        const expected: number[] = [];
        const settle = (): void => {
          for (let v = 0; v < 5; v++) {
            if (!enabled || allMasked || !master || masked[v] === true || pending[v] === false) continue;
            pending[v] = false;
            expected.push(v);
          }
        };
        for (const action of steps) {
          if (action.kind === "trigger") {
            table.trigger(action.vector);
            if (enabled) pending[action.vector] = true;
          } else if (action.kind === "mask") {
            table.write(action.vector * 16 + 12, 4, action.masked ? 0xffffffff : 0xfffffffe);
            masked[action.vector] = action.masked;
          } else if (action.kind === "control") {
            fn.writeConfig(capability + 2, 2, action.value | 0x7ff);
            enabled = (action.value & ENABLE) !== 0;
            allMasked = (action.value & MASK_ALL) !== 0;
          } else {
            fn.writeConfig(pci.PCI_COMMAND, 2, action.on ? pci.PCI_COMMAND_MASTER : 0);
            master = action.on;
          }
          settle();
          const bits = pending.reduce((sum, on, v) => sum + (on ? 2 ** v : 0), 0);
          expect(table.read(table.pbaOffset, 4)).toBe(bits);
          expect(fn.readConfig(capability + 2, 2) & 0x7ff).toBe(4);
          expect(messages).toEqual(
            expected.map((v) => ({ address: 0xfee00000 + v * 2 ** 32, data: 0x40 + v })),
          );
        }
      }),
    );
  });

  test("MSI-X takes the place of INTx", () => {
    const { fn, lines, capability } = msixFunction(1);
    fn.setInterrupt(true);
    fn.writeConfig(capability + 2, 2, ENABLE);
    expect(lines.map(({ level }) => level)).toEqual([true, false]);
    expect(fn.readConfig(pci.PCI_STATUS, 2) & pci.PCI_STATUS_INTERRUPT).toBe(0);
    fn.writeConfig(capability + 2, 2, 0);
    expect(lines.at(-1)?.level).toBe(true);
  });

  test("state comes back whole, and foreign state is refused", () => {
    const one = msixFunction(3);
    one.fn.writeConfig(pci.PCI_BAR0 + 4, 4, 0xe0004000);
    one.fn.writeConfig(pci.PCI_COMMAND, 2, pci.PCI_COMMAND_MEMORY | pci.PCI_COMMAND_MASTER);
    one.table.write(16, 4, 0xfee00000);
    one.table.write(24, 4, 0x77);
    one.fn.writeConfig(one.capability + 2, 2, ENABLE);
    one.table.trigger(1);
    const state = one.fn.save();
    const two = msixFunction(3);
    expect(two.fn.accepts(state)).toBe(true);
    two.fn.restore(state, false);
    two.table.write(28, 4, 0);
    expect(two.messages).toEqual([{ address: 0xfee00000, data: 0x77 }]);
    const broken = state.config.slice();
    broken[0] = 0x12;
    for (const bad of [
      undefined,
      null,
      1,
      {},
      { ...state, config: broken },
      { ...state, config: state.config.slice(1) },
      { ...state, msix: undefined },
      { ...state, msix: { table: new Uint8Array(16), pending: new Uint8Array(8) } },
      { ...state, msix: { table: "", pending: null } },
    ]) {
      expect(two.fn.accepts(bad)).toBe(false);
    }
    expect(msixFunction(4).fn.accepts(state)).toBe(false);
  });
});

test("any access of any width anywhere has an answer", () => {
  const size: fc.Arbitrary<AccessSize> = fc.constantFrom(1, 2, 4);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat({ max: 300 }), size, fc.option(fc.nat({ max: 0xffffffff }))), {
        maxLength: 200,
      }),
      (accesses) => {
        const { host } = machine();
        const fn = new StandardPciFunction(identity);
        const table = new MsixTable(3);
        fn.addBar(bar(1, "memory32", table.barSize, table));
        fn.addBar(bar(2, "memory64", 4096));
        fn.addBar(bar(4, "io", 64));
        fn.addMsix(table, 1);
        host.plug(fn);
        for (const [offset, width, value] of accesses) {
          if (value !== null) fn.writeConfig(offset, width, value);
          const read = fn.readConfig(offset, width);
          expect(read).toBeGreaterThanOrEqual(0);
          expect(read).toBeLessThan(256 ** width);
          table.write(offset * 7, width, value ?? 0);
          expect(table.read(offset * 7, width)).toBeLessThan(256 ** width);
        }
      },
    ),
  );
});
