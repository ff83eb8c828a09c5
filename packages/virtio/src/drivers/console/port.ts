import { wholeOptions } from "../../check-option.ts";
import type { DmaMemory } from "../../driver/types.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { Mailbox } from "../../driver/mailbox.ts";
import { ReceiveBuffers } from "../../driver/receive-buffers.ts";
import type { ReceiveBuffer } from "../../driver/receive-buffers.ts";
import { TransmitBuffers } from "../../driver/transmit-buffers.ts";
import { VIRTQ_MAX_SIZE } from "../../spec/virtqueue.ts";

/** Sizes of a port's buffers. */
export interface PortBufferOptions {
  /** Receive buffers a port, 1 to 32768, and not more than its queue has room for. Default 16. */
  readonly receiveCount?: number;
  /** Bytes of one, 1 to 16 MiB. Default 4096. */
  readonly receiveSize?: number;
  /** Transmit buffers a port, 1 to 32768. Default 4. */
  readonly transmitCount?: number;
  /** Bytes of one, 1 to 16 MiB. Default 16384. */
  readonly transmitSize?: number;
}

const MAX_BUFFER = 2 ** 24;
const RANGES = {
  receiveCount: [1, VIRTQ_MAX_SIZE],
  receiveSize: [1, MAX_BUFFER],
  transmitCount: [1, VIRTQ_MAX_SIZE],
  transmitSize: [1, MAX_BUFFER],
} as const;

/** Throws a RangeError that names the option. */
export function checkPortBuffers(options: PortBufferOptions): void {
  wholeOptions("console", options, RANGES);
}

interface Filled {
  readonly buffer: ReceiveBuffer;
  readonly length: number;
}

/**
 * The buffers of one port. They outlive the port itself: after a removal the device still has them, and a port that is
 * added with the same number uses them again.
 */
export class PortBuffers {
  readonly received: Mailbox<Filled> = new Mailbox();
  readonly receive: ReceiveBuffers;
  readonly transmit: TransmitBuffers;

  constructor(rx: DriverVirtqueue, tx: DriverVirtqueue, memory: DmaMemory, options: PortBufferOptions) {
    const { receiveCount = 16, receiveSize = 4096, transmitCount = 4, transmitSize = 16384 } = options;
    this.receive = new ReceiveBuffers(rx, memory, receiveCount, receiveSize, (buffer, length) => {
      if (length > 0) this.received.put({ buffer, length });
      else this.give(buffer);
    });
    this.transmit = new TransmitBuffers(tx, memory, transmitCount, transmitSize);
  }

  give(buffer: ReceiveBuffer): void {
    this.receive.give(buffer);
    this.receive.kick();
  }
}

/** How a port speaks to the device about itself. */
export interface PortSignals {
  /** Sends a PORT_OPEN; absent without VIRTIO_CONSOLE_F_MULTIPORT. */
  setOpen?(id: number, open: boolean): void;
}

/** One port of a console device, as a pair of byte streams. */
export class ConsolePort implements AsyncIterable<Uint8Array> {
  readonly id: number;
  /** Nominated as a console; others are generic serial ports. */
  isConsole = false;
  name: string | undefined;
  /** Terminal size, once the device told one. */
  size: { readonly columns: number; readonly rows: number } | undefined;
  /** Called when `hostOpen`, `name`, `isConsole` or `size` changed. */
  onChange: (() => void) | undefined;
  readonly #buffers: PortBuffers;
  readonly #signals: PortSignals;
  #hostOpen = false;
  #guestOpen = false;
  #removed = false;
  /** Writes of several buffers do not mix. */
  #writing: Promise<void> = Promise.resolve();

  constructor(id: number, buffers: PortBuffers, signals: PortSignals) {
    this.id = id;
    this.#buffers = buffers;
    this.#signals = signals;
    buffers.received.reopen();
  }

  /** The other end is connected. */
  get hostOpen(): boolean {
    return this.#hostOpen;
  }

  get guestOpen(): boolean {
    return this.#guestOpen;
  }

  /** The device took the port away. */
  get removed(): boolean {
    return this.#removed;
  }

  /** Tells the device that this end is open: bytes come from then on. Consoles are opened by the driver. */
  open(): void {
    if (this.#guestOpen || this.#removed) return;
    this.#guestOpen = true;
    this.#signals.setOpen?.(this.id, true);
  }

  /** Tells the device that this end is closed, and forgets what was not read. */
  close(): void {
    if (!this.#guestOpen || this.#removed) return;
    this.#guestOpen = false;
    this.#signals.setOpen?.(this.id, false);
    this.#discard();
  }

  /**
   * Sends all bytes, in order with other writes. Resolves when the device has taken them: a slow host end makes the
   * writer wait. The bytes are copied before this returns only as far as buffers are free; do not change them until
   * then.
   */
  write(bytes: Uint8Array): Promise<void> {
    const done = this.#writing.then(() => this.#send(bytes));
    this.#writing = done.catch(() => undefined);
    return done;
  }

  /** The next bytes, or undefined when the host end closed or the port was removed, and all was read. */
  async read(): Promise<Uint8Array | undefined> {
    const filled = await this.#buffers.received.take();
    if (filled === undefined) return undefined;
    const bytes = this.#buffers.receive.copy(filled.buffer, filled.length);
    this.#buffers.give(filled.buffer);
    return bytes;
  }

  /** Bytes as they come, until `read` says undefined. */
  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (let bytes = await this.read(); bytes !== undefined; bytes = await this.read()) yield bytes;
  }

  /** The device says that the host end opened or closed. */
  hostChanged(open: boolean): void {
    if (open === this.#hostOpen) return;
    this.#hostOpen = open;
    if (open) this.#buffers.received.reopen();
    else this.#buffers.received.end();
    this.onChange?.();
  }

  /** The device took the port away. */
  remove(): void {
    this.#removed = true;
    this.#hostOpen = this.#guestOpen = false;
    this.#discard();
    this.#buffers.received.end();
    this.onChange?.();
  }

  async #send(bytes: Uint8Array): Promise<void> {
    const { transmit } = this.#buffers;
    const sent: Promise<void>[] = [];
    for (let at = 0; at < bytes.length; at += transmit.size) {
      if (this.#removed) throw new Error(`console port ${this.id} was removed`);
      sent.push(transmit.send([bytes.subarray(at, at + transmit.size)]));
    }
    await Promise.all(sent);
  }

  #discard(): void {
    for (const { buffer } of this.#buffers.received.drain()) this.#buffers.give(buffer);
  }
}
