import type { InterruptLine, MsiTarget } from "virtio/bus/types";
import type { InterruptAccess, InterruptMessage } from "virtio/driver/platform";

const MESSAGE_ADDRESS = 0xfee00000;
/** Rounds of serving in a row: a line that is still asserted then is stuck. */
const MAX_ROUNDS = 10_000;

interface Line {
  asserted: boolean;
  readonly handlers: Set<() => boolean>;
}

/** Interrupt lines and messages between the two sides of this process. A handler is never called inside another. */
export class InterruptController implements MsiTarget, InterruptAccess {
  readonly #lines: readonly Line[];
  readonly #messages = new Map<number, () => void>();
  readonly #pending = new Set<number>();
  #nextData = 0x20;
  #serving = false;

  constructor(lines: number) {
    this.#lines = Array.from({ length: lines }, () => ({ asserted: false, handlers: new Set() }));
  }

  /** The input of a line. */
  line(index: number): InterruptLine {
    const line = this.#at(index);
    return {
      set: (asserted) => {
        line.asserted = asserted;
        if (asserted) this.#serve();
      },
    };
  }

  connectLine(index: number, handler: () => boolean): () => void {
    const { handlers } = this.#at(index);
    handlers.add(handler);
    this.#serve();
    return () => void handlers.delete(handler);
  }

  allocateMessage(handler: () => void): InterruptMessage {
    const data = this.#nextData++;
    this.#messages.set(data, handler);
    return { address: MESSAGE_ADDRESS, data, release: () => void this.#messages.delete(data) };
  }

  send(address: number, data: number): void {
    if (address !== MESSAGE_ADDRESS) return;
    this.#pending.add(data);
    this.#serve();
  }

  #at(index: number): Line {
    const line = this.#lines[index];
    if (line === undefined) throw new RangeError(`there is no interrupt line ${index}`);
    return line;
  }

  #serve(): void {
    if (this.#serving) return;
    this.#serving = true;
    try {
      for (let round = 0; round < MAX_ROUNDS; round++) if (!this.#round()) return;
    } finally {
      this.#serving = false;
    }
  }

  /** False: there was nothing to do. */
  #round(): boolean {
    let taken = this.#pending.size > 0;
    for (const data of this.#pending) {
      this.#pending.delete(data);
      this.#messages.get(data)?.();
    }
    for (const { asserted, handlers } of this.#lines) {
      if (!asserted) continue;
      for (const handler of handlers) taken = handler() || taken;
    }
    return taken;
  }
}
