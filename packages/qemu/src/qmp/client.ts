import { textOption } from "virtio/check-option";
import { checkTimeout } from "../timeout-option.ts";
import type { Duplex } from "node:stream";
import { connect as connectSocket } from "node:net";
import { QemuError } from "../error.ts";

/** QEMU refused a command. */
export class QmpError extends Error {
  override readonly name = "QmpError";
  readonly command: string;
  /** `GenericError`, `CommandNotFound`, `DeviceNotFound` … */
  readonly errorClass: string;
  /** In QEMU's words. */
  readonly description: string;

  constructor(command: string, errorClass: string, description: string) {
    super(`${command}: ${description}`);
    this.command = command;
    this.errorClass = errorClass;
    this.description = description;
  }
}

export interface QmpEvent {
  /** `SHUTDOWN`, `DEVICE_DELETED` … */
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** Seconds since 1970. */
  readonly time: number;
}

export interface QmpGreeting {
  readonly version: { readonly major: number; readonly minor: number; readonly micro: number };
  /** What the package calls itself, `Debian 1:7.2…`; may be empty. */
  readonly package: string;
  /** Capabilities that it offers: `oob`. */
  readonly capabilities: readonly string[];
}

export interface QmpOptions {
  /** How long QEMU may take for an answer, in milliseconds from 1 to 2^31 - 1. Default 10 s. */
  readonly timeout?: number;
  /** What to add to an error when QEMU is gone: its last words. */
  readonly explain?: () => string;
}

export interface ExecuteOptions {
  readonly signal?: AbortSignal;
}

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

type Json = Readonly<Record<string, unknown>>;

const TIMEOUT = 10_000;
/** A message beyond this is none of QEMU's. */
const MAX_MESSAGE = 64 << 20;

/** A client of the QEMU Machine Protocol, after its capabilities were negotiated. */
export class QmpClient {
  readonly greeting: QmpGreeting;
  /** Called on each event, in order. */
  onEvent: ((event: QmpEvent) => void) | undefined;
  readonly #stream: Duplex;
  readonly #timeout: number;
  readonly #explain: () => string;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #failure: QemuError | undefined;

  private constructor(stream: Duplex, messages: Messages, greeting: QmpGreeting, options: QmpOptions) {
    this.#stream = stream;
    this.greeting = greeting;
    this.#timeout = options.timeout ?? TIMEOUT;
    this.#explain = options.explain ?? (() => "");
    messages.listen({
      message: (message) => this.#message(message),
      end: (reason) => this.#end(reason),
    });
  }

  /**
   * Takes over a stream: waits for the greeting and negotiates capabilities. Rejects with a QemuError, and with a RangeError on an
   * option that cannot be; the stream stays the caller's then.
   */
  static async over(stream: Duplex, options: QmpOptions & ExecuteOptions = {}): Promise<QmpClient> {
    checkTimeout("qmp", options);
    const messages = new Messages(stream);
    try {
      const first = await firstMessage(messages, options);
      const client = new QmpClient(stream, messages, readGreeting(first), options);
      await client.execute("qmp_capabilities", {}, options);
      return client;
    } catch (error) {
      stream.destroy();
      throw error;
    }
  }

  /** Connects to `-qmp unix:PATH,server=on,wait=off`. */
  static async connect(path: string, options: QmpOptions & ExecuteOptions = {}): Promise<QmpClient> {
    textOption("qmp: path", path, 1);
    checkTimeout("qmp", options);
    return QmpClient.over(connectSocket(path), options);
  }

  /**
   * Executes one command. Rejects with a QmpError when QEMU refuses it, with a QemuError when QEMU is gone or does not
   * answer in time, and with the signal's reason; QEMU may execute it then all the same.
   */
  execute(command: string, args: Json = {}, { signal }: ExecuteOptions = {}): Promise<unknown> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (signal?.aborted === true) return Promise.reject(asError(signal.reason));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const aborted = (): void => this.#settle(id)?.reject(asError(signal?.reason));
      signal?.addEventListener("abort", aborted);
      const forget = (): void => signal?.removeEventListener("abort", aborted);
      const timer = setTimeout(() => {
        this.#settle(id)?.reject(new QemuError(`qmp: no answer to ${command} within ${this.#timeout} ms`));
      }, this.#timeout);
      this.#pending.set(id, {
        command,
        timer,
        resolve: (value) => (forget(), resolve(value)),
        reject: (error) => (forget(), reject(error)),
      });
      this.#stream.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** What a command of the human monitor prints. */
  async humanMonitor(command: string, options: ExecuteOptions = {}): Promise<string> {
    const text = await this.execute("human-monitor-command", { "command-line": command }, options);
    if (typeof text !== "string") throw new QemuError(`qmp: '${command}' gave no text`);
    return text.replaceAll("\r\n", "\n");
  }

  close(): void {
    this.#end("the connection was closed");
    this.#stream.destroy();
  }

  #message(message: Json): void {
    if (typeof message["event"] === "string") return this.#event(message);
    const { id } = message;
    const pending = typeof id === "number" ? this.#settle(id) : undefined;
    const { error } = message;
    if (isJson(error)) {
      const errorClass = String(error["class"]);
      const description = String(error["desc"]);
      pending?.reject(new QmpError(pending.command, errorClass, description));
    } else pending?.resolve(message["return"]);
  }

  #event({ event, data, timestamp }: Json): void {
    const seconds = isJson(timestamp) ? Number(timestamp["seconds"]) : NaN;
    const micro = isJson(timestamp) ? Number(timestamp["microseconds"]) : NaN;
    this.onEvent?.({ event: String(event), data: isJson(data) ? data : {}, time: seconds + micro / 1e6 });
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) return undefined;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    return pending;
  }

  #end(reason: string): void {
    const words = this.#explain().trim();
    this.#failure ??= new QemuError(words === "" ? `qmp: ${reason}` : `qmp: ${reason}: ${words}`);
    for (const id of this.#pending.keys()) this.#settle(id)?.reject(this.#failure);
  }
}

interface Listener {
  message(message: Json): void;
  /** Nothing comes any more. Called once. */
  end(reason: string): void;
}

/** Takes a stream apart into messages, one a line. Whoever does not speak the protocol is not listened to any longer. */
class Messages {
  readonly #stream: Duplex;
  #listener: Listener | undefined;
  readonly #pieces: string[] = [];
  #length = 0;
  #ended: string | undefined;

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.setEncoding("utf8");
    stream.on("data", (text: string) => this.#data(text));
    stream.on("error", (error: Error) => this.#end(error.message));
    stream.on("end", () => this.#end("the connection has ended"));
    stream.on("close", () => this.#end("the connection has ended"));
  }

  /** Takes the place of the listener before. One that comes too late is told of the end. */
  listen(listener: Listener): void {
    this.#listener = listener;
    if (this.#ended !== undefined) listener.end(this.#ended);
  }

  #data(text: string): void {
    const lines = text.split("\n");
    const rest = lines.pop() ?? "";
    for (const line of lines) {
      if (this.#ended !== undefined) return;
      const whole = [...this.#pieces.splice(0), line].join("");
      this.#length = 0;
      if (whole.trim() !== "") this.#line(whole);
    }
    this.#pieces.push(rest);
    this.#length += rest.length;
    if (this.#length > MAX_MESSAGE) this.#refuse("a message without an end");
  }

  #line(text: string): void {
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      message = undefined;
    }
    if (isJson(message)) this.#listener?.message(message);
    else this.#refuse(`this is no message: ${text.slice(0, 80)}`);
  }

  #refuse(reason: string): void {
    this.#end(reason);
    this.#pieces.length = 0;
    this.#stream.destroy();
  }

  #end(reason: string): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    this.#listener?.end(reason);
  }
}

function firstMessage(messages: Messages, options: QmpOptions & ExecuteOptions): Promise<Json> {
  const { signal, timeout = TIMEOUT, explain } = options;
  return new Promise((resolve, reject) => {
    const forget = (): void => {
      messages.listen(NOBODY);
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
    };
    const fail = (reason: string): void => {
      forget();
      reject(new QemuError(`qmp: ${[reason, explain?.().trim() ?? ""].filter(Boolean).join(": ")}`));
    };
    const aborted = (): void => {
      forget();
      reject(asError(signal?.reason));
    };
    const timer = setTimeout(() => fail(`no greeting within ${timeout} ms`), timeout);
    if (signal?.aborted === true) return aborted();
    signal?.addEventListener("abort", aborted);
    messages.listen({
      message: (message) => {
        forget();
        resolve(message);
      },
      end: fail,
    });
  });
}

/** Between the greeting and the client that is made from it. */
const NOBODY: Listener = { message: () => undefined, end: () => undefined };

function readGreeting(message: Json): QmpGreeting {
  const qmp = message["QMP"];
  if (!isJson(qmp)) throw new QemuError("qmp: the peer does not greet as QEMU does");
  const version = isJson(qmp["version"]) ? qmp["version"] : {};
  const numbers = isJson(version["qemu"]) ? version["qemu"] : {};
  const capabilities = Array.isArray(qmp["capabilities"]) ? qmp["capabilities"] : [];
  return {
    version: {
      major: Number(numbers["major"] ?? 0),
      minor: Number(numbers["minor"] ?? 0),
      micro: Number(numbers["micro"] ?? 0),
    },
    package: typeof version["package"] === "string" ? version["package"] : "",
    capabilities: capabilities.filter((name): name is string => typeof name === "string"),
  };
}

function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null;
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
