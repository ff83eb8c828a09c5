/** Transports, the bus and memory: their options that cannot be. */
import { within, parts, words, type OptionRow } from "@virtio/testkit/option-table";
import { AddressSpace } from "../../src/bus/address-space.ts";
import { SharedInterrupt } from "../../src/bus/interrupt.ts";
import { StandardPciFunction } from "../../src/bus/pci/function.ts";
import { PciHost } from "../../src/bus/pci/host.ts";
import { MsixTable } from "../../src/bus/pci/msix.ts";
import { DeviceInstance } from "../../src/device/instance.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { virtioMmio, VirtioMmio } from "../../src/transport/mmio/registers.ts";
import { virtioPciFunction, VirtioPciFunction } from "../../src/transport/pci/function.ts";
import { ProbeDevice } from "../device/rig.ts";

const U16 = 0xffff;
const U32 = 0xffff_ffff;
const SAFE = Number.MAX_SAFE_INTEGER;
const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(4096) }]);
const instance = (options: object = {}): DeviceInstance =>
  new DeviceInstance(new ProbeDevice(), { label: "it", memory, ...options });
const modern = (): DeviceInstance => instance({ features: 1n << 32n });
const interrupt = { set: (): void => undefined };
const handler = { read: (): number => 0, write: (): void => undefined };
const host = (options: object): PciHost => {
  const space = new AddressSpace();
  return new PciHost({ memory: space, io: space, interruptLine: () => interrupt, ...options });
};
const identity = {
  vendorId: 1,
  deviceId: 1,
  revision: 0,
  classCode: 0,
  subsystemVendorId: 0,
  subsystemId: 0,
};
const fn = (options: object): unknown =>
  new StandardPciFunction({ ...identity, interruptPin: 0, ...options } as never);

const registers: readonly OptionRow[] = (["virtioMmio", "new VirtioMmio"] as const).flatMap((callee) => {
  const make = (options: object): unknown =>
    callee === "virtioMmio"
      ? virtioMmio(modern(), { interrupt, ...options })
      : new VirtioMmio(modern(), { interrupt, ...options });
  const region = (options: object): unknown =>
    make({ sharedMemory: [{ id: 0, base: 0, length: 1, ...options }] });
  const at = "options.sharedMemory[]";
  return [
    parts(`${callee}(options.interrupt)`, "MMIO: interrupt", "an InterruptLine", (line) =>
      make({ interrupt: line }),
    ),
    within(`${callee}(options.version)`, "MMIO: version", 1, 2, (version) => make({ version })),
    within(`${callee}(options.vendorId)`, "MMIO: vendorId", 0, U32, (vendorId) => make({ vendorId })),
    within(`${callee}(${at}.id)`, "MMIO: id of shared memory", 0, 255, (id) => region({ id })),
    within(`${callee}(${at}.base)`, "MMIO: base of shared memory", 0, SAFE, (base) => region({ base })),
    within(`${callee}(${at}.length)`, "MMIO: length of shared memory", 1, SAFE, (length) =>
      region({ length }),
    ),
  ];
});

const functions: readonly OptionRow[] = (["virtioPciFunction", "new VirtioPciFunction"] as const).flatMap(
  (callee) => {
    const make = (options: object): unknown =>
      callee === "virtioPciFunction"
        ? virtioPciFunction(instance(), options)
        : new VirtioPciFunction(instance(), options);
    const region = (options: object): unknown =>
      make({ sharedMemory: [{ id: 0, length: 1, handler, ...options }] });
    const vendor = (vendorId: unknown): unknown =>
      make({ vendorData: [{ vendorId, data: new Uint8Array(4) }] });
    const modes = 'one of "modern", "transitional", "legacy"';
    const kinds = 'one of "io", "memory32", "memory64"';
    return [
      words(`${callee}(options.mode)`, "PCI: mode", modes, (mode) => make({ mode })),
      words(`${callee}(options.modernBar)`, "PCI: modernBar", kinds, (modernBar) => make({ modernBar })),
      within(`${callee}(options.msixVectors)`, "PCI: msixVectors", 0, 2048, (msixVectors) =>
        make({ msixVectors }),
      ),
      within(`${callee}(options.minimumBarSize)`, "PCI: minimumBarSize", 0, 2 ** 31, (minimumBarSize) =>
        make({ minimumBarSize }),
      ),
      within(`${callee}(options.revision)`, "PCI: revision", 0, 255, (revision) => make({ revision })),
      within(`${callee}(options.subsystemVendorId)`, "PCI: subsystemVendorId", 0, U16, (subsystemVendorId) =>
        make({ subsystemVendorId }),
      ),
      within(`${callee}(options.subsystemId)`, "PCI: subsystemId", 0, U16, (subsystemId) =>
        make({ subsystemId }),
      ),
      within(`${callee}(options.classCode)`, "PCI: classCode", 0, 0xff_ffff, (classCode) =>
        make({ classCode }),
      ),
      within(`${callee}(options.sharedMemory[].id)`, "PCI: id of shared memory", 0, 255, (id) =>
        region({ id }),
      ),
      within(`${callee}(options.sharedMemory[].length)`, "PCI: length of shared memory", 1, SAFE, (length) =>
        region({ length }),
      ),
      within(`${callee}(options.vendorData[].vendorId)`, "PCI: vendorId of vendor data", 0, U16, vendor),
    ];
  },
);

const bus: readonly OptionRow[] = [
  parts(
    "new SharedInterrupt(output)",
    "shared interrupt: output",
    "an InterruptLine",
    (output) => new SharedInterrupt(output),
  ),
  parts("new PciHost(options.memory)", "PCI host: memory", "an AddressSpace", (it) => host({ memory: it })),
  parts("new PciHost(options.io)", "PCI host: io", "an AddressSpace", (io) => host({ io })),
  parts("new PciHost(options.msi)", "PCI host: msi", "an MsiTarget", (msi) => host({ msi })),
  parts("PciHost.plug(function)", "PCI host: function", "a PciFunction", (it) => host({}).plug(it)),
  ...(
    [
      ["vendorId", U16],
      ["deviceId", U16],
      ["revision", 255],
      ["classCode", 0xff_ffff],
      ["subsystemVendorId", U16],
      ["subsystemId", U16],
      ["interruptPin", 4],
    ] as const
  ).map(([name, most]) =>
    within(`new StandardPciFunction(identity.${name})`, `PCI function: ${name}`, 0, most, (value) =>
      fn({ [name]: value }),
    ),
  ),
  within("new MsixTable(vectors)", "MSI-X table: vectors", 1, 2048, (vectors) => new MsixTable(vectors)),
  parts(
    "new RegionMemory(regions[].bytes)",
    "memory region: bytes",
    "a Uint8Array",
    (bytes) => new RegionMemory([{ gpa: 0, bytes }]),
  ),
  within(
    "new RegionMemory(regions[].gpa)",
    "memory region: gpa",
    0,
    SAFE,
    (gpa) => new RegionMemory([{ gpa, bytes: new Uint8Array(0) }]),
  ),
];

export const transports: readonly OptionRow[] = [...registers, ...functions, ...bus];
