import {
  closeSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { makePrivateFolder, PRIVATE_FILE } from "@virtio/node/private-files";

import { UserError } from "../user-error.ts";

/** Milliseconds that another process may take: a download of some 100 MB. */
const LONGEST_WAIT = 10 * 60_000;
const POLL_INTERVAL = 200;
/** Milliseconds between making the file and writing a number into it. */
const LONGEST_WRITE = 5000;

/**
 * Does something while no other process does what has the same lock file. One that died holds nothing: the file has the
 * process's number. Throws a UserError when the other takes longer than ten minutes.
 */
export async function withLock<T>(path: string, action: () => Promise<T>): Promise<T> {
  makePrivateFolder(dirname(path));
  const deadline = Date.now() + LONGEST_WAIT;
  while (!take(path)) {
    if (Date.now() > deadline) throw new UserError(`${path}: another process holds it for ten minutes now`);
    await delay(POLL_INTERVAL);
  }
  try {
    return await action();
  } finally {
    rmSync(path, { force: true });
  }
}

function take(path: string): boolean {
  let fd;
  try {
    fd = openSync(path, "wx", PRIVATE_FILE);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    if (!isHeld(path)) removeDead(path);
    return false;
  }
  try {
    writeSync(fd, `${process.pid}\n`);
    return true;
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** Another one may do the same, and a third have taken the lock in between: what is removed is looked at again. */
function removeDead(path: string): void {
  const aside = `${path}.dead-${process.pid}`;
  try {
    renameSync(path, aside);
    if (isHeld(aside)) linkSync(aside, path);
  } catch {
    // It was another's to remove.
  }
  rmSync(aside, { force: true });
}

function isHeld(path: string): boolean {
  try {
    const pid = Number.parseInt(readFileSync(path, "utf8"), 10);
    // Made a moment ago, and its number not yet written; or its process died in between.
    if (Number.isNaN(pid)) return Date.now() - statSync(path).mtimeMs < LONGEST_WRITE;
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}
