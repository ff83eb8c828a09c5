import { describe } from "virtio/fault";
import type { DriverHint, ObservedDevice, VirtioObserver } from "virtio/device/observer";

function hintText(device: ObservedDevice, hint: DriverHint): string {
  return `${device.label}: ${describe(hint.clause, hint.rule, hint, device.queueNames)}`;
}

/**
 * For devices whose driver is right: a hint is an error, thrown where the driver made the mistake. What `observer`, an object of
 * functions, wants to hear it hears too.
 */
export function noHints(observer: VirtioObserver = {}): VirtioObserver {
  return {
    ...observer,
    hint(device, hint) {
      observer.hint?.(device, hint);
      throw new Error(`a driver of ours gets a hint, ${hintText(device, hint)}`);
    },
  };
}

/**
 * For a guest whose drivers are right, where nothing may be thrown while it runs: keeps its hints until `check`. What `observer`, an
 * object of functions, wants to hear it hears too.
 */
export class HintWatch {
  readonly #hints: string[] = [];
  readonly observer: VirtioObserver;

  constructor(observer: VirtioObserver = {}) {
    this.observer = {
      ...observer,
      hint: (device, hint) => {
        observer.hint?.(device, hint);
        if (this.#hints.length < 10) this.#hints.push(hintText(device, hint));
      },
    };
  }

  /** Throws an Error when there was a hint. */
  check(): void {
    if (this.#hints.length > 0) throw new Error(`the guest's drivers get hints:\n${this.#hints.join("\n")}`);
  }
}

/** The same for a log that `--log` wrote. */
export function checkLog(log: string): void {
  const hints = log.split("\n").filter((line) => line.includes(": HINT "));
  if (hints.length > 0) throw new Error(`the guest's drivers get hints:\n${hints.slice(0, 10).join("\n")}`);
}
