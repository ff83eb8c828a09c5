import type { Writable } from "node:stream";

/** Milliseconds between two pictures. */
const period = 150;
const pictures = ["|", "/", "-", "\\"] as const;

/** What is written to; `isTTY` says whether somebody looks. */
export type StartupOutput = Writable & { readonly isTTY?: boolean };

/**
 * One line on a terminal that says what is being done until the guest speaks, with something that moves and the seconds that
 * have passed. It is gone without a trace when it is cleared. On anything but a terminal nothing is written.
 */
export class StartupLine {
  readonly #output: StartupOutput;
  readonly #begin = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #title = "";
  #turns = 0;
  #ended: boolean;

  constructor(output: StartupOutput, quiet = false) {
    this.#output = output;
    this.#ended = quiet || output.isTTY !== true;
  }

  /** Something else is being done now. */
  step(title: string): void {
    if (this.#ended) return;
    this.#title = title;
    this.#draw();
    // It must not keep the process alive.
    this.#timer ??= setInterval(() => this.#draw(), period).unref();
  }

  /** Takes the line away, so that something can be written; it comes again. */
  clear(): void {
    if (!this.#ended && this.#title !== "") this.#output.write("\r\u001b[K");
  }

  /** Takes the line away for good. */
  end(): void {
    this.clear();
    this.#ended = true;
    clearInterval(this.#timer);
  }

  #draw(): void {
    const seconds = Math.floor((performance.now() - this.#begin) / 1000);
    const picture = pictures[this.#turns++ % pictures.length] ?? "";
    const time = seconds > 0 ? ` ${seconds} s` : "";
    this.#output.write(`\r${picture} ${this.#title}${time}\u001b[K`);
  }
}
