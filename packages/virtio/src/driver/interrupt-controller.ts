import { flagOption, wholeOption } from "../check-option.ts";
import type { InterruptLine, MsiTarget } from "../bus/types.ts";
import type { InterruptAccess, InterruptMessage } from "./platform.ts";

/** Where the messages of an x86 machine go. */
const MESSAGE_ADDRESS = 0xfee00000;
/** As an I/O APIC of the largest machines has. */
const MAX_LINES = 1024;
/** How often a line is served in a row without going down: then it is stuck. */
const MAX_ROUNDS = 10_000;

interface Line {
  asserted: boolean;
  readonly handlers: Set<() => boolean>;
}

/**
 * Interrupt lines and messages of the machine in this process. A handler runs as soon as its interrupt comes, but
 * never inside another handler: what comes meanwhile waits, as with interrupts disabled.
 */
export class InterruptController implements MsiTarget, InterruptAccess {
  /** Lines that stayed asserted though no handler wanted them. */
  spurious = 0;
  /** Calls of handlers, lines and messages. */
  delivered = 0;
  allocateMessage?: (handler: () => void) => InterruptMessage | undefined;
  readonly #lines: Line[];
  readonly #messages = new Map<number, () => void>();
  readonly #pendingMessages = new Set<number>();
  #nextData = 0x20;
  #serving = false;

  /** `lines`: 0 to 1024 inputs. `messages`: message-signalled interrupts can be had. */
  constructor(lines: number, messages: boolean) {
    wholeOption("interrupt controller: lines", lines, 0, MAX_LINES);
    flagOption("interrupt controller: messages", messages);
    this.#lines = Array.from({ length: lines }, () => ({ asserted: false, handlers: new Set() }));
    if (messages) this.allocateMessage = (handler) => this.#allocate(handler);
  }

  /** The input of a line. */
  line(index: number): InterruptLine {
    const line = this.#line(index);
    return {
      set: (asserted) => {
        line.asserted = asserted;
        if (asserted) this.#serve();
      },
    };
  }

  isAsserted(index: number): boolean {
    return this.#line(index).asserted;
  }

  connectLine(index: number, handler: () => boolean): () => void {
    const { handlers } = this.#line(index);
    handlers.add(handler);
    this.#serve();
    return () => void handlers.delete(handler);
  }

  send(address: number, data: number): void {
    if (address !== MESSAGE_ADDRESS) return;
    this.#pendingMessages.add(data);
    this.#serve();
  }

  #allocate(handler: () => void): InterruptMessage {
    const data = this.#nextData++;
    this.#messages.set(data, handler);
    return { address: MESSAGE_ADDRESS, data, release: () => void this.#messages.delete(data) };
  }

  #line(index: number): Line {
    const line = this.#lines[index];
    if (line === undefined) throw new RangeError(`there is no interrupt line ${index}`);
    return line;
  }

  #serve(): void {
    if (this.#serving) return;
    this.#serving = true;
    try {
      for (let rounds = 0; rounds < MAX_ROUNDS; rounds++)
        if (!this.#serveMessages() && !this.#serveLines()) return;
      this.spurious++;
    } finally {
      this.#serving = false;
    }
  }

  #serveMessages(): boolean {
    if (this.#pendingMessages.size === 0) return false;
    for (const data of this.#pendingMessages) {
      this.#pendingMessages.delete(data);
      this.delivered++;
      this.#messages.get(data)?.();
    }
    return true;
  }

  /** True: a handler took one. */
  #serveLines(): boolean {
    let taken = false;
    for (const { asserted, handlers } of this.#lines) {
      if (!asserted || handlers.size === 0) continue;
      let wanted = false;
      for (const handler of handlers) if (handler()) wanted = true;
      if (wanted) this.delivered++;
      else this.spurious++;
      taken ||= wanted;
    }
    return taken;
  }
}
