import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { findProgram, needs } from "@virtio/testkit/needs";

/** Real servers to test against. */
export const qemuNbd: string | undefined = findProgram("qemu-nbd");
export const nbdkit: string | undefined = findProgram("nbdkit");

export const needsQemuNbd = (title: string): string => needs("qemu-nbd", "qemu-utils", title);
export const needsNbdkit = (title: string): string => needs("nbdkit", "nbdkit", title);

/** A server of its own process, at a Unix socket that can be used as soon as it is connected to with a timeout. */
export class RealServer {
  readonly #program: string;
  readonly #argv: readonly string[];
  readonly #socket: string | undefined;
  #child: ChildProcess;
  said = "";

  constructor(program: string, argv: readonly string[], socket?: string) {
    this.#program = program;
    this.#argv = argv;
    this.#socket = socket;
    this.#child = this.#start();
  }

  /** As when its machine loses power, but for what the file system knows. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "close");
    this.#child.kill("SIGKILL");
    await ended;
  }

  restart(): void {
    this.#child = this.#start();
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  #start(): ChildProcess {
    // nbdkit does not begin while an old socket is there.
    if (this.#socket !== undefined) rmSync(this.#socket, { force: true });
    const child = spawn(this.#program, this.#argv, { stdio: ["ignore", "ignore", "pipe"] });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.said += text));
    return child;
  }
}

export function startQemuNbd(socket: string, file: string, ...more: readonly string[]): RealServer {
  return new RealServer(
    qemuNbd ?? "qemu-nbd",
    ["-f", "raw", "-k", socket, "-t", "--discard=unmap", ...more, file],
    socket,
  );
}

/** `argv`: filters and options, then the plugin and its parameters. */
export function startNbdkit(socket: string, ...argv: readonly string[]): RealServer {
  return new RealServer(nbdkit ?? "nbdkit", ["-f", "-U", socket, ...argv], socket);
}
