import type { VirtioFault } from "../fault.ts";
import { featureNames } from "../spec/feature-names.ts";
import type { DescriptorChain } from "../virtqueue/types.ts";
import type { ObservedDevice, VirtioObserver } from "./observer.ts";
import { statusText } from "./status.ts";

/** What a text log shows. */
export interface TextLogOptions {
  /** Every register access too; many. Default false. */
  readonly registers?: boolean;
  /** Every buffer and notification too; very many. Default true. */
  readonly buffers?: boolean;
}

const hex = (value: number): string => `0x${value.toString(16)}`;

/** Writes what happens in the devices as lines of text, one event each, without a newline at the end. */
export class TextLog implements VirtioObserver {
  readonly #write: (line: string) => void;
  register?: NonNullable<VirtioObserver["register"]>;
  available?: NonNullable<VirtioObserver["available"]>;
  used?: NonNullable<VirtioObserver["used"]>;
  notification?: NonNullable<VirtioObserver["notification"]>;

  constructor(write: (line: string) => void, options: TextLogOptions = {}) {
    this.#write = write;
    if (options.registers === true) this.register = (...event) => this.#register(...event);
    if (options.buffers === false) return;
    this.available = (device, queue, chain) => this.#available(device, queue, chain);
    this.used = (device, queue, chain, written) =>
      this.#line(device, `virtqueue ${queue}: used ${chain.token}, ${written} bytes written`);
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
    this.#line(device, `FAULT ${fault.message}`);
  }

  #register(device: ObservedDevice, access: "read" | "write", name: string, value: number): void {
    this.#line(device, access === "read" ? `${name} reads ${hex(value)}` : `${name} := ${hex(value)}`);
  }

  #available(device: ObservedDevice, queue: number, chain: DescriptorChain): void {
    const { token, readableLength, writableLength } = chain;
    const size = `${readableLength} readable, ${writableLength} writable`;
    this.#line(device, `virtqueue ${queue}: available ${token}, ${size}`);
  }

  #notification(device: ObservedDevice, kind: string, queue: number | undefined): void {
    const where = queue === undefined ? "" : `virtqueue ${queue}: `;
    this.#line(device, `${where}${kind} notification`);
  }

  #line(device: ObservedDevice, text: string): void {
    this.#write(`${device.label}: ${text}`);
  }
}
