import { flagOptions } from "../check-option.ts";
import { describe, queueText, type VirtioFault } from "../fault.ts";
import { featureNames } from "../spec/feature-names.ts";
import type { DescriptorChain } from "../virtqueue/types.ts";
import type { DriverHint, ObservedDevice, VirtioObserver } from "./observer.ts";
import { statusText } from "./status.ts";

/** What a text log shows. */
export interface TextLogOptions {
  /** Every access to registers and configuration space too; many. Default false. */
  readonly registers?: boolean;
  /** Every buffer and notification too; very many. Default true. */
  readonly buffers?: boolean;
  /**
   * Where a clause stands in the specification, for the end of the lines that name one: `sectionOf` of `virtio/spec/sections`, a table
   * of 40 kB that nothing else loads.
   */
  readonly sectionOf?: (clause: string) => string | undefined;
}

/** Different hints that a log tells apart; of what comes beyond it says that there is more, once. */
export const MAX_DIFFERENT_HINTS = 1024;

const hex = (value: number): string => `0x${value.toString(16)}`;

/**
 * Writes what happens in the devices as lines of text, one event each, without a newline at the end. A hint that repeats is
 * written the 1st, 10th, 100th … time, with its count: a driver cannot make the log long with them.
 */
export class TextLog implements VirtioObserver {
  readonly #write: (line: string) => void;
  readonly #sectionOf: (clause: string) => string | undefined;
  /** How often each hint came, whatever value was found. */
  readonly #hints = new Map<string, number>();
  #tooMany = false;
  register?: NonNullable<VirtioObserver["register"]>;
  available?: NonNullable<VirtioObserver["available"]>;
  used?: NonNullable<VirtioObserver["used"]>;
  notification?: NonNullable<VirtioObserver["notification"]>;

  constructor(write: (line: string) => void, options: TextLogOptions = {}) {
    flagOptions("text log", options, ["registers", "buffers"]);
    this.#write = write;
    this.#sectionOf = options.sectionOf ?? (() => undefined);
    if (options.registers === true) this.register = (...event) => this.#register(...event);
    if (options.buffers === false) return;
    this.available = (device, queue, chain) => this.#available(device, queue, chain);
    this.used = (device, queue, chain, written) =>
      this.#queueLine(device, queue, `used ${chain.token}, ${written} bytes written`);
    this.notification = (device, kind, queue) => this.#notification(device, kind, queue);
  }

  features(device: ObservedDevice, offered: bigint, accepted: bigint, refusal: string | undefined): void {
    this.#line(device, `offered  ${featureNames(device.id, offered).join(" ")}`);
    this.#line(device, `accepted ${featureNames(device.id, accepted).join(" ")}`);
    if (refusal !== undefined) this.#line(device, `FEATURES_OK refused: ${refusal}`);
  }

  status(device: ObservedDevice, from: number, to: number): void {
    this.#line(device, `status ${statusText(from)} -> ${statusText(to)}`);
  }

  fault(device: ObservedDevice, fault: VirtioFault): void {
    this.#line(device, `FAULT ${this.#rule(device, fault.clause, fault.rule, fault)}`);
  }

  hint(device: ObservedDevice, hint: DriverHint): void {
    const key = `${device.label}\n${hint.queue}\n${hint.clause}\n${hint.rule}`;
    const count = (this.#hints.get(key) ?? 0) + 1;
    if (count === 1 && this.#hints.size === MAX_DIFFERENT_HINTS) {
      if (!this.#tooMany)
        this.#line(device, "HINT more different hints than a log tells apart; no more are shown");
      this.#tooMany = true;
      return;
    }
    this.#hints.set(key, count);
    if (!/^10*$/.test(String(count))) return;
    const again = count === 1 ? "" : `, ${count} times by now`;
    this.#line(device, `HINT ${this.#rule(device, hint.clause, hint.rule, hint)}${again}`);
  }

  failed(device: ObservedDevice, queue: number, reason: string): void {
    this.#queueLine(device, queue, reason);
  }

  unsaved(device: ObservedDevice, what: string): void {
    this.#line(device, `NOT SAVED ${what}`);
  }

  #rule(device: ObservedDevice, clause: string, rule: string, place: Parameters<typeof describe>[2]): string {
    const section = this.#sectionOf(clause);
    const text = describe(clause, rule, place, device.queueNames);
    return section === undefined ? text : `${text} (${section})`;
  }

  #register(device: ObservedDevice, access: "read" | "write", name: string, value: number): void {
    this.#line(device, access === "read" ? `${name} reads ${hex(value)}` : `${name} := ${hex(value)}`);
  }

  #available(device: ObservedDevice, queue: number, chain: DescriptorChain): void {
    const { token, readableLength, writableLength } = chain;
    const size = `${readableLength} readable, ${writableLength} writable`;
    this.#queueLine(device, queue, `available ${token}, ${size}`);
  }

  #notification(device: ObservedDevice, kind: string, queue: number | undefined): void {
    if (queue === undefined) this.#line(device, `${kind} notification`);
    else this.#queueLine(device, queue, `${kind} notification`);
  }

  #queueLine(device: ObservedDevice, queue: number, text: string): void {
    this.#line(device, `${queueText(queue, device.queueNames)}: ${text}`);
  }

  #line(device: ObservedDevice, text: string): void {
    this.#write(`${device.label}: ${text}`);
  }
}
