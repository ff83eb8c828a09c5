/** Shows the steps of a longer piece of work: a bar that redraws itself on a terminal, else one line a step. */
export class Progress {
  readonly #output: NodeJS.WriteStream;
  readonly #live: boolean;
  #title = "";
  #shown = -1;

  constructor(output: NodeJS.WriteStream = process.stderr) {
    this.#output = output;
    this.#live = output.isTTY === true;
  }

  /** A new step begins; the one before is done. */
  step(title: string): void {
    this.#finishLine();
    this.#title = title;
    this.#shown = -1;
    this.#output.write(this.#live ? title : `${title}\n`);
  }

  /** How far the step is, from 0 to 1. */
  fraction(value: number): void {
    const percent = Math.max(0, Math.min(100, Math.floor(value * 100)));
    if (!this.#live || percent === this.#shown) return;
    this.#shown = percent;
    const filled = Math.round(percent / 5);
    const bar = `${"#".repeat(filled)}${".".repeat(20 - filled)}`;
    this.#output.write(`\r${this.#title} [${bar}] ${String(percent).padStart(3)}%\u001b[K`);
  }

  /** All steps are done, or one failed. */
  end(): void {
    this.#finishLine();
    this.#title = "";
  }

  #finishLine(): void {
    if (this.#live && this.#title) this.#output.write("\n");
  }
}
