import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, fstatSync, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { QemuError } from "./error.ts";

/** Characters of its standard error that are kept: the last ones. */
const LAST_WORDS = 2000;
/** Milliseconds that it has to end by itself. */
const GRACE = 2000;

/** Machines of this process that are still there: they must not outlive it. */
const running = new Set<ChildProcess>();
let hooked = false;

/**
 * Has a process killed when its parent ends, however that happens. Part of Debian's util-linux; where it is not, a parent
 * that is killed leaves its QEMU behind.
 */
const SETPRIV = "/usr/bin/setpriv";

/** A QEMU process. It ends with this one, and hears nothing of the keys of this one's terminal (Control-C). */
export class QemuProcess {
  /** Resolves when it has ended, with what it was: `exit status 1`. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  /** Its standard error, in a file without a name: it can be read within a call that blocks. */
  #errors: number;
  #how: string | undefined;

  /** `descriptors` become its descriptors 3, 4 … Throws nothing: a program that is not there has `ended`. */
  constructor(program: string, argv: readonly string[], descriptors: readonly number[]) {
    this.#errors = anonymousFile();
    const guarded = existsSync(SETPRIV);
    const [command, ...words] = guarded
      ? [SETPRIV, "--pdeathsig", "KILL", "--", program, ...argv]
      : [program, ...argv];
    this.#child = spawn(command ?? program, words, {
      stdio: ["ignore", "ignore", this.#errors, ...descriptors],
      detached: guarded,
    });
    running.add(this.#child);
    if (!hooked) process.once("exit", killAll);
    hooked = true;
    this.ended = new Promise((resolve) => {
      const done = (how: string): void => {
        running.delete(this.#child);
        resolve((this.#how ??= how));
      };
      this.#child.once("error", (error) => done(error.message));
      this.#child.once("exit", (status, signal) => done(signal ?? `exit status ${status}`));
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** How it ended, or undefined while it runs. */
  get how(): string | undefined {
    return this.#how;
  }

  /** The end of what it wrote to its standard error. */
  lastWords(): string {
    if (this.#errors < 0) return "";
    const { size } = fstatSync(this.#errors);
    const bytes = Buffer.alloc(Math.min(size, LAST_WORDS));
    readSync(this.#errors, bytes, 0, bytes.length, size - bytes.length);
    const lines = bytes.toString("utf8").split("\n");
    return lines
      .slice(size > LAST_WORDS ? 1 : 0)
      .filter((line) => line !== "" && !isNoise(line))
      .join("\n");
  }

  /** The error to throw when it has ended though nobody asked it to. */
  error(): QemuError {
    const words = this.lastWords();
    return new QemuError(
      `QEMU has ended (${this.#how ?? "why is not known"})${words === "" ? "" : `: ${words}`}`,
    );
  }

  /** Waits a moment until it ends by itself, then ends it. */
  async close(): Promise<void> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), GRACE);
    await this.ended;
    clearTimeout(timer);
    if (this.#errors >= 0) closeSync(this.#errors);
    this.#errors = -1;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }
}

function anonymousFile(): number {
  const folder = mkdtempSync(join(tmpdir(), "virtio-qemu-"));
  try {
    return openSync(join(folder, "stderr"), "a+", 0o600);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What every start without sound hardware or a desktop's modules says. */
function isNoise(line: string): boolean {
  return /^(qemu: module |ALSA lib |alsa: |audio: )/.test(line);
}

function killAll(): void {
  for (const child of running) child.kill("SIGKILL");
}
