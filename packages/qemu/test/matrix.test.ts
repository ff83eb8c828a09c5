import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { needs } from "@virtio/testkit/needs";
import { matrixText, runCells, type Cell } from "./matrix/cells.ts";
import { COLUMNS, type Column } from "./matrix/columns.ts";
import { DRIVERS } from "./matrix/drivers.ts";
import { EchoServer } from "./matrix/echo.ts";
import { isInstalled, MACHINES, type TestMachine } from "./matrix/machines.ts";
import type { TestDriver } from "./matrix/test-driver.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const folder = temporaryFolder();
const cells: Cell[] = [];
let echo: EchoServer | undefined;

beforeAll(async () => {
  echo = await EchoServer.listen(join(folder, "echo.sock"));
});
afterAll(() => {
  echo?.close();
  console.log(`Our drivers on QEMU's devices (-: not offered)\n${matrixText(cells, COLUMNS)}`);
});

/** Slots that the machine with the fewest has. */
const MMIO_SLOTS = 8;

interface Start {
  readonly columns: readonly Column[];
  readonly drivers: readonly TestDriver[];
}

/** Each kind of device in a machine of its own: some exist once in a machine, and slots for MMIO are all of one kind. */
function starts({ mmio }: TestMachine): readonly Start[] {
  return COLUMNS.filter(({ bus }) => mmio || bus === "pci").flatMap((column) => {
    const room = column.bus === "mmio" ? MMIO_SLOTS : DRIVERS.length;
    const groups = Array.from({ length: Math.ceil(DRIVERS.length / room) }, (_, i) => i * room);
    return groups.map((from) => ({ columns: [column], drivers: DRIVERS.slice(from, from + room) }));
  });
}

describe.each(MACHINES)("$name", (machine) => {
  test.skipIf(!isInstalled(machine))(
    needs(
      machine.program,
      machine.debianPackage,
      "every driver works on every device that QEMU offers for it",
    ),
    async () => {
      for (const [i, { columns, drivers }] of starts(machine).entries()) {
        const own = join(folder, `${machine.name.replace(" ", "-")}-${i}`);
        mkdirSync(own);
        cells.push(...(await runCells(machine, columns, drivers, { folder: own, echo: echo?.path ?? "" })));
      }
      const mine = cells.filter((cell) => cell.machine === machine.name);
      expect(mine.filter(({ outcome }) => outcome.startsWith("FAIL"))).toEqual([]);
      expect(mine.filter(({ outcome }) => outcome === "pass").length).toBeGreaterThanOrEqual(10);
    },
  );
});
