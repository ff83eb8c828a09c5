import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";

import { messageOf, UserError } from "../user-error.ts";
import { askedDrivers } from "./devices.ts";

/** What this QEMU has, and its machine. */
export interface QemuFacts {
  /** Such as 7.2.22. */
  readonly version: string;
  /** Properties of the devices that matter here; a device that is not there is absent. */
  readonly drivers: ReadonlyMap<string, ReadonlySet<string>>;
  /** Bytes of memory without `-m`. */
  readonly defaultMemory: number;
  /** What a `-drive` without `if=` becomes is a virtio disk. */
  readonly drivesAreVirtio: boolean;
  /** `-machine memory-backend=` works: without, guest memory cannot be shared. */
  readonly memoryBackend: boolean;
}

interface Reply {
  readonly return?: unknown;
  readonly error?: { readonly desc?: string };
  readonly QMP?: unknown;
}

/** A QEMU answers in some hundredths of a second, so nothing is kept for the next time. */
const PATIENCE_MS = 20_000;
/** What all answers together may be long: those of 7.2 are 100 KB. */
const LONGEST_ANSWER = 16 << 20;

/**
 * Asks QEMU over QMP what it has.
 * @param machine the value of its `-machine`, or undefined for its default
 */
export async function qemuFacts(program: string, machine: string | undefined): Promise<QemuFacts> {
  const chosen = machine === undefined ? [] : ["-machine", machine];
  // Not every machine takes a drive that says nothing of where it is. A machine that does not start at all is QEMU's to explain.
  const drive = ["-drive", "driver=null-co,read-zeroes=on"];
  const attempts = [[...chosen, ...drive], chosen, ["-machine", "none"]];
  for (const attempt of attempts) {
    const replies = await ask(program, attempt);
    if (replies !== undefined) return factsOf(replies);
  }
  throw new UserError(`${program} does not answer as QEMU does: is it a qemu-system-… program?`);
}

/** Whether the guest's processors are this host's, by what is asked for and what the host has. */
export function kvmUsable(): boolean {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

const questions: readonly object[] = [
  { execute: "qmp_capabilities" },
  { execute: "query-version" },
  { execute: "query-memory-size-summary" },
  { execute: "query-block" },
  { execute: "qom-get", arguments: { path: "/machine", property: "type" } },
  { execute: "query-machines" },
  ...askedDrivers.map((typename) => ({ execute: "device-list-properties", arguments: { typename } })),
  { execute: "quit" },
];

/** The answers, one a question; undefined when the machine did not start. */
async function ask(program: string, argv: readonly string[]): Promise<Reply[] | undefined> {
  const quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio"];
  const child = spawn(program, [...argv, ...quiet], { stdio: ["pipe", "pipe", "ignore"] });
  const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => {
    text += part;
    if (text.length > LONGEST_ANSWER) child.kill("SIGKILL");
  });
  // A program that ends at once does not read.
  child.stdin.on("error", () => undefined);
  child.stdin.end(questions.map((question) => `${JSON.stringify(question)}\n`).join(""));
  try {
    await new Promise<void>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", () => resolve());
    });
  } catch (error) {
    throw new UserError(`${program}: ${messageOf(error)}`);
  } finally {
    clearTimeout(timer);
  }
  const replies = text.split("\n").flatMap(parseReply);
  return replies.length === questions.length ? replies : undefined;
}

/** Greeting and events are no replies. */
function parseReply(line: string): Reply[] {
  try {
    const value: unknown = JSON.parse(line);
    return isRecord(value) && ("return" in value || "error" in value) ? [value] : [];
  } catch {
    return [];
  }
}

function factsOf(replies: readonly Reply[]): QemuFacts {
  const [, version, memory, block, type, machines, ...drivers] = replies.map((reply) => reply.return);
  const { major, minor, micro } = record(record(version)["qemu"]);
  const size = record(memory)["base-memory"];
  const name = typeof type === "string" ? type.replace(/-machine$/, "") : "";
  const machine = list(machines).find((candidate) => record(candidate)["name"] === name);
  const device = record(list(block)[0])["device"];
  return {
    version: [major, minor, micro].join("."),
    drivers: new Map(
      askedDrivers.flatMap((driver, index): [string, Set<string>][] => {
        const properties = drivers[index];
        if (!Array.isArray(properties)) return [];
        return [[driver, new Set(properties.map((property: unknown) => String(record(property)["name"])))]];
      }),
    ),
    defaultMemory: typeof size === "number" && size > 0 ? size : 128 << 20,
    drivesAreVirtio: typeof device === "string" && /^virtio\d+$/.test(device),
    memoryBackend: typeof record(machine)["default-ram-id"] === "string",
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function record(value: unknown): Record<string, unknown> {
  return isRecord(value) ? value : {};
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
