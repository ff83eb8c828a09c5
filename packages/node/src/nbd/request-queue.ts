import type { NbdRequest } from "./request.ts";

/** Under way at so many losses: it may be what kills the server. */
const SUSPECT_LOSSES = 2;

/**
 * Requests that wait to be sent, in their order. One that was under way at several losses is sent alone, in turn with what else
 * waits: if it kills the server, nothing is lost beside it.
 */
export class RequestQueue {
  #calm: NbdRequest[] = [];
  #head = 0;
  readonly #suspects: NbdRequest[] = [];
  /** A suspect was sent last. */
  #alone = false;
  /** So many of the others go before the next suspect: all that wait when there is a connection again. */
  #before = 0;
  #lost = false;

  push(request: NbdRequest): void {
    this.#calm.push(request);
  }

  /** Requests of a lost connection. */
  putBack(requests: readonly NbdRequest[]): void {
    const suspect = ({ losses }: NbdRequest): boolean => losses >= SUSPECT_LOSSES;
    const calm = requests.filter((request) => !suspect(request));
    this.#calm = [...calm, ...this.#calm.slice(this.#head)];
    this.#head = 0;
    this.#suspects.push(...requests.filter(suspect));
    this.#lost = true;
  }

  /** What may be sent beside so many that are under way; it leaves the queue. */
  next(underWay: number): NbdRequest | undefined {
    if (this.#alone && underWay > 0) return undefined;
    this.#alone = false;
    if (this.#lost) this.#before = this.#calm.length - this.#head;
    this.#lost = false;
    if (this.#suspects.length === 0) return this.#shift();
    if (this.#before > 0 && this.#head < this.#calm.length) {
      this.#before--;
      return this.#shift();
    }
    if (underWay > 0) return undefined;
    this.#alone = true;
    this.#before = this.#calm.length - this.#head;
    return this.#suspects.shift();
  }

  /** Empties the queue. */
  takeAll(): readonly NbdRequest[] {
    const all = [...this.#calm.slice(this.#head), ...this.#suspects];
    this.#calm.length = 0;
    this.#head = 0;
    this.#suspects.length = 0;
    return all;
  }

  #shift(): NbdRequest | undefined {
    const request = this.#calm[this.#head];
    if (request === undefined) return undefined;
    if (++this.#head === this.#calm.length) {
      this.#calm.length = 0;
      this.#head = 0;
    }
    return request;
  }
}
