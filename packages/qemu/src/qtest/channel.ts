import { QemuError } from "../error.ts";
import type { BlockingSocket } from "./socket.ts";

const BUFFER_SIZE = 65_536;
/** A longer line is no answer: the longest is a chunk of memory in base64. */
const MAX_LINE = 4 << 20;
/** Lines that nobody asked for, beyond which QEMU does not speak this protocol. */
const MAX_ANSWERS = 1 << 20;

export interface ChannelOptions {
  /** How long QEMU may take, in milliseconds. */
  readonly timeout: number;
  /** What to add to an error: QEMU's last words. */
  readonly explain: () => string;
  /** `IRQ raise 5` or `IRQ lower 5`. */
  readonly onInterrupt: (line: number, raised: boolean) => void;
  /** Called once, from the event loop. */
  readonly onFailure: (error: QemuError) => void;
}

/** Lines to and from qtest. Interrupts, which come between answers at any time, are taken out. */
export class QtestChannel {
  readonly #socket: BlockingSocket;
  readonly #options: ChannelOptions;
  readonly #buffer: Buffer = Buffer.alloc(BUFFER_SIZE);
  /** The start of a line whose end has not come. */
  #partial = "";
  /** Those before `#head` were taken. */
  readonly #answers: string[] = [];
  #head = 0;
  #failure: QemuError | undefined;

  constructor(socket: BlockingSocket, options: ChannelOptions) {
    this.#socket = socket;
    this.#options = options;
  }

  get failure(): QemuError | undefined {
    return this.#failure;
  }

  /** Throws why the channel is of no more use. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Makes the channel unusable; returns the error to throw. */
  fail(reason: string): QemuError {
    if (this.#failure !== undefined) return this.#failure;
    const words = this.#options.explain().trim();
    const failure = new QemuError(words === "" ? `qtest: ${reason}` : `qtest: ${reason}: ${words}`);
    this.#failure = failure;
    setImmediate(() => this.#options.onFailure(failure));
    return failure;
  }

  /** An answer that has come, or undefined. Does not block. */
  poll(): string | undefined {
    if (this.#head === this.#answers.length) {
      this.#head = 0;
      this.#answers.length = 0;
      while (this.#receive());
    }
    const answer = this.#answers[this.#head];
    if (answer !== undefined) this.#head++;
    return answer;
  }

  /** The next answer; blocks until it is there. `to` is what was asked, for people. */
  answer(to: string): string {
    const quick = this.poll();
    if (quick !== undefined) return quick;
    const deadline = performance.now() + this.#options.timeout;
    for (;;) {
      this.check();
      const left = deadline - performance.now();
      if (left <= 0) throw this.fail(`no answer to ${to} within ${this.#options.timeout} ms`);
      this.#socket.wait(left, false);
      const answer = this.poll();
      if (answer !== undefined) return answer;
    }
  }

  /** Sends all of it; blocks while QEMU does not read. */
  send(text: string): void {
    this.check();
    const bytes = Buffer.from(text, "latin1");
    const deadline = performance.now() + this.#options.timeout;
    for (let at = 0; at < bytes.length;) {
      const sent = this.#guard(() => this.#socket.write(bytes.subarray(at)));
      at += sent;
      // QEMU may be waiting for its answers to be read.
      if (sent > 0 || this.#receive()) continue;
      const left = deadline - performance.now();
      if (left <= 0) throw this.fail(`no command was taken within ${this.#options.timeout} ms`);
      this.#socket.wait(left, true);
    }
  }

  /** True: something came, and there may be more. */
  #receive(): boolean {
    this.check();
    const count = this.#guard(() => this.#socket.read(this.#buffer));
    if (count === 0) return false;
    const lines = (this.#partial + this.#buffer.toString("latin1", 0, count)).split("\n");
    this.#partial = lines.pop() ?? "";
    if (this.#partial.length > MAX_LINE) throw this.fail("a line without an end");
    for (const line of lines) {
      if (line.startsWith("IRQ ")) this.#interrupt(line);
      else this.#answers.push(line);
    }
    if (this.#answers.length > MAX_ANSWERS) throw this.fail("answers to nothing");
    return count === BUFFER_SIZE;
  }

  #interrupt(line: string): void {
    const match = /^IRQ (raise|lower) (\d+)$/.exec(line);
    if (match === null) throw this.fail(`'${line}' is no interrupt`);
    this.#options.onInterrupt(Number(match[2]), match[1] === "raise");
  }

  #guard<T>(access: () => T): T {
    try {
      return access();
    } catch (error) {
      throw this.fail(error instanceof Error ? error.message : String(error));
    }
  }
}
