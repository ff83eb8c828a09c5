import { partOption } from "../check-option.ts";
import type { InterruptLine } from "./types.ts";

/** A level-triggered line that several sources share: asserted while at least one of them asserts it. */
export class SharedInterrupt {
  readonly #output: InterruptLine;
  #asserting = 0;

  constructor(output: InterruptLine) {
    this.#output = partOption("shared interrupt: output", output, "an InterruptLine", "set");
  }

  /** One source's own end of the line. */
  input(): InterruptLine {
    let level = false;
    return {
      set: (asserted) => {
        if (asserted === level) return;
        level = asserted;
        this.#asserting += asserted ? 1 : -1;
        if (this.#asserting === (asserted ? 1 : 0)) this.#output.set(asserted);
      },
    };
  }
}
