import { closeSync, openSync, readSync } from "node:fs";

import { foreignFormat, PROBE_LENGTH } from "@virtio/node/block/image-probe";

import { requireNative } from "@virtio/node/native/platform";

import { parseArguments, type GivenOption } from "../options/arguments.ts";
import { bootOptions, type OptionSpec } from "../options/table.ts";
import { describeServe, type ServeDescription } from "../serve/describe.ts";
import { deviceWords, serveOptions } from "../serve/table.ts";
import { usageError, UserError } from "../user-error.ts";
import { onlyAsks, readCommandLine, shellWords, type QemuOption } from "./command-line.ts";
import { kvmUsable, qemuFacts } from "./facts.ts";
import { qemuHelp } from "./help.ts";
import { asksForKvm } from "./kvm.ts";
import { planQemu, type QemuPlan } from "./plan.ts";
import type { Signals } from "./run.ts";

/** Options of our own, before the name of QEMU. */
const ownOptions: readonly OptionSpec[] = [
  { group: "session", name: "dry-run", help: "" },
  { group: "session", name: "quiet", help: "" },
  { group: "session", name: "help", help: "" },
  { group: "session", name: "sealed-memory", help: "" },
  ...bootOptions.filter(({ name }) => ["log", "log-file", "snapshot-limit"].includes(name)),
];
const withValue = ["log", "log-file", "snapshot-limit"];

/** Runs `virtio qemu`; gives the exit status. */
export async function qemuCommand(argv: readonly string[]): Promise<number> {
  const { own, program, rest } = split(argv);
  const given = parseArguments(own, ownOptions);
  if (argv.length === 0) return usageError(qemuHelp);
  if (given.some(({ name }) => name === "help")) return print(qemuHelp);
  if (program === undefined) throw new UserError("Which QEMU? Such as: virtio qemu qemu-system-x86_64 …");
  const options = readCommandLine(rest);
  const { runQemu, Signals } = await import("./run.ts");
  if (options.some(({ name }) => name === "daemonize")) {
    throw new UserError("-daemonize: the devices end with this command. Start it in the background instead.");
  }
  const signals = new Signals();
  try {
    if (onlyAsks(options)) return await runQemu(program, rest, undefined, signals);
    requireNative("virtio qemu");
    return await planAndRun(program, options, given, signals);
  } finally {
    signals.close();
  }
}

async function planAndRun(
  program: string,
  options: readonly QemuOption[],
  given: readonly GivenOption[],
  signals: Signals,
): Promise<number> {
  const { runQemu, socketFolder } = await import("./run.ts");
  const has = (name: string): boolean => given.some((option) => option.name === name);
  const folder = has("dry-run") ? undefined : socketFolder();
  try {
    const plan = await makePlan(program, options, folder?.path ?? "/tmp/virtio-qemu");
    if (!has("quiet")) for (const note of plan.notes) process.stderr.write(`virtio: ${note}\n`);
    const session = given.filter(({ name }) => withValue.includes(name) || name === "sealed-memory");
    const served = plan.devices.flat();
    if (folder === undefined) return dryRun(program, plan, has("sealed-memory"));
    const description = served.length === 0 ? undefined : described(served, session);
    return await runQemu(program, plan.argv, description, signals);
  } finally {
    folder?.remove();
  }
}

function described(
  words: readonly string[],
  session: readonly { name: string; value: string }[],
): ServeDescription {
  const names = deviceWords.map(({ word }) => word);
  return describeServe([...parseArguments(words, serveOptions, names), ...session]);
}

/** Our options end where the first word without a dash stands, which is the name of QEMU. */
function split(argv: readonly string[]): { own: string[]; program: string | undefined; rest: string[] } {
  let index = 0;
  for (let word = argv[index]; word?.startsWith("-") === true; word = argv[++index]) {
    if (withValue.includes(word.replace(/^--?/, ""))) index++;
  }
  return { own: argv.slice(0, index), program: argv[index], rest: argv.slice(index + 1) };
}

async function makePlan(program: string, options: readonly QemuOption[], folder: string): Promise<QemuPlan> {
  const machine = options.filter(({ name }) => name === "machine" || name === "M");
  const typed = machine.map(({ value }) => /^(?:type=)?([^=,]+)(?:,|$)/.exec(value)?.[1]);
  const facts = await qemuFacts(
    program,
    typed.findLast((type) => type !== undefined),
  );
  const kvm = asksForKvm(program, options) && kvmUsable();
  return planQemu({ options, facts, folder, kvm, foreignFormat: formatOf });
}

/** The format of an image, when it is no raw disk. One that cannot be read is looked at again when it is opened. */
function formatOf(file: string): string | undefined {
  try {
    const fd = openSync(file, "r");
    try {
      const start = new Uint8Array(PROBE_LENGTH);
      return foreignFormat(start.subarray(0, readSync(fd, start)));
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}

function dryRun(program: string, plan: QemuPlan, sealed: boolean): number {
  const words = [...plan.devices.flat(), ...(sealed ? ["--sealed-memory"] : [])];
  const serve = plan.devices.length === 0 ? "" : `virtio serve ${shellWords(words)} &\n`;
  return print(`${serve}${shellWords([program, ...plan.argv])}\n`);
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}
