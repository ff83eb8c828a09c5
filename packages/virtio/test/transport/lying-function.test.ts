import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { readBars, assignBars, WindowAllocator } from "virtio/driver/pci-bars";
import { readCapabilities } from "virtio/driver/pci-capabilities";
import { PciConfig } from "virtio/driver/pci-config";
import { openPci } from "virtio/driver/pci-open";
import { DriverSession } from "virtio/driver/session";
import { WatchedPlatform } from "./driver-rules.ts";
import { echoDevice } from "./support.ts";

const AT = { bus: 0, device: 0, function: 0 };

/** A function that is nothing but 256 bytes which anybody can write. */
function bytesConfig(bytes: Uint8Array): PciConfig {
  const read = (offset: number, size: number): number => {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + (bytes[offset + i] ?? 0xff);
    return value;
  };
  const write = (offset: number, size: number, value: number): void => {
    for (let i = 0; i < size; i++) if (offset + i < bytes.length) bytes[offset + i] = value >>> (8 * i);
  };
  return new PciConfig(
    {
      readConfig: (_, offset, size) => read(offset, size),
      writeConfig: (_, offset, size, value) => write(offset, size, value),
    },
    AT,
  );
}

describe("the capability walk", () => {
  test("ends, whatever the bytes are, and gives only what can be", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 256, maxLength: 256 }), (bytes) => {
        bytes[6] = 0x10;
        // Make chains of capabilities likely.
        bytes[0x34] = 0x40 + ((bytes[0x34] ?? 0) % 24) * 8;
        for (let at = 0x40; at < 256; at += 8) {
          bytes[at] = (bytes[at] ?? 0) % 3 === 0 ? 0x11 : 9;
          bytes[at + 1] = 0x40 + ((bytes[at + 1] ?? 0) % 24) * 8;
          bytes[at + 2] = (bytes[at + 2] ?? 0) % 40;
          bytes[at + 3] = (bytes[at + 3] ?? 0) % 12;
        }
        const { structures, vendorData, msix } = readCapabilities(bytesConfig(bytes));
        expect(structures.length + vendorData.length).toBeLessThanOrEqual(48);
        for (const { type, bar, offset, length } of structures) {
          expect([1, 2, 3, 4, 5, 8]).toContain(type);
          if (type !== 5) expect(bar).toBeLessThan(6);
          expect(offset).toBeGreaterThanOrEqual(0);
          expect(length).toBeGreaterThanOrEqual(0);
        }
        if (msix !== undefined) expect(msix.bar).toBeLessThan(6);
      }),
    );
  });

  /** A list of capabilities: type, bar, cap_len. */
  function list(...caps: readonly { type: number; bar?: number; length?: number; id?: number }[]): PciConfig {
    const bytes = new Uint8Array(256);
    bytes[6] = 0x10;
    bytes[0x34] = 0x40;
    caps.forEach(({ type, bar = 0, length = 24, id = 9 }, i) => {
      const at = 0x40 + 24 * i;
      bytes.set([id, i + 1 < caps.length ? at + 24 : 0, length, type, bar, 0, 0, 0, 0, i], at);
    });
    return bytesConfig(bytes);
  }

  test(clause("drv.pci.caps", "reserved types and BARs are ignored, longer capabilities accepted"), () => {
    const { structures } = readCapabilities(
      list(
        { type: 0 },
        { type: 6 },
        { type: 7 },
        { type: 10 },
        { type: 1, bar: 6 },
        { type: 1, bar: 5, length: 23 },
        { type: 1, bar: 4 },
      ),
    );
    expect(structures.map(({ type, bar }) => [type, bar])).toEqual([
      [1, 5],
      [1, 4],
    ]);
    expect(
      readCapabilities(list({ type: 1, length: 15 }, { type: 2, length: 19 }, { type: 8, length: 23 }))
        .structures,
    ).toEqual([]);
    expect(readCapabilities(list({ type: 1, length: 250 })).structures).toEqual([]);
  });

  test("no capability list is no capabilities", () => {
    const config = list({ type: 1 });
    config.write(6, 1, 0);
    expect(readCapabilities(config)).toEqual({ structures: [], vendorData: [], msix: undefined });
  });
});

describe("BARs", () => {
  test("of any answers have a size that is a power of two, or are absent", () => {
    const dword = fc.oneof(
      fc.nat({ max: 0xffffffff }),
      fc.nat({ max: 31 }).map((bits) => (0xffffffff << bits) >>> 0),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(dword, dword), { minLength: 6, maxLength: 6 }), (registers) => {
        const state = registers.map(([value]) => value);
        const config = new PciConfig(
          {
            readConfig: (_, offset) => state[(offset - 0x10) / 4] ?? 0,
            writeConfig: (_, offset, _size, value) => {
              const index = (offset - 0x10) / 4;
              const register = registers[index];
              // Sizing gives the second number, with the type bits of the first.
              if (register !== undefined)
                state[index] =
                  value === 0xffffffff ? ((register[1] & ~15) | (register[0] & 15)) >>> 0 : value;
            },
          },
          AT,
        );
        const bars = readBars(config);
        for (const { size, address, index } of bars) {
          expect(Number.isInteger(Math.log2(size))).toBe(true);
          expect(address).toBeLessThan(2 ** 53);
          expect(index).toBeLessThan(6);
        }
        assignBars(
          config,
          new WindowAllocator({ base: 0xe0000000, length: 0x1000000 }),
          new WindowAllocator({ base: 0x1000, length: 0x1000 }),
        );
      }),
    );
  });

  test("a window gives out aligned pieces that do not overlap, until it is used up", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat({ max: 20 }).map((bits) => 2 ** bits)),
        fc.nat({ max: 10_000 }),
        (sizes, base) => {
          const window = new WindowAllocator({ base, length: 0x100000 });
          let end = base;
          for (const size of sizes) {
            const at = window.take(size);
            if (at === undefined) continue;
            expect(at % size).toBe(0);
            expect(at).toBeGreaterThanOrEqual(end);
            end = at + size;
            expect(end).toBeLessThanOrEqual(base + 0x100000);
          }
        },
      ),
    );
  });
});

describe("a device whose registers lie", () => {
  function watch() {
    const machine = new InProcessMachine();
    const { at } = machine.plugPci(echoDevice(), {});
    const watched = new WatchedPlatform(machine.platform);
    const { memoryWindow, ioWindow } = machine;
    return { watched, open: () => openPci(watched.platform, at, { memoryWindow, ioWindow }) };
  }

  test("about its notify address is refused", async () => {
    const { watched, open } = watch();
    const session = await DriverSession.open(open(), { wanted: 0n });
    watched.lie = ({ kind, address, size }) =>
      kind === "read" && size === 2 && (address & 0xfff) === 30 ? 0xffff : undefined;
    expect(() => session.addQueue(0)).toThrow(/notify address/);
  });

  test("and never finishes a queue reset is waited for as long as somebody waits", async () => {
    const { watched, open } = watch();
    const transport = open();
    const session = await DriverSession.open(transport, { wanted: 0n });
    session.addQueue(0);
    watched.lie = ({ kind, address, size }) =>
      kind === "read" && size === 2 && (address & 0xfff) === 58 ? 1 : undefined;
    let asked = 0;
    const stop = (): Error | undefined => (++asked > 2000 ? new Error("nobody waits any more") : undefined);
    await expect(transport.resetQueue(0, stop)).rejects.toThrow("nobody waits any more");
  });

  test("about where a structure is, is no modern device", () => {
    const machine = new InProcessMachine();
    const { at } = machine.plugPci(echoDevice(), {});
    const watched = new WatchedPlatform(machine.platform);
    const { structures } = readCapabilities(new PciConfig(machine.platform.pci, at));
    const common = structures.find(({ type }) => type === 1)?.capability ?? 0;
    watched.lie = ({ space, address, kind }) =>
      space === "config" && kind === "read" && address === common + 8 ? 0x7ffffff0 : undefined;
    const { memoryWindow, ioWindow } = machine;
    expect(() => openPci(watched.platform, at, { memoryWindow, ioWindow, interface: "modern" })).toThrow(
      /legacy/,
    );
    expect(() => openPci(watched.platform, at, { memoryWindow, ioWindow })).toThrow(/neither/);
    expect(() => openPci(machine.platform, { ...at, device: 9 }, {})).toThrow(/no virtio function/);
  });

  afterEach(() => void vi.unstubAllGlobals());

  test("in any register still leaves the driver with an answer or an error", async () => {
    // A device that lies about its status for ever is waited for until somebody loses patience.
    vi.stubGlobal("setTimeout", (task: () => void) => queueMicrotask(task));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat({ max: 0xffffffff }), { minLength: 1, maxLength: 40 }),
        fc.nat({ max: 200 }),
        async (lies, start) => {
          const { watched, open } = watch();
          let count = 0;
          let accesses = 0;
          const patience = new AbortController();
          watched.lie = (access) => {
            if (++accesses > 200_000) throw new Error("endless");
            if (accesses === 10_000) patience.abort(new Error("no patience"));
            if (access.kind !== "read" || count++ < start) return undefined;
            const lie = lies[(count - start) % lies.length] ?? 0;
            return access.size === 4 ? lie : access.size === 2 ? lie & 0xffff : lie & 0xff;
          };
          try {
            const session = await DriverSession.open(open(), { wanted: 3n, signal: patience.signal });
            const queue = session.addQueue(0);
            session.ready();
            const gpa = session.memory.allocate(16, 16);
            queue.post([{ gpa, length: 8 }], [{ gpa: gpa + 8, length: 8 }], () => {});
            queue.kick();
            await session.close(patience.signal);
          } catch (error) {
            expect(error).toBeInstanceOf(Error);
            expect(error).not.toBeInstanceOf(TypeError);
            expect(String(error)).not.toContain("endless");
          }
        },
      ),
    );
  });
});
