import { spawn, type ChildProcess } from "node:child_process";

/** Characters that are kept of what a process said; the rest was read or is of no use. */
const KEPT = 1 << 18;
/** Characters of it in an error. */
const SHOWN = 3000;

const running = new Set<ChildProcess>();
// A test that is interrupted leaves no machine behind.
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** A process with a console: what is said to it, and what to wait for in what it says. */
export class Console {
  readonly name: string;
  readonly child: ChildProcess;
  /** Its status when it ended, null when a signal ended it. */
  readonly ended: Promise<number | null>;
  /** What was said and not yet read. */
  #text = "";
  /** The end of all that was said, for errors. */
  #tail = "";
  #gone = false;
  #wake = (): void => undefined;

  constructor(name: string, program: string, argv: readonly string[], cwd?: string) {
    this.name = name;
    this.child = spawn(program, argv, cwd === undefined ? {} : { cwd });
    running.add(this.child);
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("latin1").on("data", (text: string) => {
        this.#text = (this.#text + text).slice(-KEPT);
        this.#tail = (this.#tail + text).slice(-SHOWN);
        this.#wake();
      });
    }
    // Whoever ended has closed its end; that is told by `ended`.
    this.child.stdin?.on("error", () => undefined);
    this.ended = new Promise((resolve, reject) => {
      this.child.once("error", (error) => {
        this.#end();
        reject(error);
      });
      this.child.once("close", (status) => {
        this.#end();
        resolve(status);
      });
    });
    // Who waits for it sees the error, and who does not, sees it in `until`.
    this.ended.catch((error: unknown) => (this.#tail += String(error)));
  }

  /** What was said before `pattern`, which is read with it. Throws with the end of what was said, when it is not said in time. */
  async until(pattern: RegExp, milliseconds: number): Promise<string> {
    const deadline = Date.now() + milliseconds;
    for (;;) {
      const match = pattern.exec(this.#text);
      if (match !== null) {
        const before = this.#text.slice(0, match.index);
        this.#text = this.#text.slice(match.index + match[0].length);
        return before;
      }
      const left = deadline - Date.now();
      if (this.#gone || left <= 0) throw this.error(`${this.#gone ? "ended" : "no"} ${String(pattern)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = (): void => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  send(text: string): void {
    this.child.stdin?.write(text);
  }

  /** Waits for its end; a process that does not come to it is killed. */
  async finish(milliseconds: number): Promise<number | null> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.kill();
    }, milliseconds);
    const status = await this.ended;
    clearTimeout(timer);
    if (late) throw this.error(`not ended after ${milliseconds} ms`);
    return status;
  }

  kill(): void {
    this.child.kill("SIGKILL");
  }

  /** The end of all that was said. */
  get tail(): string {
    return this.#tail.trimEnd();
  }

  error(what: string): Error {
    return new Error(`${this.name}: ${what}; the end of what it said:\n${this.tail}`);
  }

  #end(): void {
    this.#gone = true;
    running.delete(this.child);
    this.#wake();
  }
}

export interface CommandOutcome {
  readonly status: number;
  /** Without the newline at its end. */
  readonly output: string;
}

/**
 * A command for a shell that reads from a console which does not echo. What it says on either stream is the output; the markers
 * are put together in the guest, so that no echo is taken for them.
 */
export async function runCommand(
  shell: Console,
  command: string,
  milliseconds = 60_000,
): Promise<CommandOutcome> {
  shell.send(`echo "<be""gin>"; { ${command}\n} </dev/null 2>&1; echo "<status"" $?>"\n`);
  await shell.until(/<begin>\r?\n/, milliseconds);
  const output = await shell.until(/<status (?=\d+>)/, milliseconds);
  const status = Number.parseInt(await shell.until(/>\r?\n/, 10_000), 10);
  return { status, output: output.replaceAll("\r", "").trimEnd() };
}

/** The output of a command that must not fail. */
export async function outputOf(shell: Console, command: string, milliseconds?: number): Promise<string> {
  const { status, output } = await runCommand(shell, command, milliseconds);
  if (status !== 0) throw shell.error(`${command}: status ${status}`);
  return output;
}
