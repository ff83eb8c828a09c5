import type { QueueChain } from "./chain.ts";

/** Chains in the order the driver made them available, so that VIRTIO_F_IN_ORDER devices use them in that order. */
export class InOrderQueue {
  readonly #chains: (QueueChain | undefined)[];
  #head = 0;
  #length = 0;

  constructor(size: number) {
    this.#chains = Array.from({ length: size });
  }

  push(chain: QueueChain): void {
    this.#chains[(this.#head + this.#length++) % this.#chains.length] = chain;
  }

  /** The newest goes away again. */
  dropLast(): void {
    this.#length--;
  }

  /** The oldest chain, if it is completed. */
  shiftCompleted(): QueueChain | undefined {
    const chain = this.#length > 0 ? this.#chains[this.#head] : undefined;
    if (chain === undefined || !chain.completed) return undefined;
    this.#head = (this.#head + 1) % this.#chains.length;
    this.#length--;
    return chain;
  }
}
