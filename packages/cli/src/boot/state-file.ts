import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";

import { checkPrivateFile, writePrivateFile } from "@virtio/node/private-files";

import { messageOf, UserError } from "../user-error.ts";

/** Where the guest was when it was saved. */
export type Phase = "idle" | "run" | "session";

const phases: readonly Phase[] = ["idle", "run", "session"];
const magic = "virtio session ";
/** Bytes: one view shows all of it, and Node.js reads no more at once. */
const LARGEST = 2 ** 31 - 1;

/** A `--save` file: a line that says where the session was, then the machine's state. */
export function writeStateFile(path: string, phase: Phase, state: Uint8Array): void {
  try {
    writePrivateFile(path, `${magic}${phase}\n`, state);
  } catch (error) {
    throw new UserError(`--save: ${messageOf(error)}`);
  }
}

/** Throws a UserError when `writeStateFile` will not be able to write there: before a guest works for hours to be saved. */
export function checkStateFile(path: string): void {
  try {
    checkPrivateFile(path);
  } catch (error) {
    throw new UserError(`--save: ${messageOf(error)}`);
  }
}

export function readStateFile(path: string): { readonly phase: Phase; readonly state: Uint8Array } {
  let file: Uint8Array;
  try {
    file = readWhole(path);
  } catch (error) {
    throw new UserError(`--restore: ${messageOf(error)}`);
  }
  const head = Buffer.from(file.subarray(0, 64)).toString("latin1");
  const end = head.indexOf("\n");
  const phase = phases.find((known) => head.slice(0, end) === `${magic}${known}`);
  if (phase === undefined) throw new UserError(`--restore ${path}: this is no file of --save`);
  return { phase, state: file.subarray(end + 1) };
}

/** Of a file that has an end: a pipe may never come to one, and a device gives bytes for ever. */
function readWhole(path: string): Uint8Array {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const found = fstatSync(fd);
    if (!found.isFile()) throw new Error(`${path} is no file`);
    if (found.size > LARGEST)
      throw new Error(`${path} has ${found.size} bytes, and a saved state has ${LARGEST} at most`);
    return readFileSync(fd);
  } finally {
    closeSync(fd);
  }
}
