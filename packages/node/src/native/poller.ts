/** A descriptor or a task that is looked after until it is stopped. */
export interface Watch {
  /** Before the descriptor is closed. Stopping twice is no mistake. */
  stop(): void;
}

/** What can be looked at without a system call, by a thread that looks for a while before it sleeps. */
export interface Spinner {
  /** Does what there is to do; false: nothing. */
  look(): boolean;
  /** The thread is about to sleep: asks to be woken, and does what came meanwhile. False: nothing. */
  rest(): boolean;
}

/** How a thread waits: on Node's main loop, or in a worker's own. */
export interface Poller {
  /**
   * Calls `ready` whenever `fd` is readable, until stopped. Throws for what cannot be waited for. `settled`: it leaves nothing to
   * promises, so nothing has to run between it and the next one.
   */
  watch(fd: number, ready: () => void, settled?: boolean): Watch;
  /** Calls `task` again and again, for something that says nothing when it is ready. */
  poll(task: () => void): Watch;
  /** Absent: this thread sleeps as soon as it can. */
  spin?(spinner: Spinner): Watch;
  /** Something was left to promises outside of `ready`: they run before this thread sleeps. Absent: they do anyway. */
  promised?(): void;
}
