/**
 * When a device's work runs. A machine that must not see an interrupt while it executes a register access (v86) gives
 * one that waits; without one, work runs at once.
 */
export interface Scheduler {
  /** As soon as it is safe, before the guest can notice: at once, or after the register access. */
  soon(task: () => void): void;
  /** After the host's event loop had a turn: what is left when a time budget is spent. */
  later(task: () => void): void;
  /**
   * When the guest waits for something, or about a millisecond later; at once when the guest is not running just now. Absent:
   * nothing is put off.
   */
  idle?(task: () => void): void;
  /** After what is being done just now, for what is better done once for all that comes together. Absent: a promise's reaction is. */
  afterwards?(task: () => void): void;
  /** A request is left to a promise, or somebody waits by one for its end. For a host whose loop only lets promises go on when it knows of them. */
  promised?(): void;
  /** Milliseconds from any start, for time budgets. */
  now(): number;
}

/** The timers that every JavaScript host has and no standard library declares. */
interface HostTimers {
  readonly setTimeout?: (task: () => void, milliseconds: number) => unknown;
  readonly setImmediate?: (task: () => void) => unknown;
  readonly performance?: { now(): number };
}

const host = globalThis as HostTimers;

/** Runs work at once, and leaves the rest to `setImmediate` or `setTimeout`. */
export const immediateScheduler: Scheduler = {
  soon: (task) => task(),
  later: (task) => {
    if (host.setImmediate !== undefined) host.setImmediate(task);
    else if (host.setTimeout !== undefined) host.setTimeout(task, 0);
    else void Promise.resolve().then(task);
  },
  now: () => host.performance?.now() ?? Date.now(),
};
