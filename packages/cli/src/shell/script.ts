import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { Exit } from "./errors.ts";
import { Incomplete, MAX_COMMAND_LENGTH } from "./language/lexer.ts";
import type { Shell } from "./shell.ts";

/** Bytes of a script. */
export const MAX_SCRIPT: number = 16 << 20;

/** Collects lines until they are a command, and runs it. */
export class LineRunner {
  readonly #shell: Shell;
  readonly #typed: boolean;
  #waiting = "";

  /** `typed`: an empty line runs the last command again. */
  constructor(shell: Shell, typed: boolean) {
    this.#shell = shell;
    this.#typed = typed;
  }

  /** A command is begun that needs more lines. */
  get open(): boolean {
    return this.#waiting !== "";
  }

  /** Forgets what was begun. */
  clear(): void {
    this.#waiting = "";
  }

  async line(line: string): Promise<void> {
    const text = this.#waiting === "" ? line : `${this.#waiting}\n${line}`;
    this.#waiting = "";
    if (text.length > MAX_COMMAND_LENGTH) {
      this.#shell.print(`a command of more than ${MAX_COMMAND_LENGTH} characters\n`);
      this.#shell.fail();
      return;
    }
    try {
      await (this.#typed ? this.#shell.type(text) : this.#shell.execute(text));
    } catch (error) {
      if (!(error instanceof Incomplete)) throw error;
      this.#waiting = text;
    }
  }

  /** There are no more lines. */
  end(): void {
    if (this.#waiting === "") return;
    this.#waiting = "";
    this.#shell.print("syntax error: the last command has no end\n");
    this.#shell.fail();
  }
}

/** Runs lines; gives `Shell.outcome`, or the status of `exit`. */
export async function runLines(shell: Shell, text: string): Promise<number> {
  const runner = new LineRunner(shell, false);
  try {
    for (const line of text.split("\n")) await runner.line(line);
    runner.end();
    return shell.outcome;
  } catch (error) {
    if (error instanceof Exit) return error.status;
    throw error;
  }
}

/**
 * Runs lines as they come; gives the status of the last command, as a shell that reads a pipe does, or that of `exit`. One that is too long is an error,
 * and is never held.
 */
export async function runStream(shell: Shell, input: Readable): Promise<number> {
  const runner = new LineRunner(shell, false);
  const decoder = new StringDecoder("utf8");
  let rest = "";
  let skipping = false;
  const take = async (line: string, ended: boolean): Promise<void> => {
    if (!skipping && (ended || line.length > MAX_COMMAND_LENGTH)) await runner.line(line);
    skipping = !ended;
  };
  try {
    for await (const chunk of input) {
      const lines = (rest + decoder.write(chunk as Buffer)).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) await take(line, true);
      if (rest.length <= MAX_COMMAND_LENGTH) continue;
      await take(rest, false);
      rest = "";
    }
    rest += decoder.end();
    if (rest !== "") await take(rest, true);
    runner.end();
    return shell.status;
  } catch (error) {
    if (error instanceof Exit) return error.status;
    throw error;
  }
}
