import type { Devices } from "./devices.ts";
import type { Environment } from "./environment.ts";
import type { ShellMemory } from "./memory.ts";
import type { Output, Transfer } from "./output.ts";
import type { Target } from "./target/types.ts";

/** What a command works with. */
export interface Context {
  readonly out: Output;
  readonly environment: Environment;
  readonly memory: ShellMemory;
  readonly devices: Devices;
  readonly target: Target;
  readonly registry: Registry;
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal;
  /** It is typed, not read from a file. */
  readonly interactive: boolean;
  /** The same command again, because an empty line was typed. */
  readonly repeated: boolean;
  /** Resolves as the promise does. Rejects on Ctrl-C, and with a CommandError when `what` takes longer. */
  wait<T>(promise: Promise<T>, what: string, milliseconds?: number): Promise<T>;
  /** Shows how far a transfer is, where somebody looks. */
  transfer(title: string, total: number): Transfer;
  /** Runs a whole command line within this one. */
  execute(text: string): Promise<number>;
}

/** A command of the shell. */
export interface CommandSpec {
  readonly name: string;
  /** In a few words. */
  readonly summary: string;
  /** What stands behind `Usage:\nNAME `. */
  readonly help: string;
  /** What `help NAME` shows behind that: what U-Boot's command has not. */
  readonly more?: string;
  /** Words at most, the name included. */
  readonly words: number;
  /** An empty line runs it again. */
  readonly repeats?: boolean;
  /** Its name may be followed by .b, .w, .l or .q. */
  readonly sized?: boolean;
  /** Gives the status. Throws a CommandError or UsageError. */
  run(context: Context, words: readonly string[]): number | Promise<number>;
  /** What the last word may become; `words` are those before it. */
  complete?(context: CompletionContext, words: readonly string[]): readonly string[];
}

/** What completions are made from. */
export type CompletionContext = Pick<Context, "devices" | "environment" | "registry">;

/** All commands by name. */
export class Registry {
  readonly #commands: ReadonlyMap<string, CommandSpec>;

  constructor(commands: readonly CommandSpec[]) {
    this.#commands = new Map(commands.map((command) => [command.name, command]));
  }

  /** By its name, or by the start of it when no other has the same. */
  find(word: string): CommandSpec | undefined {
    const name = word.replace(/\.[a-z]$/, "");
    const sized = name !== word;
    const fits = (command: CommandSpec): boolean => !sized || command.sized === true;
    const exact = this.#commands.get(name);
    if (exact !== undefined) return fits(exact) ? exact : undefined;
    const [found, other] = this.all().filter((command) => command.name.startsWith(name) && fits(command));
    return other === undefined && name !== "" ? found : undefined;
  }

  all(): CommandSpec[] {
    return [...this.#commands.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }
}

/** As U-Boot prints it. */
export function usageText({ name, summary, help }: CommandSpec): string {
  const long = help === "" ? "- No additional help available.\n" : `${help}\n`;
  return `${name} - ${summary}\n\nUsage:\n${name} ${long}`;
}
