import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ECAM_BASE, InProcessMachine, PCI_IO, PCI_MEMORY } from "@virtio/testkit/machine";
import type { EntropySource } from "virtio/backends/entropy";
import { deviceNode, pciHostNode } from "virtio/bus/fdt/describe";
import { FdtIndex } from "virtio/bus/fdt/fdt-index";
import { FdtError } from "virtio/bus/fdt/format";
import { readFdt } from "virtio/bus/fdt/read";
import { fdtNode, type FdtNode } from "virtio/bus/fdt/tree";
import { writeFdt } from "virtio/bus/fdt/write";
import { PCI_ECAM_LENGTH } from "virtio/bus/pci/host";
import { entropyDevice } from "virtio/devices/entropy/device";
import { findMmioPlaces, findPciHosts } from "virtio/driver/fdt-discovery";
import { openMmio } from "virtio/driver/mmio-transport";
import { WindowAllocator } from "virtio/driver/pci-bars";
import { ecamConfigAccess } from "virtio/driver/pci-config";
import { findVirtioFunctions } from "virtio/driver/pci-discovery";
import { openPci } from "virtio/driver/pci-open";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { virtioMmioNode } from "virtio/transport/mmio/device-tree";
import { ECAM, MMIO_BASE, MMIO_STEP, machineTree } from "../bus/fdt/machine-tree.ts";

const indexOf = (root: FdtNode): FdtIndex => new FdtIndex(readFdt(writeFdt({ root })));

test("virtio,mmio nodes give the windows and their interrupts, by address", () => {
  const places = findMmioPlaces(indexOf(machineTree(3).root));
  expect(places.map(({ base, length }) => [base, length])).toEqual(
    [0, 1, 2].map((i) => [MMIO_BASE + i * MMIO_STEP, MMIO_STEP]),
  );
  expect(places.map(({ interrupt }) => interrupt?.cells)).toEqual([16, 17, 18].map((spi) => [0, spi, 4]));
  expect(places[0]?.interrupt?.controller.name).toBe("interrupt-controller@8000000");
});

test("a PCI host gives its configuration window, its ranges and the wires of every slot", () => {
  const [host] = findPciHosts(indexOf(machineTree().root));
  expect(host?.ecam).toEqual(ECAM);
  expect([host?.firstBus, host?.lastBus]).toEqual([0, 255]);
  expect(host?.windows).toEqual([
    { space: "io", pci: { base: 0, length: 0x10000 }, base: 0x3eff0000, wide: false, prefetchable: false },
    {
      space: "memory",
      pci: { base: 0x10000000, length: 0x2eff0000 },
      base: 0x10000000,
      wide: false,
      prefetchable: false,
    },
    {
      space: "memory",
      pci: { base: 0x8000000000, length: 0x8000000000 },
      base: 0x8000000000,
      wide: true,
      prefetchable: true,
    },
  ]);
  for (let device = 0; device < 32; device++)
    for (let pin = 1; pin <= 4; pin++)
      expect(host?.interrupt(device, pin)?.cells).toEqual([0, 3 + ((device + pin - 1) % 4), 4]);
});

test("a machine's tree, written and read, leads drivers to its devices", async () => {
  const machine = new InProcessMachine({ config: "ecam" });
  const source: EntropySource = (target) => void target.fill(0x5a);
  const plugged = [0, 1].map(() => machine.plugMmio(entropyDevice(source)));
  machine.plugPci(entropyDevice(source));
  const controller = deviceNode({
    name: "interrupt-controller",
    compatible: ["example,lines"],
    base: 0xc0000000,
    length: 0x1000,
    properties: { "interrupt-controller": [], "#interrupt-cells": [1], phandle: [7] },
  });
  const root = fdtNode("", { "#address-cells": [2], "#size-cells": [2] }, [
    controller,
    ...plugged.map(({ place: { base, length, line } }) =>
      virtioMmioNode(base, length, { controller: 7, cells: [line] }),
    ),
    pciHostNode({
      ecam: { base: ECAM_BASE, length: PCI_ECAM_LENGTH },
      windows: [
        { kind: "io", pci: PCI_IO.base, base: PCI_IO.base, length: PCI_IO.length },
        { kind: "memory32", pci: PCI_MEMORY.base, base: PCI_MEMORY.base, length: PCI_MEMORY.length },
      ],
      interrupt: (device, pin) => ({ controller: 7, cells: [16 + ((device + pin - 1) % 4)] }),
    }),
  ]);
  const index = indexOf(root);
  const { platform } = machine;
  const mmio = findMmioPlaces(index).map(({ base, length, interrupt }) =>
    openMmio(platform, { base, length, line: interrupt?.cells[0] ?? -1 }),
  );
  const [host] = findPciHosts(index);
  if (host === undefined) throw new Error("no PCI host was found");
  const pci = { ...platform, pci: ecamConfigAccess(platform.bus, host.ecam.base) };
  const functions = findVirtioFunctions(pci.pci, host.firstBus).map(({ at }) =>
    openPci(pci, at, {
      memoryWindow: new WindowAllocator(host.windows[1]?.pci ?? PCI_MEMORY),
      interrupts: "intx",
    }),
  );
  expect([mmio.length, functions.length]).toEqual([2, 1]);
  for (const transport of [...mmio, ...functions]) {
    if (transport === undefined) throw new Error("a window holds no device");
    const driver = await EntropyDriver.open(transport);
    const bytes = new Uint8Array(32);
    await driver.read(bytes);
    expect(bytes).toEqual(new Uint8Array(32).fill(0x5a));
    await driver.close();
  }
});

describe("trees of others", () => {
  const gic = { "interrupt-controller": [], "#interrupt-cells": [3], phandle: [1] };
  const wide = { "#address-cells": [2], "#size-cells": [2] };

  test("a device behind a bus with ranges is where the processor sees it", () => {
    const node = fdtNode("virtio@100", { compatible: "virtio,mmio", reg: [0x100, 0x200] });
    const bus = fdtNode(
      "soc",
      { "#address-cells": [1], "#size-cells": [1], ranges: [0, 1, 0x8000000, 0x1000] },
      [node],
    );
    const [place] = findMmioPlaces(indexOf(fdtNode("", wide, [bus])));
    expect(place).toMatchObject({ base: 0x108000100, length: 0x200, interrupt: undefined });
  });

  test("a disabled device is passed over", () => {
    const properties = { compatible: "virtio,mmio", reg: [0, 0x1000, 0, 0x200] };
    const nodes = ["disabled", "okay"].map((status, i) => fdtNode(`virtio@${i}`, { ...properties, status }));
    expect(findMmioPlaces(indexOf(fdtNode("", wide, nodes)))).toHaveLength(1);
  });

  test("interrupts-extended and an interrupt-parent far above lead to the controller", () => {
    const controller = fdtNode("gic", { ...gic, "#address-cells": [0] });
    const device = (name: string, rest: Record<string, readonly number[]>): FdtNode =>
      fdtNode(name, { compatible: "virtio,mmio", reg: [0, 0x1000, 0, 0x200], ...rest });
    const bus = fdtNode("bus", { ...wide, ranges: [] }, [device("a@1000", { interrupts: [0, 9, 1] })]);
    const root = fdtNode("", { ...wide, "interrupt-parent": [1] }, [
      controller,
      bus,
      device("b@1000", { "interrupts-extended": [1, 0, 8, 1] }),
    ]);
    expect(findMmioPlaces(indexOf(root)).map(({ interrupt }) => interrupt?.cells)).toEqual([
      [0, 9, 1],
      [0, 8, 1],
    ]);
  });

  test.each<[string, FdtNode[], RegExp]>([
    [
      "no such phandle",
      [
        fdtNode("v@0", {
          compatible: "virtio,mmio",
          reg: [0, 0, 0, 1],
          interrupts: [1],
          "interrupt-parent": [9],
        }),
      ],
      /no node has the phandle 9/,
    ],
    [
      "no controller",
      [fdtNode("v@0", { compatible: "virtio,mmio", reg: [0, 0, 0, 1], interrupts: [1] })],
      /no interrupt-parent/,
    ],
    [
      "a controller that is none",
      [
        fdtNode("x", { phandle: [3] }),
        fdtNode("v@0", {
          compatible: "virtio,mmio",
          reg: [0, 0, 0, 1],
          interrupts: [1],
          "interrupt-parent": [3],
        }),
      ],
      /no interrupt controller/,
    ],
    [
      "half an address",
      [fdtNode("v@0", { compatible: "virtio,mmio", reg: [0, 0, 0] })],
      /3 cells, and an entry has 4/,
    ],
    [
      "an address beyond 2^53",
      [fdtNode("v@0", { compatible: "virtio,mmio", reg: [0x200000, 0, 0, 1] })],
      /beyond 2\^53/,
    ],
    [
      "a bus without ranges",
      [fdtNode("bus", wide, [fdtNode("v@0", { compatible: "virtio,mmio", reg: [0, 0, 0, 1] })])],
      /\/bus has no ranges/,
    ],
    [
      "too many cells",
      [
        fdtNode("bus", { "#address-cells": [1 << 30], ranges: [] }, [
          fdtNode("v@0", { compatible: "virtio,mmio", reg: [0] }),
        ]),
      ],
      /#address-cells of bus is 1073741824/,
    ],
    [
      "an interrupt map that leads to itself",
      [
        fdtNode("map", {
          phandle: [5],
          "#interrupt-cells": [1],
          "#address-cells": [0],
          "interrupt-map": [1, 5, 1],
        }),
        fdtNode("v@0", {
          compatible: "virtio,mmio",
          reg: [0, 0, 0, 1],
          interrupts: [1],
          "interrupt-parent": [5],
        }),
      ],
      /leads nowhere/,
    ],
  ])("%s is an error that says so", (_what, nodes, message) => {
    const find = (): unknown => findMmioPlaces(indexOf(fdtNode("", wide, nodes)));
    expect(find).toThrow(FdtError);
    expect(find).toThrow(message);
  });
});

test("trees with anything changed in them lead somewhere, or are refused with an FdtError", () => {
  const whole = writeFdt(machineTree(3));
  // From the structure block on: the header has a test of its own.
  const changes = fc.array(fc.tuple(fc.integer({ min: 56, max: whole.length - 1 }), fc.nat({ max: 255 })), {
    minLength: 1,
    maxLength: 6,
  });
  fc.assert(
    fc.property(changes, (list) => {
      const blob = whole.slice();
      for (const [at, value] of list) blob[at] = value;
      try {
        const index = new FdtIndex(readFdt(blob));
        for (const { base, length } of findMmioPlaces(index))
          expect(base + length).toBeLessThanOrEqual(2 ** 53);
        for (const host of findPciHosts(index)) host.interrupt(31, 4);
      } catch (error) {
        expect(error).toBeInstanceOf(FdtError);
      }
    }),
    { numRuns: 3000 },
  );
});
