/** Every option of this package's clients: what cannot be is refused, by its name, before anything was started or connected. */
import { optionSurface } from "@virtio/testkit/option-surface";
import {
  flags,
  forgotten,
  refusal,
  texts,
  untouched,
  within,
  words,
  wrongOptions,
  type OptionRow,
} from "@virtio/testkit/option-table";
import { expect, test } from "vitest";
import { QemuMachine } from "../src/machine/machine.ts";
import { QmpClient } from "../src/qmp/client.ts";
import { QtestClient } from "../src/qtest/client.ts";

const MAX_TIMER_MS = 2 ** 31 - 1;
const NOWHERE = "/nowhere/at/all";
const NOT_EMPTY = "a string that is not empty";

const start = (options: object): unknown => QemuMachine.start({ argv: ["no-such-program"], ...options });
const timeout = (callee: string, owner: string, make: (options: object) => unknown): OptionRow =>
  within(`${callee}(options.timeout)`, `${owner}: timeout`, 1, MAX_TIMER_MS, (value) =>
    make({ timeout: value }),
  );

const rows: readonly OptionRow[] = [
  texts("QemuMachine.start(options.argv[])", "qemu: word of argv", "a string", (word) =>
    start({ argv: [word] }),
  ),
  timeout("QemuMachine.start", "qemu", start),
  flags("QemuMachine.start(options.defaults)", "qemu: defaults", (defaults) => start({ defaults })),
  words(
    "QemuMachine.start(options.accelerator)",
    "qemu: accelerator",
    'one of "tcg", "qtest"',
    (accelerator) => start({ accelerator }),
  ),
  timeout("QmpClient.over", "qmp", (options) => QmpClient.over(untouched(), options)),
  timeout("QmpClient.connect", "qmp", (options) => QmpClient.connect(NOWHERE, options)),
  texts("QmpClient.connect(path)", "qmp: path", NOT_EMPTY, (path) => QmpClient.connect(path), ""),
  timeout("new QtestClient", "qtest", (options) => new QtestClient(untouched(), options)),
  timeout("QtestClient.connect", "qtest", (options) => QtestClient.connect(NOWHERE, options)),
  texts("QtestClient.connect(path)", "qtest: path", NOT_EMPTY, (path) => QtestClient.connect(path), ""),
];

test.each(wrongOptions(rows))("%s: %s", async (_key, message, make) => {
  expect(await refusal(make)).toBe(message);
});

test("no option of the package is forgotten", () => {
  expect(forgotten(optionSurface("qemu"), rows, {})).toEqual([]);
});
