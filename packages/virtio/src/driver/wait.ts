/** How often a register is read while waiting for a device; then it counts as dead. */
const POLLS = 1000;

/** Resolves when `read` gives 0, and lets other work run in between. Rejects when it never does. */
export async function untilZero(what: string, read: () => number): Promise<void> {
  for (let polls = 0; read() !== 0; polls++) {
    if (polls === POLLS) throw new Error(`${what} never completes`);
    await Promise.resolve();
  }
}
