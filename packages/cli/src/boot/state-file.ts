import { closeSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";

import { messageOf, UserError } from "../user-error.ts";

/** Where the guest was when it was saved. */
export type Phase = "idle" | "run" | "session";

const phases: readonly Phase[] = ["idle", "run", "session"];
const magic = "virtio session ";

/** A `--save` file: a line that says where the session was, then the machine's state. */
export function writeStateFile(path: string, phase: Phase, state: Uint8Array): void {
  try {
    // Whole or not at all: what was saved before is there until this is.
    const temporary = `${path}.new`;
    const fd = openSync(temporary, "w", 0o600);
    try {
      writeSync(fd, `${magic}${phase}\n`);
      for (let done = 0; done < state.length;) done += writeSync(fd, state, done);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    throw new UserError(`--save: ${messageOf(error)}`);
  }
}

export function readStateFile(path: string): { readonly phase: Phase; readonly state: Uint8Array } {
  let file: Uint8Array;
  try {
    file = readFileSync(path);
  } catch (error) {
    throw new UserError(`--restore: ${messageOf(error)}`);
  }
  const head = Buffer.from(file.subarray(0, 64)).toString("latin1");
  const end = head.indexOf("\n");
  const phase = phases.find((known) => head.slice(0, end) === `${magic}${known}`);
  if (phase === undefined) throw new UserError(`--restore ${path}: this is no file of --save`);
  return { phase, state: file.subarray(end + 1) };
}
