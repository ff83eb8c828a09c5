/** Waits for all of them, also when one fails: they work on buffers that are somebody else's afterwards. Fails as the first did. */
export async function allDone(pending: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(pending))
    if (result.status === "rejected") throw result.reason;
}
