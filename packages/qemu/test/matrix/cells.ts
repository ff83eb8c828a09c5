import { expect } from "vitest";
import { hasFeature } from "virtio/spec/core";
import type { DriverTransport } from "virtio/driver/types";
import { QemuMachine, type QemuDevice } from "../../src/index.ts";
import type { Column } from "./columns.ts";
import type { TestMachine } from "./machines.ts";
import type { Surroundings, TestDriver } from "./test-driver.ts";

/** `pass`, `not offered`, or why it failed. */
export type Outcome = string;

export interface Cell {
  readonly machine: string;
  readonly driver: string;
  readonly column: string;
  readonly outcome: Outcome;
}

const PASS = "pass";
const NOT_OFFERED = "not offered";
/** Milliseconds for one driver on one device. */
const CELL_TIMEOUT = 15_000;

/** Runs drivers in some columns on one machine that has all of their devices at once. */
export async function runCells(
  machine: TestMachine,
  columns: readonly Column[],
  drivers: readonly TestDriver[],
  around: Surroundings,
): Promise<Cell[]> {
  const plugged = columns.flatMap((column, c) =>
    drivers.map((driver) => ({ driver, column, id: `${driver.name === "9p" ? "ninep" : driver.name}${c}` })),
  );
  const argv = plugged.flatMap(({ driver, column, id }) => {
    const device = deviceName(driver, column);
    if (device === undefined) return [];
    const { properties, argv: further } = driver.plug(id, around);
    return ["-device", `${device}${properties},id=${id}`, ...further];
  });
  const slots = columns.some(({ forceLegacy }) => forceLegacy === false);
  const force = slots ? ["-global", "virtio-mmio.force-legacy=false"] : [];
  const qemu = await QemuMachine.start({ argv: [machine.program, ...machine.argv, ...force, ...argv] });
  try {
    const cells: Cell[] = [];
    for (const { driver, column, id } of plugged) {
      const outcome = await outcomeOf(async () => {
        if (deviceName(driver, column) === undefined) return NOT_OFFERED;
        return tryCell(qemu, await find(qemu, driver, column, id), driver, column, id, around);
      });
      cells.push({ machine: machine.name, driver: driver.name, column: column.name, outcome });
    }
    return cells;
  } finally {
    await qemu.close();
  }
}

/** What QEMU calls the device, or undefined when it has no such kind of it. */
function deviceName(driver: TestDriver, { bus, device, modernDevice }: Column): string | undefined {
  if (bus === "mmio" || driver.modernOnly !== true) return `${driver.device}${device}`;
  return modernDevice === undefined ? undefined : `${driver.device}${modernDevice}`;
}

async function find(
  qemu: QemuMachine,
  driver: TestDriver,
  column: Column,
  id: string,
): Promise<QemuDevice | undefined> {
  const candidates = qemu
    .devices()
    .filter(({ deviceId, bus }) => deviceId === driver.deviceId && bus === column.bus);
  if (column.bus === "mmio") return candidates.find((each) => isMeant(driver, each));
  const address = await qemu.qmp.execute("qom-get", { path: `/machine/peripheral/${id}`, property: "addr" });
  const slot = (Number(address) >>> 3).toString(16).padStart(2, "0");
  return candidates.find(({ name }) => name === `pci 00:${slot}.0`);
}

function isMeant(driver: TestDriver, device: QemuDevice): boolean {
  if (driver.recognises === undefined) return true;
  const transport = device.open();
  const found = driver.recognises(transport);
  transport.close?.();
  return found;
}

async function tryCell(
  qemu: QemuMachine,
  device: QemuDevice | undefined,
  driver: TestDriver,
  column: Column,
  id: string,
  around: Surroundings,
): Promise<Outcome> {
  expect(device, "QEMU has the device").toBeDefined();
  // The legacy interface is in ports; a machine without any has none.
  if (column.bus === "pci" && column.legacy && qemu.layout.pci?.io === undefined) return NOT_OFFERED;
  const kinds = column.bus === "pci" ? (["msix", "intx"] as const) : [undefined];
  for (const interrupts of kinds) {
    const transport = device?.open({ ...column.open, ...(interrupts && { interrupts }) });
    if (transport === undefined) continue;
    const offered = transport.readDeviceFeatures();
    if (column.negotiated.some((bit) => !hasFeature(offered, bit))) return NOT_OFFERED;
    const accepted = watchFeatures(transport);
    await withTimeout(driver.exercise(transport, id, around, qemu), `${interrupts ?? "line"}`);
    expect(transport.legacy).toBe(column.legacy);
    expect(column.negotiated.filter((bit) => !hasFeature(accepted(), bit))).toEqual([]);
  }
  return PASS;
}

/** Hears what is negotiated. */
function watchFeatures(transport: DriverTransport): () => bigint {
  let accepted = 0n;
  const write = transport.writeDriverFeatures.bind(transport);
  transport.writeDriverFeatures = (features) => {
    accepted = features;
    write(features);
  };
  return () => accepted;
}

async function outcomeOf(run: () => Promise<Outcome>): Promise<Outcome> {
  try {
    return await run();
  } catch (error) {
    return `FAIL: ${error instanceof Error ? error.message : String(error)}`;
  }
}

async function withTimeout(work: Promise<void>, what: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`with ${what}: not done in ${CELL_TIMEOUT} ms`)), CELL_TIMEOUT);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A table: a line for each driver on each machine. */
export function matrixText(cells: readonly Cell[], columns: readonly Column[]): string {
  const rows = [...new Set(cells.map(({ machine, driver }) => `${machine}/${driver}`))];
  const mark = (row: string, column: string): string => {
    const cell = cells.find((each) => `${each.machine}/${each.driver}` === row && each.column === column);
    if (cell === undefined || cell.outcome === NOT_OFFERED) return "-";
    return cell.outcome === PASS ? "pass" : "FAIL";
  };
  const names = columns.map(({ name }) => name);
  const first = Math.max(...rows.map((row) => row.length)) + 1;
  const line = (head: string, fields: readonly string[]): string =>
    head.padEnd(first) +
    fields
      .map((field, i) => field.padEnd((names[i]?.length ?? 0) + 2))
      .join("")
      .trimEnd();
  return [
    line("", names),
    ...rows.map((row) =>
      line(
        row,
        names.map((name) => mark(row, name)),
      ),
    ),
  ].join("\n");
}
