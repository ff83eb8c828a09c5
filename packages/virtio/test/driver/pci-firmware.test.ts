import { expect, test } from "vitest";
import type { AccessSize } from "virtio/bus/types";
import { WindowAllocator } from "virtio/driver/pci-bars";
import { setUpPci } from "virtio/driver/pci-firmware";
import type { PciAddress, PciConfigAccess } from "virtio/driver/platform";

/** A function's configuration space; with `behind`, a bridge. */
interface Fake {
  readonly device: number;
  readonly fn?: number;
  readonly pin?: number;
  readonly behind?: readonly Fake[];
  readonly bytes: Uint8Array;
}

function fake(device: number, rest: Partial<Omit<Fake, "device" | "bytes">> = {}): Fake {
  const bytes = new Uint8Array(256);
  bytes.set([0xf4, 0x1a, 0x44, 0x10]);
  bytes[0x0e] = (rest.behind === undefined ? 0 : 1) | (rest.fn === 0 ? 0x80 : 0);
  bytes[0x3d] = rest.pin ?? 0;
  return { device, ...rest, bytes };
}

/** A bridge passes accesses on to the bus whose number it was given. */
class FakeBuses implements PciConfigAccess {
  readonly #root: readonly Fake[];

  constructor(root: readonly Fake[]) {
    this.#root = root;
  }

  readConfig(at: PciAddress, offset: number, size: AccessSize): number {
    const bytes = this.#find(at)?.bytes;
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + (bytes?.[offset + i] ?? 0xff);
    return value;
  }

  writeConfig(at: PciAddress, offset: number, size: AccessSize, value: number): void {
    const bytes = this.#find(at)?.bytes;
    for (let i = 0; i < size && bytes !== undefined; i++) bytes[offset + i] = value >>> (8 * i);
  }

  #find(at: PciAddress): Fake | undefined {
    return this.#bus(at.bus, 0, this.#root)?.find(
      ({ device, fn = 0 }) => device === at.device && fn === at.function,
    );
  }

  #bus(wanted: number, number: number, functions: readonly Fake[]): readonly Fake[] | undefined {
    if (wanted === number) return functions;
    for (const { behind, bytes } of functions) {
      const [secondary = 0, subordinate = 0] = [bytes[0x19], bytes[0x1a]];
      if (behind === undefined || secondary === 0 || wanted < secondary || wanted > subordinate) continue;
      return this.#bus(wanted, secondary, behind);
    }
    return undefined;
  }
}

const u16 = (bytes: Uint8Array, at: number): number => (bytes[at] ?? 0) + (bytes[at + 1] ?? 0) * 256;

test("buses are numbered depth first, and bridges know what is behind them", () => {
  const [inner, outer, second] = [
    fake(3, { behind: [fake(0)] }),
    fake(1, { fn: 0, behind: [] }),
    fake(2, { behind: [] }),
  ];
  const first = fake(1, { behind: [inner, fake(4)] });
  const access = new FakeBuses([
    fake(0),
    first,
    { ...outer, device: 5 },
    second,
    fake(5, { fn: 3, behind: [] }),
  ]);
  const windows = setUpPci(access, {
    memory: new WindowAllocator({ base: 0x40000000, length: 0x10000000 }),
    line: () => 9,
  });
  const numbers = ({ bytes }: Fake): number[] => [...bytes.subarray(0x18, 0x1b)];
  expect(numbers(first)).toEqual([0, 1, 2]);
  expect(numbers(inner)).toEqual([1, 2, 2]);
  expect(numbers(second)).toEqual([0, 3, 3]);
  expect(numbers(outer)).toEqual([0, 4, 4]);
  expect([...windows.keys()]).toEqual([0, 1, 2, 3, 4, 5]);
});

test("windows of bridges lie in the window of their bus and beside one another, and there are none when there is no room", () => {
  const bridges = [1, 2].map((device) => fake(device, { behind: [] }));
  const access = new FakeBuses(bridges);
  const windows = setUpPci(access, {
    memory: new WindowAllocator({ base: 0x40100000, length: 0x500000 }),
    io: new WindowAllocator({ base: 0x800, length: 0x1800 }),
    line: () => 9,
  });
  const memory = bridges.map(({ bytes }) => [u16(bytes, 0x20), u16(bytes, 0x22)]);
  expect(memory).toEqual([
    [0x4020, 0x4030],
    [0x4040, 0x4050],
  ]);
  expect(bridges.map(({ bytes }) => [bytes[0x1c], bytes[0x1d]])).toEqual([
    [0x10, 0x10],
    [0xf0, 0],
  ]);
  // Prefetchable windows are closed.
  for (const { bytes } of bridges) expect(u16(bytes, 0x24)).toBeGreaterThan(u16(bytes, 0x26));
  expect(windows.get(1)?.memory?.take(0x1000)).toBe(0x40200000);
  expect(windows.get(1)?.io?.take(0x20)).toBe(0x1000);
  expect(windows.get(2)?.io).toBeUndefined();
});

test("interrupt pins are turned by each bridge they pass", () => {
  const deep = fake(6, { pin: 2 });
  const near = fake(5, { pin: 1 });
  const none = fake(7);
  const access = new FakeBuses([near, none, fake(3, { behind: [fake(2, { behind: [deep] })] })]);
  const asked: [number, number][] = [];
  setUpPci(access, {
    memory: new WindowAllocator({ base: 0x40000000, length: 0x1000000 }),
    line: (device, pin) => {
      asked.push([device, pin]);
      return device * 10 + pin;
    },
  });
  expect(near.bytes[0x3c]).toBe(51);
  // INTB# of device 6 is INTD# of the bridge at device 2, which is INTB# of the one at device 3.
  expect(deep.bytes[0x3c]).toBe(32);
  expect(none.bytes[0x3c]).toBe(0);
  expect(asked).toHaveLength(2);
});

test("a bus full of bridges on every bus comes to an end", () => {
  const all = new Uint8Array(256);
  all[0x0e] = 0x81;
  let accesses = 0;
  const endless: PciConfigAccess = {
    readConfig: (_at, offset) => {
      accesses++;
      return all[offset] ?? 0;
    },
    writeConfig: () => undefined,
  };
  const windows = setUpPci(endless, { memory: new WindowAllocator({ base: 0, length: 0 }), line: () => 0 });
  expect(windows.size).toBe(256);
  expect(accesses).toBeLessThan(256 * 256 * 10);
});
