import { nextTurn } from "./turn.ts";

/** How often a register is read while waiting for a device; then it counts as dead. */
const POLLS = 1000;
/** Most devices are done at once; one that waits for its disk or network needs the event loop. */
const QUICK_POLLS = 20;

/** Resolves when `read` gives 0, and lets other work run in between. Rejects when it never does. */
export async function untilZero(what: string, read: () => number): Promise<void> {
  for (let polls = 0; read() !== 0; polls++) {
    if (polls === POLLS) throw new Error(`${what} never completes`);
    await (polls < QUICK_POLLS ? Promise.resolve() : nextTurn());
  }
}
