/** The timers that every JavaScript host has and no standard library declares. */
interface HostTimers {
  setTimeout?(task: () => void, milliseconds: number): unknown;
  clearTimeout?(timer: unknown): void;
}

const host: HostTimers & object = globalThis;

/** Resolves after the host's event loop had a turn, so that what a device waits for can happen. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    if (host.setTimeout === undefined) resolve();
    else host.setTimeout(resolve, 1);
  });
}

/** A wait that need not be waited for. */
export interface Delay {
  readonly done: Promise<void>;
  /** `done` then never resolves. */
  cancel(): void;
}

/** Waits; at once over on a host without timers. */
export function delay(milliseconds: number): Delay {
  let timer: unknown;
  const done = new Promise<void>((resolve) => {
    if (host.setTimeout === undefined) resolve();
    else timer = host.setTimeout(resolve, milliseconds);
  });
  return { done, cancel: () => host.clearTimeout?.(timer) };
}
