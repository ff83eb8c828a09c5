/**
 * Milliseconds that nothing takes, however busy the machine is with something else: only what hangs takes longer. A test
 * waits for progress and ends with it; this is for what never comes.
 */
export const HANG_MS = 300_000;

/** Looks so often without a pause: most of what a test waits for is done in a few turns of the event loop. */
const EAGER = 50;

/**
 * Resolves when `condition` holds, which is asked again and again.
 *
 * @param what that it waits for, or a function that says it in the end; for the Error of what hangs
 */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string | (() => string) = "what was to come",
): Promise<void> {
  const start = performance.now();
  for (let i = 0; !(await condition()); i++) {
    if (performance.now() - start > HANG_MS)
      throw new Error(`waited in vain: ${typeof what === "string" ? what : what()}`);
    await new Promise<void>((resolve) => {
      if (i < EAGER) setImmediate(resolve);
      else setTimeout(resolve, 2);
    });
  }
}
