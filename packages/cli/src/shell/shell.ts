import { messageOf } from "../user-error.ts";
import { Registry, usageText, type Context } from "./command.ts";
import { commands } from "./commands/table.ts";
import { Devices } from "./devices.ts";
import { Environment } from "./environment.ts";
import { CommandError, Exit, Interrupt, UsageError } from "./errors.ts";
import { runList, type Host } from "./language/interpreter.ts";
import { parse } from "./language/parser.ts";
import { ShellMemory } from "./memory.ts";
import type { Output, Transfer } from "./output.ts";
import type { Target } from "./target/types.ts";

export interface ShellOptions {
  readonly out: Output;
  /** Lines that are typed: an empty one repeats, `exit` leaves. Default false. */
  readonly interactive?: boolean;
  /** Milliseconds that a device may take for a request, unless a command says otherwise. Default 10 s. */
  readonly timeout?: number;
  /** Shows how far a transfer is. Default: nothing does. */
  readonly transfer?: (title: string, total: number) => Transfer;
}

const REQUEST_TIMEOUT = 10_000;
/** `run` within `run`. */
const MAX_NESTING = 32;
/** Variables beside the environment, and the characters of their values. */
const MAX_LOCALS = 1024;
const MAX_LOCALS_LENGTH = 16 << 20;
/** The status of what Ctrl-C ended: 128 and SIGINT's number. */
const INTERRUPTED = 130;
const NO_TRANSFER: Transfer = { progress: () => undefined, end: () => undefined };

/** U-Boot's commands on the devices of a target. */
export class Shell {
  readonly environment: Environment = new Environment();
  readonly memory: ShellMemory;
  readonly devices: Devices;
  readonly registry: Registry = new Registry(commands);
  readonly target: Target;
  readonly #options: ShellOptions;
  readonly #locals = new Map<string, string>();
  /** Characters of their values. */
  #localsLength = 0;
  #status = 0;
  #failures = 0;
  /** Within a command of which a script asks whether it fails. */
  #tested = false;
  #nesting = 0;
  #running: AbortController | undefined;
  #last: string | undefined;
  #repeated = false;

  constructor(target: Target, options: ShellOptions) {
    this.target = target;
    this.#options = options;
    this.memory = new ShellMemory(target);
    this.devices = new Devices(target, (line) => {
      this.#failures++;
      this.print(`${line}\n`);
    });
    this.environment.setHex("loadaddr", this.memory.start);
    this.environment.set("autoload", "yes");
    // Addresses that U-Boot's own scripts load to, a quarter of the memory apart.
    const step = Math.floor(this.memory.size / 4);
    for (const [index, name] of ["kernel_addr_r", "ramdisk_addr_r", "fdt_addr_r", "scriptaddr"].entries())
      this.environment.setHex(name, this.memory.start + index * step);
  }

  /** Of the last command. */
  get status(): number {
    return this.#status;
  }

  /**
   * What a script ends with: the status of the last command, or 1 when one before it failed that the script did not ask about
   * (with `if`, `while`, `&&` or `||`), a device could not be opened, or the target is gone.
   */
  get outcome(): number {
    if (this.#status !== 0) return this.#status;
    return Number(this.#failures > 0 || this.target.failure !== undefined);
  }

  /**
   * Runs a command line, or several lines that belong together, and gives the status. Errors become lines of output. Throws an
   * Incomplete when more lines are needed, and an Exit.
   */
  async execute(text: string): Promise<number> {
    const list = this.#parse(text);
    if (list === undefined) return this.#status;
    const outer = this.#running;
    const controller = outer ?? new AbortController();
    this.#running = controller;
    if (++this.#nesting > MAX_NESTING) {
      this.#nesting--;
      const error = new CommandError(`more than ${MAX_NESTING} scripts within each other`);
      return this.#count(this.#fails(error), this.#tested);
    }
    try {
      this.#status = await runList(list, this.#host(controller.signal), this.#tested);
    } catch (error) {
      if (error instanceof Exit && this.#nesting > 1) this.#status = error.status;
      else if (error instanceof Interrupt && outer === undefined) {
        this.#fails(error);
        // A script ends, as it does in sh.
        if (this.#options.interactive !== true) throw new Exit(INTERRUPTED);
      } else if (error instanceof CommandError) this.#count(this.#fails(error), this.#tested);
      else throw error;
    } finally {
      this.#nesting--;
      this.#running = outer;
    }
    return this.#status;
  }

  /** A line that was typed: an empty one runs the last command again, where that makes sense. */
  async type(line: string): Promise<number> {
    if (line.trim() !== "") {
      this.#last = line;
      return this.execute(line);
    }
    if (this.#last === undefined || this.registry.find(firstWord(this.#last))?.repeats !== true)
      return this.#status;
    this.#repeated = true;
    try {
      return await this.execute(this.#last);
    } finally {
      this.#repeated = false;
    }
  }

  /** What was read is no command. */
  fail(): void {
    this.#status = 1;
    this.#failures++;
  }

  /** Ctrl-C: ends what runs. False: nothing does. */
  interrupt(): boolean {
    if (this.#running === undefined) return false;
    this.#running.abort(new Interrupt());
    return true;
  }

  print(text: string): void {
    this.#options.out.write(text);
  }

  /** Lets go of the devices and of the target. */
  async close(): Promise<void> {
    await this.devices.close();
    await this.target.close();
  }

  #parse(text: string): ReturnType<typeof parse> | undefined {
    try {
      return parse(text);
    } catch (error) {
      if (!(error instanceof CommandError) || error.constructor !== CommandError) throw error;
      this.#count(this.#fails(error), this.#tested);
      return undefined;
    }
  }

  #host(signal: AbortSignal): Host {
    return {
      variable: (name) =>
        name === "?" ? String(this.#status) : (this.#locals.get(name) ?? this.environment.get(name)),
      setVariable: (name, value) => this.#setLocal(name, value),
      run: async (words, tested) => this.#count(await this.#runWithin(words, signal, tested), tested),
      failed: (error, tested) => this.#count(this.#fails(error), tested),
      check: () => signal.throwIfAborted(),
    };
  }

  #setLocal(name: string, value: string): void {
    const length = this.#localsLength - (this.#locals.get(name)?.length ?? 0) + value.length;
    const fresh = !this.#locals.has(name);
    if (length > MAX_LOCALS_LENGTH || (fresh && this.#locals.size >= MAX_LOCALS))
      throw new CommandError("too many variables");
    this.#locals.set(name, value);
    this.#localsLength = length;
  }

  /** The commands of a script that this one runs are asked about as it is. */
  async #runWithin(words: readonly string[], signal: AbortSignal, tested: boolean): Promise<number> {
    const outer = this.#tested;
    this.#tested = tested;
    try {
      return await this.#run(words, signal);
    } finally {
      this.#tested = outer;
    }
  }

  #count(status: number, tested: boolean): number {
    if (status !== 0 && !tested) this.#failures++;
    return (this.#status = status);
  }

  async #run(words: readonly string[], signal: AbortSignal): Promise<number> {
    const name = words[0] ?? "";
    const command = this.registry.find(name);
    if (command === undefined) {
      this.print(`Unknown command '${name.slice(0, 80)}' - try 'help'\n`);
      return 1;
    }
    try {
      if (words.length > command.words) throw new UsageError();
      return await command.run(this.#context(signal), words);
    } catch (error) {
      if (error instanceof Interrupt || error instanceof Exit) throw error;
      if (error instanceof UsageError) this.print(usageText(command));
      else this.#fails(error);
      return 1;
    }
  }

  #context(signal: AbortSignal): Context {
    const { out, interactive = false, timeout = REQUEST_TIMEOUT, transfer } = this.#options;
    const { environment, memory, devices, target, registry } = this;
    return {
      out,
      environment,
      memory,
      devices,
      target,
      registry,
      signal,
      interactive,
      repeated: this.#repeated,
      wait: (promise, what, milliseconds = timeout) => waitFor(promise, what, milliseconds, signal),
      transfer: (title, total) => transfer?.(title, total) ?? NO_TRANSFER,
      execute: (text) => this.execute(text),
    };
  }

  /** One line, whatever was thrown: what devices and file systems do must not end the shell. */
  #fails(error: unknown): number {
    if (error instanceof Interrupt) this.print("<INTERRUPT>\n");
    else if (error instanceof CommandError) this.print(`${messageOf(error)}\n`);
    else this.print(`${messageOf(error).replace(/\s*\n\s*/g, "; ")}\n`);
    return (this.#status = 1);
  }
}

function firstWord(line: string): string {
  return /^\s*(\S*)/.exec(line)?.[1] ?? "";
}

/** The promise, unless Ctrl-C or the clock is first. */
export function waitFor<T>(
  promise: Promise<T>,
  what: string,
  milliseconds: number,
  signal: AbortSignal,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    };
    const abort = (): void => {
      end();
      reject(new Interrupt());
    };
    const late = (): void => {
      end();
      reject(new CommandError(`${what}: no answer in ${milliseconds / 1000} s`));
    };
    const timer = setTimeout(late, milliseconds);
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort);
    promise.finally(end).then(resolve, reject);
  });
}
