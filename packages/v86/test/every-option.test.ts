/** Every option of the machine: what cannot be is refused, by its name, before v86 was started or a device plugged in. */
import { EmbeddedMachine } from "@virtio/v86";
import { readV86Wasm } from "@virtio/v86/node";
import { optionSurface } from "@virtio/testkit/option-surface";
import {
  bits,
  flags,
  forgotten,
  multiple,
  numbers,
  parts,
  power,
  refusal,
  texts,
  within,
  words,
  wrongOptions,
  type OptionRow,
} from "@virtio/testkit/option-table";
import { entropyDevice } from "virtio/devices/entropy/device";
import { afterAll, beforeAll, expect, test } from "vitest";

const MIB = 2 ** 20;
const NOT_EMPTY = "a string that is not empty";

const create = (options: object): unknown =>
  EmbeddedMachine.create({ memorySize: 32 * MIB, wasm: new Uint8Array(), ...options });

let machine: EmbeddedMachine;
beforeAll(async () => {
  machine = await EmbeddedMachine.create({ memorySize: 32 * MIB, wasm: await readV86Wasm() });
});
afterAll(() => machine.destroy());

/** What both kinds of devices are plugged in with. */
const plugged = (["plugPci", "plugMmio"] as const).flatMap((method): readonly OptionRow[] => {
  const owner = method === "plugPci" ? "PCI" : "MMIO";
  const plug = (options: object): unknown =>
    machine[method](
      entropyDevice((target) => void target),
      { label: "it", ...options },
    );
  const at = (option: string): string => `EmbeddedMachine.${method}(options.${option})`;
  return [
    texts(at("label"), "label of a device of type entropy", NOT_EMPTY, (label) => plug({ label }), ""),
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
    flags(at("observed"), `${owner}: observed`, (observed) => plug({ observed })),
    ...(method === "plugMmio"
      ? [within(at("version"), "MMIO: version", 1, 2, (version) => plug({ version }))]
      : [
          within(at("slot"), "PCI: slot", 8, 29, (slot) => plug({ slot })),
          within(at("vectors"), "PCI: msixVectors", 0, 2048, (vectors) => plug({ vectors })),
          words(at("mode"), "PCI: mode", 'one of "modern", "transitional", "legacy"', (mode) =>
            plug({ mode }),
          ),
          words(at("bar"), "PCI: bar", 'one of "io", "memory32", "memory64"', (bar) => plug({ bar })),
          flags(at("msix"), "PCI: msix", (msix) => plug({ msix })),
        ]),
  ];
});

const rows: readonly OptionRow[] = [
  numbers(
    "EmbeddedMachine.create(options.memorySize)",
    "machine: memorySize",
    multiple(128 * 1024, 32 * MIB, 1920 * MIB),
    (memorySize) => create({ memorySize }),
    0,
    32 * MIB + 4096,
    2048 * MIB,
  ),
  texts("EmbeddedMachine.create(options.commandLine)", "machine: commandLine", "a string", (commandLine) =>
    create({ commandLine }),
  ),
  flags("EmbeddedMachine.create(options.acpi)", "machine: acpi", (acpi) => create({ acpi })),
  ...["kernel", "initrd"].map((option) =>
    parts(`EmbeddedMachine.create(options.${option})`, `machine: ${option}`, "a Uint8Array", (value) =>
      create({ [option]: value }),
    ),
  ),
  ...plugged,
];

test.each(wrongOptions(rows))("%s: %s", async (_key, message, make) => {
  expect(await refusal(make)).toBe(message);
});

test("no option of the package is forgotten", () => {
  expect(forgotten(optionSurface("v86"), rows, {})).toEqual([]);
});

test("a device that is refused is not in the machine", async () => {
  for (const [, , make] of wrongOptions(plugged)) await refusal(make);
  expect(machine.devices).toEqual([]);
});
