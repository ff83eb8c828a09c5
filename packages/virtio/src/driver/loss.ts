import type { DriverPlatform } from "./platform.ts";

/** What one transport knows of the loss of its machine. */
export class MachineLoss {
  readonly #forget: (() => void) | undefined;
  #reason: Error | undefined;

  /** `tell` is called once, when the machine is gone. */
  constructor(platform: DriverPlatform, tell: () => void) {
    this.#forget = platform.onLost?.((reason) => {
      this.#reason = reason;
      tell();
    });
  }

  /** Why the machine is gone, or undefined while it is there. */
  get reason(): Error | undefined {
    return this.#reason;
  }

  close(): void {
    this.#forget?.();
  }
}
