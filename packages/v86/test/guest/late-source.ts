/** Entropy that says when it was given: found in a guest's memory, it shows whether it may be there. */
import { randomBytes } from "node:crypto";

/** Bytes of a mark; `SMP_CACHE_BYTES` of Linux, what its virtio_rng asks for, is a multiple. */
export const MARK = 16;
const PREFIX = 12;

interface Held {
  readonly target: Uint8Array;
  readonly life: number;
  readonly answer: () => void;
}

/** A source that keeps each request, when it is not `prompt`, until it is told to answer it. */
export class LateSource {
  /** The first bytes of all answers that came in time, and of all that came after the device of their request was reset. */
  static readonly inTime: Buffer = randomBytes(PREFIX);
  static readonly tooLate: Buffer = randomBytes(PREFIX);
  readonly held: Held[] = [];
  /** How often the device was reset. */
  life = 0;
  /** How often it was while this source had a request. */
  resetsInFlight = 0;
  answeredLate = 0;
  /** Answers by itself at once. */
  prompt = true;
  /** Answers by itself: at once in some lives, in all others a few milliseconds after the reset that ended them. */
  byItself = false;
  readonly #changes: (() => void)[] = [];

  readonly fill = (target: Uint8Array): Promise<void> =>
    new Promise((resolve) => {
      this.held.push({ target, life: this.life, answer: resolve });
      if (this.prompt || (this.byItself && this.life % 4 === 3)) setImmediate(() => this.answer());
      this.#changed();
    });

  /** The driver reset the device. */
  reset(): void {
    if (this.held.some(({ life }) => life === this.life)) this.resetsInFlight++;
    this.life++;
    if (this.byItself) for (const _ of this.held) setTimeout(() => this.answer(), 20 * Math.random());
    this.#changed();
  }

  /** Answers the oldest request; false: there is none. */
  answer(): boolean {
    const request = this.held.shift();
    if (request === undefined) return false;
    const { target, life, answer } = request;
    const late = life !== this.life;
    if (late) this.answeredLate++;
    const mark = Buffer.alloc(MARK);
    mark.set(late ? LateSource.tooLate : LateSource.inTime);
    mark.writeUInt32LE(life, PREFIX);
    for (let at = 0; at < target.length; at += MARK) target.set(mark.subarray(0, target.length - at), at);
    answer();
    this.#changed();
    return true;
  }

  /** When this is so; looked at after each request, answer and reset. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#changes.push(resolve));
  }

  #changed(): void {
    for (const change of this.#changes.splice(0)) change();
  }
}

/** The life that a mark of an answer in time is from. Throws an Error on other bytes. */
export function lifeOf(mark: Buffer): number {
  if (!mark.subarray(0, PREFIX).equals(LateSource.inTime))
    throw new Error(`${mark.toString("hex")} is no entropy that came in time`);
  return mark.readUInt32LE(PREFIX);
}
