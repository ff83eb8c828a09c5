/**
 * When a device's work runs. A machine that must not see an interrupt while it executes a register access (v86) gives
 * one that waits; by default work runs at once.
 */
export interface Scheduler {
  /** As soon as it is safe, before the guest can notice: at once, or after the register access. */
  soon(task: () => void): void;
  /** After the host's event loop had a turn: what is left when a time budget is spent. */
  later(task: () => void): void;
}
