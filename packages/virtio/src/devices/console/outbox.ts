import { SegmentWriter } from "../../memory/cursor.ts";
import { writeLe16, writeLe32 } from "../../memory/bytes.ts";
import {
  VIRTIO_CONSOLE_CONTROL,
  VIRTIO_CONSOLE_CONTROL_SIZE,
  VIRTIO_CONSOLE_DEVICE_ADD,
  VIRTIO_CONSOLE_DEVICE_REMOVE,
  VIRTIO_CONSOLE_PORT_OPEN,
} from "../../spec/console.ts";
import type { DeviceContext } from "../../device/device.ts";
import { checkReceiveBuffer } from "./rules.ts";

/** A control message to the driver that waits for a buffer. */
export interface ControlMessage {
  readonly id: number;
  readonly event: number;
  readonly value: number;
  /** What follows struct virtio_console_control. */
  readonly data: Uint8Array;
}

const NO_DATA: Uint8Array = new Uint8Array(0);

/**
 * Messages from device to driver that wait for buffers of the control receiveq. Bounded by the number of ports, however
 * slow the driver is: what a later message makes void is dropped, so a port has at most one of each kind waiting (two
 * of PORT_OPEN and a DEVICE_REMOVE of its predecessor). The driver ends up with the state that holds, always.
 */
export class Outbox {
  #messages: ControlMessage[] = [];

  /** Messages that wait, oldest first. */
  get messages(): readonly ControlMessage[] {
    return this.#messages;
  }

  clear(): void {
    this.#messages = [];
  }

  /** Puts back what was saved. */
  restore(messages: readonly ControlMessage[]): void {
    this.#messages = [...messages];
  }

  send(id: number, event: number, value: number, data: Uint8Array = NO_DATA): void {
    const message: ControlMessage = { id, event, value, data };
    if (event === VIRTIO_CONSOLE_DEVICE_REMOVE) {
      if (this.#forget(id)) return;
    } else if (event === VIRTIO_CONSOLE_PORT_OPEN) {
      if (this.#collapse(message)) return;
    } else {
      const at = this.#messages.findIndex((waiting) => waiting.id === id && waiting.event === event);
      if (at >= 0) {
        this.#messages[at] = message;
        return;
      }
    }
    this.#messages.push(message);
  }

  /** Hands on as much as the driver has buffers for. */
  flush(context: DeviceContext, index: number): void {
    const queue = this.#messages.length > 0 ? context.queue(index) : undefined;
    if (queue === undefined) return;
    const writer = new SegmentWriter(context.memory);
    let sent = 0;
    for (const message of this.#messages) {
      const chain = queue.popAvailable();
      if (chain === undefined || !checkReceiveBuffer(chain, index, context)) break;
      // A driver that gives less room than a message needs gets what fits: waiting for more would never end.
      queue.addUsed(chain, writer.start(chain.writable).copy(encode(message)));
      sent++;
    }
    if (sent === 0) return;
    this.#messages.splice(0, sent);
    queue.flush();
  }

  /** The port goes: nothing else about it matters any more. True when the driver never heard of it. */
  #forget(id: number): boolean {
    const added = this.#messages.some(
      (waiting) => waiting.id === id && waiting.event === VIRTIO_CONSOLE_DEVICE_ADD,
    );
    this.#messages = this.#messages.filter(
      (waiting) => waiting.id !== id || waiting.event === VIRTIO_CONSOLE_DEVICE_REMOVE,
    );
    return added;
  }

  /** Open, close, open … while nobody reads: the last state is what counts, and one edge before it. */
  #collapse(message: ControlMessage): boolean {
    const waiting: number[] = [];
    this.#messages.forEach((other, at) => {
      if (other.id === message.id && other.event === VIRTIO_CONSOLE_PORT_OPEN) waiting.push(at);
    });
    const last = waiting.at(-1);
    if (last === undefined) return false;
    if (this.#messages[last]?.value === message.value) return true;
    if (waiting.length < 2) return false;
    this.#messages.splice(last, 1);
    return true;
  }
}

function encode(message: ControlMessage): Uint8Array {
  const bytes = new Uint8Array(VIRTIO_CONSOLE_CONTROL_SIZE + message.data.length);
  writeLe32(bytes, VIRTIO_CONSOLE_CONTROL.id, message.id);
  writeLe16(bytes, VIRTIO_CONSOLE_CONTROL.event, message.event);
  writeLe16(bytes, VIRTIO_CONSOLE_CONTROL.value, message.value);
  bytes.set(message.data, VIRTIO_CONSOLE_CONTROL_SIZE);
  return bytes;
}
