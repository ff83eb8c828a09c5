import { CommandError } from "../errors.ts";
import type { Part } from "./lexer.ts";
import type { Command, List, Word } from "./parser.ts";

/** What commands are run with. */
export interface Host {
  /** The value of a variable, or undefined. */
  variable(name: string): string | undefined;
  setVariable(name: string, value: string): void;
  /** Runs one command; gives its status. `tested`: whether it fails is what the script asks. */
  run(words: readonly string[], tested: boolean): Promise<number>;
  /** A command that cannot be run at all; gives its status. */
  failed(error: CommandError, tested: boolean): number;
  /** Throws when Ctrl-C was pressed. */
  check(): void;
}

/** As U-Boot's CONFIG_SYS_MAXARGS. */
const MAX_WORDS = 64;
/** Characters of a command once its variables are put in. */
const MAX_EXPANDED = 1 << 20;
/** Rounds of a loop without a turn of the event loop, in which Ctrl-C would not be heard. */
const ROUNDS = 64;

/**
 * Runs commands one after the other; gives the status of the last. `tested`: the script asks whether the list fails. So it does
 * of a command before `&&` or `||`.
 */
export async function runList(list: List, host: Host, tested = false): Promise<number> {
  let status = 0;
  for (const [index, { command, after }] of list.entries()) {
    host.check();
    if (after === "&&" && status !== 0) continue;
    if (after === "||" && status === 0) continue;
    const next = list[index + 1]?.after;
    status = await runCommand(command, host, tested || next === "&&" || next === "||");
  }
  return status;
}

async function runCommand(command: Command, host: Host, tested: boolean): Promise<number> {
  switch (command.kind) {
    case "simple":
      return runSimple(command.words, host, tested).catch((error: unknown) => {
        // The next command is still run.
        if (error instanceof CommandError) return host.failed(error, tested);
        throw error;
      });
    case "if": {
      for (const { condition, body } of command.branches)
        if ((await runList(condition, host, true)) === 0) return runList(body, host, tested);
      return command.otherwise === undefined ? 0 : runList(command.otherwise, host, tested);
    }
    case "while": {
      let status = 0;
      for (let round = 0; ((await runList(command.condition, host, true)) === 0) !== command.until; round++) {
        status = await runList(command.body, host, tested);
        await breathe(round, host);
      }
      return status;
    }
    case "for": {
      let status = 0;
      let round = 0;
      for (const value of expand(command.words, host)) {
        host.setVariable(command.name, value);
        status = await runList(command.body, host, tested);
        await breathe(round++, host);
      }
      return status;
    }
  }
}

async function breathe(round: number, host: Host): Promise<void> {
  if (round % ROUNDS === ROUNDS - 1) await new Promise((resolve) => setImmediate(resolve));
  host.check();
}

async function runSimple(words: readonly Word[], host: Host, tested: boolean): Promise<number> {
  const [first] = words;
  const [assigned] = first ?? [];
  const assignment =
    words.length === 1 && assigned?.kind === "text" && !assigned.quoted
      ? /^([A-Za-z_]\w*)=/.exec(assigned.text)
      : null;
  if (assignment !== null && first !== undefined) {
    const [start, name = ""] = assignment;
    host.setVariable(name, joined(first, host).slice(start.length));
    return 0;
  }
  const expanded = expand(words, host);
  if (expanded.length === 0) return 0;
  if (expanded.length > MAX_WORDS) throw new CommandError(`** Too many args (max. ${MAX_WORDS}) **`);
  return host.run(expanded, tested);
}

/** Puts variables in, and splits at blanks what stands outside of quotes. */
export function expand(words: readonly Word[], host: Pick<Host, "variable">): string[] {
  const result: string[] = [];
  let length = 0;
  for (const word of words) {
    let current: string | undefined;
    for (const part of word) {
      const value = valueOf(part, host);
      length += value.length;
      if (length > MAX_EXPANDED) throw new CommandError(`a command of more than ${MAX_EXPANDED} characters`);
      if (part.kind === "text" || part.quoted) {
        current = (current ?? "") + value;
        continue;
      }
      const pieces = value.split(/[ \t\n]+/);
      for (const [i, piece] of pieces.entries()) {
        if (i > 0 && current !== undefined) {
          result.push(current);
          current = undefined;
        }
        if (piece !== "") current = (current ?? "") + piece;
      }
    }
    if (current !== undefined) result.push(current);
  }
  return result;
}

/** One word, whatever is in it. */
function joined(word: Word, host: Host): string {
  let whole = "";
  for (const part of word) {
    whole += valueOf(part, host);
    // A variable made of two of itself doubles each time.
    if (whole.length > MAX_EXPANDED)
      throw new CommandError(`a value of more than ${MAX_EXPANDED} characters`);
  }
  return whole;
}

function valueOf(part: Part, host: Pick<Host, "variable">): string {
  return part.kind === "text" ? part.text : (host.variable(part.name) ?? "");
}
