import type { InterruptAccess, InterruptMessage } from "virtio/driver/platform";

/** What is needed of the machine. */
export interface InterruptHost {
  /** Returns when every write has been carried out, so that levels are what they are. */
  settle(): void;
  /** A handler threw, or the machine is gone. */
  failed(error: unknown): void;
}

/** Where messages are sent to: words of memory that both sides see. */
export interface MessageArea {
  /** Address of the first word for devices. */
  readonly address: number;
  readonly words: Int32Array;
}

interface Line {
  readonly heard: boolean;
  asserted: boolean;
  readonly handlers: Set<() => boolean>;
}

/** How often a line is served in a row without going down: then it is stuck. */
const MAX_ROUNDS = 1000;
/** What a message writes. */
const MESSAGE = 1;
/** So long after something happened, messages are looked for on every turn of the event loop. */
const EAGER_MILLISECONDS = 2;
/** Otherwise, and for lines that cannot be heard: milliseconds between two looks. */
const LAZY_MILLISECONDS = 1;

/**
 * Interrupts of the machine. Lines are heard from QEMU. Messages (MSI-X) are writes to memory: each has a word of its
 * own, which is looked at on every turn of the event loop while something is going on, else every millisecond. Devices
 * on lines that cannot be heard are asked as often.
 *
 * Handlers never run inside a register access, and never inside one another.
 */
export class QemuInterrupts implements InterruptAccess {
  /** Lines that stayed asserted though no handler wanted them. */
  spurious = 0;
  /** Calls of handlers that had something to do. */
  delivered = 0;
  readonly #host: InterruptHost;
  readonly #area: MessageArea;
  readonly #lines = new Map<number, Line>();
  readonly #freeWords: number[];
  /** Handlers by word. */
  readonly #handlers = new Map<number, () => void>();
  #scheduled = false;
  #serving = false;
  #eagerUntil = 0;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #closed = false;

  constructor(host: InterruptHost, area: MessageArea, unheard: ReadonlySet<number>) {
    this.#host = host;
    this.#area = area;
    for (const number of unheard)
      this.#lines.set(number, { heard: false, asserted: false, handlers: new Set() });
    this.#freeWords = Array.from(area.words.keys()).reverse();
  }

  /** A line that is heard changed. Handlers run later. */
  changed(number: number, raised: boolean): void {
    this.#line(number).asserted = raised;
    if (raised) this.#schedule();
  }

  /** Something was written to the machine: an answer may come soon. */
  expect(): void {
    if (!this.#hasToLook()) return;
    this.#eagerUntil = performance.now() + EAGER_MILLISECONDS;
    this.#look();
  }

  connectLine(number: number, handler: () => boolean): () => void {
    const line = this.#line(number);
    line.handlers.add(handler);
    if (line.asserted) this.#schedule();
    this.#look();
    return () => void line.handlers.delete(handler);
  }

  allocateMessage(handler: () => void): InterruptMessage | undefined {
    const word = this.#freeWords.pop();
    if (word === undefined) return undefined;
    Atomics.store(this.#area.words, word, 0);
    this.#handlers.set(word, handler);
    this.#look();
    return {
      address: this.#area.address + 4 * word,
      data: MESSAGE,
      release: () => {
        if (this.#handlers.get(word) !== handler) return;
        this.#handlers.delete(word);
        this.#freeWords.push(word);
      },
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
  }

  #line(number: number): Line {
    let line = this.#lines.get(number);
    if (line === undefined)
      this.#lines.set(number, (line = { heard: true, asserted: false, handlers: new Set() }));
    return line;
  }

  /** Besides what is told: messages, lines that are not heard, and those that somebody else keeps asserted. */
  #hasToLook(): boolean {
    if (this.#handlers.size > 0) return true;
    for (const line of this.#lines.values()) if (isDoubtful(line)) return true;
    return false;
  }

  /** Serves lines after what is running now. */
  #schedule(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#serve(() => this.#serveLines());
    });
  }

  /** Has the next look planned, while there is anything to look for. */
  #look(): void {
    if (this.#closed || this.#immediate !== undefined) return;
    if (!this.#hasToLook()) return;
    if (performance.now() < this.#eagerUntil) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#immediate = setImmediate(() => {
        this.#immediate = undefined;
        this.#serve(() => this.#lookNow());
        this.#look();
      });
    } else
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#serve(() => this.#lookNow());
        this.#look();
      }, LAZY_MILLISECONDS);
  }

  #lookNow(): void {
    const { words } = this.#area;
    for (const [word, handler] of this.#handlers) {
      if (Atomics.load(words, word) === 0) continue;
      Atomics.store(words, word, 0);
      this.delivered++;
      this.#eagerUntil = performance.now() + EAGER_MILLISECONDS;
      handler();
    }
    for (const line of this.#lines.values()) if (isDoubtful(line)) this.#ask(line.handlers);
  }

  #serveLines(): void {
    for (const line of this.#lines.values()) {
      for (let rounds = 0; line.asserted && line.handlers.size > 0; rounds++) {
        if (!this.#ask(line.handlers) || rounds === MAX_ROUNDS) {
          this.spurious++;
          // It will not be told that another device asks, for the line is asserted already.
          this.#look();
          break;
        }
        // The level after the device's registers were written.
        this.#host.settle();
      }
    }
  }

  /** True: somebody wanted it. */
  #ask(handlers: ReadonlySet<() => boolean>): boolean {
    let wanted = false;
    for (const handler of handlers) if (handler()) wanted = true;
    if (wanted) this.delivered++;
    return wanted;
  }

  #serve(work: () => void): void {
    if (this.#serving || this.#closed) return;
    this.#serving = true;
    try {
      work();
    } catch (error) {
      this.#host.failed(error);
    } finally {
      this.#serving = false;
    }
  }
}

/** A line with drivers on it that may ask without its level changing. */
function isDoubtful({ heard, asserted, handlers }: Line): boolean {
  return handlers.size > 0 && (!heard || asserted);
}
