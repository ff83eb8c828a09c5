/** Different refusals of one connection that are told of. What a front-end says may be in them, so it could fill a log. */
const MOST = 16;

/**
 * What was refused, for whoever runs this process: the front-end hears no more than that it was. The same is told once a connection.
 */
export class Refusals {
  readonly #tell: (error: Error) => void;
  readonly #told = new Set<string>();

  constructor(tell: (error: Error) => void) {
    this.#tell = tell;
  }

  /** Another front-end, or the same one again. */
  begin(): void {
    this.#told.clear();
  }

  add(error: Error): void {
    if (this.#told.size >= MOST || this.#told.has(error.message)) return;
    this.#told.add(error.message);
    this.#tell(error);
  }
}
