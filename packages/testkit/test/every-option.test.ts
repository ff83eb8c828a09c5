/** Options of the test kit's machine, which examples are written with, and what the tables of options themselves find. */
import { InProcessMachine } from "@virtio/testkit/machine";
import { optionSurface } from "@virtio/testkit/option-surface";
import {
  bits,
  flags,
  forgotten,
  multiple,
  numbers,
  power,
  refusal,
  texts,
  within,
  words,
  wrongOptions,
  type OptionRow,
} from "@virtio/testkit/option-table";
import { entropyDevice } from "virtio/devices/entropy/device";
import { expect, test } from "vitest";

const U16 = 0xffff;

const machine = (options: object): unknown => new InProcessMachine(options);

const plugged = (["plugPci", "plugMmio"] as const).flatMap((method): readonly OptionRow[] => {
  const plug = (options: object): unknown =>
    new InProcessMachine()[method](
      entropyDevice((target) => void target),
      { label: "it", ...options },
    );
  const at = (option: string): string => `InProcessMachine.${method}(options.${option})`;
  const range = (option: string, name: string, least: number, most: number): OptionRow =>
    within(at(option), name, least, most, (value) => plug({ [option]: value }));
  return [
    texts(
      at("label"),
      "label of a device of type entropy",
      "a string that is not empty",
      (label) => plug({ label }),
      "",
    ),
    bits(at("features"), "it: features", (features) => plug({ features })),
    numbers(
      at("queueSize"),
      "it: queueSize",
      power(1, 32_768),
      (queueSize) => plug({ queueSize }),
      0,
      100,
      65_536,
    ),
    ...(method === "plugMmio"
      ? [
          range("version", "MMIO: version", 1, 2),
          range("vendorId", "MMIO: vendorId", 0, 2 ** 32 - 1),
          within(at("sharedMemory[].id"), "MMIO: id of shared memory", 0, 255, (id) =>
            plug({ features: 1n << 32n, sharedMemory: [{ id, base: 0, length: 1 }] }),
          ),
          within(
            at("sharedMemory[].base"),
            "MMIO: base of shared memory",
            0,
            Number.MAX_SAFE_INTEGER,
            (base) => plug({ sharedMemory: [{ id: 0, base, length: 1 }] }),
          ),
          within(
            at("sharedMemory[].length"),
            "MMIO: length of shared memory",
            1,
            Number.MAX_SAFE_INTEGER,
            (length) => plug({ sharedMemory: [{ id: 0, base: 0, length }] }),
          ),
        ]
      : [
          range("slot", "PCI host: device", 0, 31),
          range("msixVectors", "PCI: msixVectors", 0, 2048),
          range("minimumBarSize", "PCI: minimumBarSize", 0, 2 ** 31),
          range("revision", "PCI: revision", 0, 255),
          range("subsystemVendorId", "PCI: subsystemVendorId", 0, U16),
          range("subsystemId", "PCI: subsystemId", 0, U16),
          range("classCode", "PCI: classCode", 0, 0xff_ffff),
          words(at("mode"), "PCI: mode", 'one of "modern", "transitional", "legacy"', (mode) =>
            plug({ mode }),
          ),
          words(at("modernBar"), "PCI: modernBar", 'one of "io", "memory32", "memory64"', (modernBar) =>
            plug({ modernBar }),
          ),
          within(at("sharedMemory[].id"), "PCI: id of shared memory", 0, 255, (id) =>
            plug({ sharedMemory: [{ id, length: 1 }] }),
          ),
          within(
            at("sharedMemory[].length"),
            "PCI: length of shared memory",
            1,
            Number.MAX_SAFE_INTEGER,
            (length) => plug({ sharedMemory: [{ id: 0, length }] }),
          ),
          within(at("vendorData[].vendorId"), "PCI: vendorId of vendor data", 0, U16, (vendorId) =>
            plug({ vendorData: [{ vendorId, data: new Uint8Array(0) }] }),
          ),
        ]),
  ];
});

const rows: readonly OptionRow[] = [
  numbers(
    "new InProcessMachine(options.ramSize)",
    "in-process machine: ramSize",
    multiple(4096, 8192, 0xd000_0000),
    (ramSize) => machine({ ramSize }),
    0,
    4096,
    10_000,
    0xd000_1000,
  ),
  flags("new InProcessMachine(options.hostile)", "in-process machine: hostile", (hostile) =>
    machine({ hostile }),
  ),
  flags("new InProcessMachine(options.msi)", "in-process machine: msi", (msi) => machine({ msi })),
  words(
    "new InProcessMachine(options.config)",
    "in-process machine: config",
    'one of "ports", "ecam"',
    (config) => machine({ config }),
  ),
  ...plugged,
];

test.each(wrongOptions(rows))("%s: %s", async (_key, message, make) => {
  expect(await refusal(make)).toBe(message);
});

/** Instruments of the tests of this project: they are given what a test means, wrong or not. */
const INSTRUMENTS = /^(?:new )?(?:BusyQueues|DeviceRig|Raw\w+|Arena)\b/;

const surface = new Map([...optionSurface("testkit")].filter(([key]) => !INSTRUMENTS.test(key)));

test("no option of the machine is forgotten", () => {
  expect(forgotten(surface, rows, {})).toEqual([]);
});

test("a row that is not there is missed, and one about nothing is noticed", () => {
  const [first, ...others] = rows;
  expect(first?.key).toBe("new InProcessMachine(options.ramSize)");
  expect(forgotten(surface, others, {})).toEqual([
    "no row for the number new InProcessMachine(options.ramSize)",
  ]);
  const about = flags("new InProcessMachine(options.ram)", "ram", machine);
  expect(forgotten(surface, [...rows, about], { "new Nothing": "never" })).toEqual([
    "a row for the flag new InProcessMachine(options.ram), which there is not",
    "an exception for new Nothing, which takes nothing",
  ]);
});
