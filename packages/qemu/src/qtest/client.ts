import { textOption } from "virtio/check-option";
import { checkTimeout } from "../timeout-option.ts";
import { QemuError } from "../error.ts";
import { QtestChannel } from "./channel.ts";
import { BlockingSocket } from "./socket.ts";

export interface QtestOptions {
  /** How long QEMU may take for an answer, in milliseconds from 1 to 2^31 - 1. Default 10 s. */
  readonly timeout?: number;
  /** What to add to an error when QEMU is gone: its last words. */
  readonly explain?: () => string;
}

const TIMEOUT = 10_000;
/** Commands go out at the latest when so many characters wait. */
const BATCH = 16_384;
/** Bytes of memory in one command. */
const CHUNK = 1 << 20;

/**
 * A client of QEMU's qtest protocol: accesses to the ports and the memory of a machine, as its processor makes them.
 *
 * What gives an answer blocks this thread until it is there, for a driver's register accesses are no promises. Writes do
 * not wait: they are collected and go out in one piece before the next answer is waited for, at the end of this turn of
 * the event loop (a microtask), or at `flush`. QEMU carries everything out in order. A write that QEMU refuses is a
 * failure of the connection. Every method throws a QemuError when QEMU is gone or does not answer in time.
 */
export class QtestClient {
  /** An intercepted interrupt line went up or down. May be called within any access: make none in it. */
  onInterrupt: ((line: number, raised: boolean) => void) | undefined;
  /** The connection is of no more use. Called once, from the event loop. */
  onFailure: ((error: QemuError) => void) | undefined;
  /** Something was written to the machine. */
  onWrite: (() => void) | undefined;
  /** Commands so far. */
  commands = 0;
  /** Pieces in which they were sent. */
  batches = 0;
  readonly #socket: BlockingSocket;
  readonly #channel: QtestChannel;
  readonly #watch: { stop(): void };
  /** What was not sent. */
  #text = "";
  /** Writes whose answers were not looked at. */
  #unanswered = 0;
  #flushScheduled = false;
  #closed = false;

  /** Takes over a connected socket; on an option that cannot be, a RangeError, it stays the caller's. */
  constructor(socket: BlockingSocket, options: QtestOptions = {}) {
    checkTimeout("qtest", options);
    this.#socket = socket;
    this.#channel = new QtestChannel(socket, {
      timeout: options.timeout ?? TIMEOUT,
      explain: options.explain ?? (() => ""),
      onInterrupt: (line, raised) => this.onInterrupt?.(line, raised),
      onFailure: (error) => {
        this.#watch.stop();
        this.onFailure?.(error);
      },
    });
    this.#watch = socket.watch(() => this.#tryTo(() => this.#look()));
  }

  /** Connects to `-qtest unix:PATH,server=on,wait=off`. Throws a NativeError when nobody listens. */
  static connect(path: string, options: QtestOptions = {}): QtestClient {
    textOption("qtest: path", path, 1);
    checkTimeout("qtest", options);
    return new QtestClient(BlockingSocket.connect(path), options);
  }

  /** Why the connection is of no more use. */
  get failure(): QemuError | undefined {
    return this.#channel.failure;
  }

  inb(port: number): number {
    return this.#word(`inb ${hex(port)}`);
  }

  inw(port: number): number {
    return this.#word(`inw ${hex(port)}`);
  }

  inl(port: number): number {
    return this.#word(`inl ${hex(port)}`);
  }

  outb(port: number, value: number): void {
    this.#post(`outb ${hex(port)} ${hex(value & 0xff)}`);
  }

  outw(port: number, value: number): void {
    this.#post(`outw ${hex(port)} ${hex(value & 0xffff)}`);
  }

  outl(port: number, value: number): void {
    this.#post(`outl ${hex(port)} ${hex(value >>> 0)}`);
  }

  readb(address: number): number {
    return this.#word(`readb ${hex(address)}`);
  }

  readw(address: number): number {
    return this.#word(`readw ${hex(address)}`);
  }

  readl(address: number): number {
    return this.#word(`readl ${hex(address)}`);
  }

  readq(address: number): bigint {
    const command = `readq ${hex(address)}`;
    const answer = this.#ask(command);
    if (!/^0x[0-9a-f]{1,16}$/i.test(answer)) throw this.#strange(command, answer);
    return BigInt(answer);
  }

  writeb(address: number, value: number): void {
    this.#post(`writeb ${hex(address)} ${hex(value & 0xff)}`);
  }

  writew(address: number, value: number): void {
    this.#post(`writew ${hex(address)} ${hex(value & 0xffff)}`);
  }

  writel(address: number, value: number): void {
    this.#post(`writel ${hex(address)} ${hex(value >>> 0)}`);
  }

  writeq(address: number, value: bigint): void {
    this.#post(`writeq ${hex(address)} 0x${BigInt.asUintN(64, value).toString(16)}`);
  }

  /** A copy of `length` bytes of memory. */
  read(address: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; at += CHUNK) {
      const piece = Math.min(CHUNK, length - at);
      const command = `b64read ${hex(address + at)} ${hex(piece)}`;
      const part = Buffer.from(this.#ask(command), "base64");
      if (part.length !== piece) throw this.#strange(command, `${part.length} bytes`);
      bytes.set(part, at);
    }
    return bytes;
  }

  write(address: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += CHUNK) {
      const piece = bytes.subarray(at, at + CHUNK);
      const text = Buffer.from(piece).toString("base64");
      this.#post(`b64write ${hex(address + at)} ${hex(piece.length)} ${text}`);
    }
  }

  memset(address: number, length: number, value: number): void {
    if (length > 0) this.#post(`memset ${hex(address)} ${hex(length)} ${hex(value & 0xff)}`);
  }

  /** From now on the inputs of an interrupt controller are heard here and not there. One device a machine. */
  interceptInputs(qomPath: string): void {
    this.#ask(`irq_intercept_in ${oneWord(qomPath)}`);
  }

  /** The same for the outputs of a device. */
  interceptOutputs(qomPath: string): void {
    this.#ask(`irq_intercept_out ${oneWord(qomPath)}`);
  }

  /**
   * Lets the machine's clock go on, by nanoseconds or to its next timer, and returns its time. Only with `-accel qtest`:
   * elsewhere the clock runs by itself, and this throws a RangeError.
   */
  clockStep(nanoseconds?: bigint): bigint {
    const command = nanoseconds === undefined ? "clock_step" : `clock_step ${nanoseconds}`;
    const [answer = ""] = this.execute([command]);
    if (!/^OK \d+$/.test(answer)) throw new RangeError(`'${command}' was answered with '${answer}'`);
    return BigInt(answer.slice(3));
  }

  /** Commands in the words of the protocol, sent in one piece; their answers in order: `OK 0x12`, `FAIL …`. */
  execute(commands: readonly string[]): readonly string[] {
    for (const command of commands)
      if (!/^[ -~]+$/.test(command)) throw new RangeError(`no command is ${JSON.stringify(command)}`);
    this.#channel.check();
    this.#text += commands.map((command) => `${command}\n`).join("");
    this.commands += commands.length;
    this.flush();
    this.#skipWrites();
    return commands.map((command) => this.#channel.answer(command.slice(0, 80)));
  }

  /** Sends what waits. Does not wait until it is carried out. */
  flush(): void {
    this.#flushScheduled = false;
    if (this.#text === "") return;
    const text = this.#text;
    this.#text = "";
    this.batches++;
    this.#channel.send(text);
  }

  /** Returns when everything that was written is carried out, and the interrupts of it were told. */
  settle(): void {
    this.#channel.check();
    this.flush();
    this.#skipWrites();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.onFailure = undefined;
    this.onInterrupt = undefined;
    this.#watch.stop();
    this.#channel.fail("the connection was closed");
    this.#socket.close();
  }

  #post(command: string): void {
    this.#channel.check();
    this.#text += `${command}\n`;
    this.#unanswered++;
    this.commands++;
    this.onWrite?.();
    if (this.#text.length >= BATCH) return this.flush();
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    queueMicrotask(() => {
      if (this.#flushScheduled) this.#tryTo(() => this.flush());
    });
  }

  /** What follows `OK` in the answer. */
  #ask(command: string): string {
    const [answer = ""] = this.execute([command]);
    if (answer !== "OK" && !answer.startsWith("OK ")) throw this.#strange(command, answer);
    return answer.slice(3);
  }

  #word(command: string): number {
    const answer = this.#ask(command);
    const value = Number(answer);
    if (!answer.startsWith("0x") || !(value <= 0xffffffff)) throw this.#strange(command, answer);
    return value;
  }

  /** Looks at the answers to writes, which come before the answer to what is asked after them. */
  #skipWrites(): void {
    while (this.#unanswered > 0) this.#written(this.#channel.answer("a write"));
  }

  /** What came while nobody waited: answers to writes, interrupts, the end. */
  #look(): void {
    for (let answer = this.#channel.poll(); answer !== undefined; answer = this.#channel.poll())
      this.#written(answer);
  }

  #written(answer: string): void {
    if (this.#unanswered === 0 || answer !== "OK") throw this.#strange("a write", answer);
    this.#unanswered--;
  }

  #strange(command: string, answer: string): QemuError {
    return this.#channel.fail(`'${command}' was answered with '${answer.slice(0, 200)}'`);
  }

  /** Outside of a call nobody takes the error: whoever comes next gets it, and `onFailure`. */
  #tryTo(work: () => void): void {
    if (this.#closed || this.#channel.failure !== undefined) return;
    try {
      work();
    } catch (error) {
      if (!(error instanceof QemuError)) throw error;
    }
  }
}

function hex(value: number): string {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is no address or value`);
  return `0x${value.toString(16)}`;
}

function oneWord(text: string): string {
  if (!/^\S+$/.test(text)) throw new RangeError(`no path is ${JSON.stringify(text)}`);
  return text;
}
