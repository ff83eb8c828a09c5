import { wholeOptions } from "virtio/check-option";
import { performance } from "node:perf_hooks";
import type { Poller, Spinner, Watch } from "@virtio/node/native/poller";
import type { Scheduler } from "virtio/device/scheduler";
import { AdaptiveWindow } from "./adaptive-window.ts";
import { Epoll } from "./epoll.ts";
import { eventLoopDescriptor } from "./event-loop-descriptor.ts";
import { Timer } from "./timer.ts";

/** Milliseconds after which Node's own loop gets a turn, so that its timers run. */
const TURN_EVERY = 10;
/** While it looks at rings, descriptors are asked for this often, in milliseconds. */
const ASK_EVERY = 0.05;
/** Tasks of `poll` run this often, in milliseconds. */
const POLL_INTERVAL = 1;
/** Promises that follow one on another, as many as go on between two looks, and before a sleep. */
const PROMISE_DEPTH = 8;
const DEEPEST_PROMISES = 32;
const PROMISED_LOOKS = 2;
const SETTLED = Promise.resolve();
/** Turns of Node's loop when something is ready there: the second is for what the first one puts off. */
const NODE_TURNS = 2;
/** What of Node's own loop wakes nobody. */
const NEEDS_TURNS = ["Timeout", "Immediate"];

export interface BlockingLoopOptions {
  /**
   * Nanoseconds to go on looking at rings before sleeping, at most: QEMU's `poll-max-ns`. How long it really is follows from how
   * long it was quiet before. Default 0: a few microseconds, which is less than a sleep costs.
   */
  readonly pollMaxNs?: number;
}

/**
 * The loop of a worker that serves devices: it blocks in epoll, and for a while before that it looks at the rings, which costs
 * a driver no system call. Node's own loop has its turn when something is ready there.
 */
export class BlockingLoop implements Poller {
  /** For the devices on this loop: work that is put off is done before the loop sleeps. */
  readonly scheduler: Scheduler = {
    soon: (task) => task(),
    later: (task) => void this.#later.push(task),
    afterwards: (task) => void this.#afterwards.push(task),
    promised: () => this.promised(),
    now: () => (this.#asked = performance.now()),
  };
  /** When a device asked for the time last; 0: not since the loop began to look. */
  #asked = 0;
  readonly #epoll: Epoll;
  readonly #keys = new Uint32Array(64);
  readonly #ready = new Map<number, () => void>();
  readonly #spinners: Spinner[] = [];
  readonly #tasks = new Set<() => void>();
  #later: (() => void)[] = [];
  readonly #afterwards: (() => void)[] = [];
  readonly #window: AdaptiveWindow;
  #stopped = false;
  /** Wakes the loop for a turn of Node's. A time-out of epoll instead would cost each sleep a timer, which is slow in a virtual machine. */
  readonly #timer: Timer;
  #timerSet = false;
  #timerFired = false;
  /** Something happened since the timer was set. */
  #active = true;
  /** Node's own loop has something that wakes nobody. */
  #nodeNeedsTurns = false;
  /** So many times promises get a chance before the next look. */
  #promised = 0;
  /** Promises may still have something to do. */
  #unsettled = false;
  /** Turns that Node's own loop is to get before the next sleep: promises and its callbacks go on in them. */
  #turns = 0;

  constructor(options: BlockingLoopOptions = {}) {
    wholeOptions("blocking loop", options, { pollMaxNs: [0, Number.MAX_SAFE_INTEGER] });
    this.#epoll = new Epoll();
    this.#timer = new Timer(TURN_EVERY);
    this.#window = new AdaptiveWindow((options.pollMaxNs ?? 0) / 1e6);
    const timeForTurn = (): void => {
      this.#timer.clear();
      this.#timerSet = false;
      this.#timerFired = true;
      this.#turns = Math.max(this.#turns, 1);
    };
    this.watch(this.#timer.fd, timeForTurn, true);
  }

  watch(fd: number, ready: () => void, settled = false): Watch {
    this.#epoll.add(fd, fd);
    const own = settled
      ? ready
      : (): void => {
          this.#turns = Math.max(this.#turns, 1);
          ready();
        };
    this.#ready.set(fd, own);
    return {
      stop: () => {
        if (this.#ready.get(fd) !== own) return;
        this.#ready.delete(fd);
        this.#epoll.remove(fd);
      },
    };
  }

  poll(task: () => void): Watch {
    // Of its own: the same task twice is two.
    const own = (): void => task();
    this.#tasks.add(own);
    return { stop: () => void this.#tasks.delete(own) };
  }

  spin(spinner: Spinner): Watch {
    this.#spinners.push(spinner);
    return {
      stop: () => {
        const at = this.#spinners.indexOf(spinner);
        if (at >= 0) this.#spinners.splice(at, 1);
      },
    };
  }

  promised(): void {
    this.#promised = PROMISED_LOOKS;
    this.#unsettled = true;
  }

  /** Ends `run` after what is being done. From other threads it is asked for by a message, for which Node's loop has its turn. */
  stop(): void {
    this.#stopped = true;
  }

  /** Runs until it is stopped. What a callback throws ends it. */
  async run(): Promise<void> {
    const node = await eventLoopDescriptor();
    if (node !== undefined) this.#watchNode(node);
    let quietSince = performance.now();
    let asked = quietSince;
    let turned = quietSince;
    while (!this.#stopped) {
      this.#asked = 0;
      // First: what is to be handed to the system is under way while promises go on.
      const busy = this.#look();
      // A device that worked has asked for the time when it was done.
      let now = this.#asked === 0 ? performance.now() : this.#asked;
      if (busy) quietSince = now;
      if (this.#turns > 0 || now - turned > TURN_EVERY) {
        await this.#takeTurns();
        turned = now = performance.now();
        if (this.#stopped) break;
      } else if (this.#promised > 0) {
        this.#promised--;
        await this.#letPromisesGoOn(PROMISE_DEPTH);
      }
      let wait = 0;
      if (this.#later.length > 0) this.#runLater();
      else if (this.#turns === 0 && now - quietSince >= this.#window.length) {
        if (this.#rest() || this.#afterwards.length > 0 || this.#later.length > 0) {
          quietSince = now;
          continue;
        }
        if (this.#unsettled) {
          this.#unsettled = false;
          await this.#letPromisesGoOn(DEEPEST_PROMISES);
          continue;
        }
        if (this.#turns > 0 || this.#stopped) continue;
        wait = this.#sleepAtMost(node !== undefined);
      }
      if (wait === 0 && now - asked < ASK_EVERY) continue;
      const count = this.#epoll.wait(wait, this.#keys);
      now = asked = performance.now();
      if (wait !== 0) {
        this.#window.woken(now - quietSince);
        this.#active ||= count !== 1 || this.#keys[0] !== this.#timer.fd;
        quietSince = now;
      }
      for (let i = 0; i < count; i++) this.#ready.get(this.#keys[i] ?? 0)?.();
      for (const task of this.#tasks) task();
    }
    this.#runAfterwards();
  }

  /** After `run`. */
  close(): void {
    this.#epoll.close();
    this.#timer.close();
  }

  #watchNode(descriptor: number): void {
    this.watch(descriptor, () => (this.#turns = NODE_TURNS), true);
  }

  /** Far cheaper than a turn of Node's loop. What comes after so many steps waits for the next one. */
  async #letPromisesGoOn(steps: number): Promise<void> {
    this.#active = true;
    for (let i = 0; i < steps; i++) await SETTLED;
  }

  async #takeTurns(): Promise<void> {
    this.#promised = 0;
    this.#unsettled = false;
    const nodeWoke = this.#turns === NODE_TURNS;
    do await turnOfNode();
    while (--this.#turns > 0);
    this.#turns = 0;
    // Callbacks may have put something off: the timer has us look.
    if (!this.#timerFired) this.#active = true;
    if (!nodeWoke && !this.#timerFired) return;
    this.#timerFired = false;
    const waiting = process.getActiveResourcesInfo();
    if (nodeWoke && waiting.includes("Immediate")) this.#turns = NODE_TURNS;
    this.#nodeNeedsTurns = waiting.some((kind) => NEEDS_TURNS.includes(kind));
  }

  #look(): boolean {
    let busy = false;
    this.#runAfterwards();
    for (const spinner of this.#spinners) {
      busy = spinner.look() || busy;
      this.#runAfterwards();
    }
    return busy;
  }

  #rest(): boolean {
    let busy = false;
    for (const spinner of this.#spinners) busy = spinner.rest() || busy;
    return busy;
  }

  /** A task may not add to these: they are flushes. */
  #runAfterwards(): void {
    for (let task = this.#afterwards.pop(); task !== undefined; task = this.#afterwards.pop()) task();
  }

  #runLater(): void {
    const tasks = this.#later;
    this.#later = [];
    for (const task of tasks) task();
  }

  /** Milliseconds, -1 for as long as it takes. */
  #sleepAtMost(nodeWakes: boolean): number {
    if (this.#tasks.size > 0 || !nodeWakes) return POLL_INTERVAL;
    if (!this.#timerSet && (this.#active || this.#nodeNeedsTurns)) {
      this.#timer.set();
      this.#timerSet = true;
      this.#active = false;
    }
    return -1;
  }
}

function turnOfNode(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
