/** The timers that every JavaScript host has and no standard library declares. */
interface HostTimers {
  setTimeout?(task: () => void, milliseconds: number): unknown;
}

const host: HostTimers & object = globalThis;

/** Resolves after the host's event loop had a turn, so that what a device waits for can happen. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    if (host.setTimeout === undefined) resolve();
    else host.setTimeout(resolve, 1);
  });
}
