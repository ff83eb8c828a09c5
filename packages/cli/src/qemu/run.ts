import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";

import type { ServeDescription } from "../serve/describe.ts";
import { startServing } from "../serve/serving.ts";
import { messageOf, UserError } from "../user-error.ts";

/** Signals that ask to end, passed on to QEMU; our devices end when it has. */
const PASSED: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];
/** The largest descriptor that is passed on. */
const LAST_DESCRIPTOR = 255;

/** A folder of this user alone, for sockets. Their paths are short, for there is little room for them. */
export function socketFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "virtio-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/**
 * Signals from now on: they are QEMU's while it runs. One that came before is the end of us, and QEMU is not started: what was made for
 * it is removed.
 */
export class Signals {
  /** The first that came while there was no QEMU. */
  came: NodeJS.Signals | undefined;
  child: ChildProcess | undefined;
  readonly #pass = (signal: NodeJS.Signals): void => {
    if (this.child !== undefined) this.child.kill(signal);
    else this.came ??= signal;
  };

  constructor() {
    for (const signal of PASSED) process.on(signal, this.#pass);
  }

  close(): void {
    for (const signal of PASSED) process.off(signal, this.#pass);
  }
}

const statusOf = (signal: NodeJS.Signals): number => 128 + constants.signals[signal];

/**
 * Runs QEMU on this process's terminal, with our devices in this process. Gives QEMU's status; 128 and its number for a
 * signal, as shells do.
 */
export async function runQemu(
  program: string,
  argv: readonly string[],
  description: ServeDescription | undefined,
  signals: Signals,
): Promise<number> {
  if (signals.came !== undefined) return statusOf(signals.came);
  if (description === undefined) return qemuEnds(program, argv, signals);
  const serving = await startServing(description, () => undefined);
  // A device that is lost is not the end of the guest, which may have others.
  const lost = (error: unknown): void =>
    void process.stderr.write(`virtio: a device of ours has failed: ${messageOf(error)}\n`);
  serving.closed.catch(lost);
  try {
    return await qemuEnds(program, argv, signals);
  } finally {
    // What was lost, was told.
    await serving.close().catch(() => undefined);
  }
}

function qemuEnds(program: string, argv: readonly string[], signals: Signals): Promise<number> {
  const { came } = signals;
  if (came !== undefined) return Promise.resolve(statusOf(came));
  return new Promise((resolve, reject) => {
    const child = spawn(program, argv, { stdio: descriptors(argv) });
    signals.child = child;
    child.once("error", (error) => reject(new UserError(`${program}: ${messageOf(error)}`)));
    child.once("exit", (status, signal) => {
      // What comes from now on ends us at once.
      signals.close();
      resolve(status ?? (signal === null ? 128 : statusOf(signal)));
    });
  });
}

/** Ours, and those that the command line names, such as `fd=3`: Node.js passes on no others. */
function descriptors(argv: readonly string[]): ("inherit" | "ignore" | number)[] {
  const named = argv.flatMap((word) =>
    [...word.matchAll(/(?:^fd:|(?:^|[,.])(?:vhost|sock_)?fds?=|addr\.str=)(\d+(?::\d+)*)/g)].flatMap(
      ([, fds = ""]) => fds.split(":").map(Number),
    ),
  );
  const stdio: ("inherit" | "ignore" | number)[] = ["inherit", "inherit", "inherit"];
  for (const fd of named.filter((each) => each > 2 && each <= LAST_DESCRIPTOR)) {
    while (stdio.length < fd) stdio.push("ignore");
    stdio[fd] = fd;
  }
  return stdio;
}
