import { connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

interface Message {
  readonly return?: unknown;
  readonly error?: { readonly desc?: string };
  readonly event?: string;
}

/** Milliseconds for a socket to be there, and for an answer. */
const PATIENCE = 30_000;

/** A QEMU's control socket. */
export class Qmp {
  readonly #socket: Socket;
  readonly #messages: Message[] = [];
  #text = "";
  #wake = (): void => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8").on("data", (text: string) => {
      const lines = (this.#text + text).split("\n");
      this.#text = lines.pop() ?? "";
      for (const line of lines) this.#messages.push(JSON.parse(line) as Message);
      this.#wake();
    });
    socket.on("error", () => undefined);
  }

  /** Connects to a QEMU that is about to make its socket. */
  static async open(path: string): Promise<Qmp> {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      const socket = connect(path);
      const connected = await new Promise<boolean>((resolve) => {
        socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      });
      if (connected) {
        const qmp = new Qmp(socket);
        await qmp.run("qmp_capabilities");
        return qmp;
      }
      if (Date.now() > deadline) throw new Error(`no QEMU at ${path}`);
      await delay(50);
    }
  }

  /** A command and its answer. Throws what QEMU says is wrong. */
  async run(execute: string, more: object = {}): Promise<unknown> {
    this.#socket.write(`${JSON.stringify({ execute, arguments: more })}\n`);
    const answer = await this.#next((message) => "return" in message || "error" in message, execute);
    if (answer.error !== undefined) throw new Error(`${execute}: ${answer.error.desc ?? ""}`);
    return answer.return;
  }

  close(): void {
    this.#socket.destroy();
  }

  async #next(wanted: (message: Message) => boolean, what: string): Promise<Message> {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      const index = this.#messages.findIndex(wanted);
      const [found] = index < 0 ? [] : this.#messages.splice(index, 1);
      if (found !== undefined) return found;
      if (Date.now() > deadline) throw new Error(`${what}: no answer`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, PATIENCE);
        this.#wake = (): void => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
