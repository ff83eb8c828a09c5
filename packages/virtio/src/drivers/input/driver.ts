import { wholeOptions } from "../../check-option.ts";
import { Mailbox } from "../../driver/mailbox.ts";
import { ReceiveBuffers, type ReceiveBuffer } from "../../driver/receive-buffers.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import { TransmitBuffers } from "../../driver/transmit-buffers.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import { readLe16, readLe32, writeLe16, writeLe32 } from "../../memory/bytes.ts";
import { VIRTIO_ID_INPUT } from "../../spec/ids.ts";
import {
  VIRTIO_INPUT_CONFIG,
  VIRTIO_INPUT_EVENT as EVENT,
  VIRTIO_INPUT_EVENTQ,
  VIRTIO_INPUT_EVENT_SIZE,
  VIRTIO_INPUT_STATUSQ,
} from "../../spec/input.ts";
import { readInputInfo, type InputInfo } from "./config.ts";
import { EV_LED, EV_SYN, SYN_DROPPED, SYN_REPORT } from "./evdev.ts";

/** An event of Linux's input layer: a key, a motion, a light. */
export interface InputEvent {
  /** EV_…. */
  readonly type: number;
  /** KEY_…, REL_…, ABS_… and so on. */
  readonly code: number;
  /** Signed, 32 bits. */
  readonly value: number;
}

export interface InputDriverOptions extends DriverOpenOptions {
  /** Events that wait for a reader before the device gets no more buffers; it then drops whole reports. 1 or more. Default 1024. */
  readonly maxWaiting?: number;
}

const TYPE = { id: VIRTIO_ID_INPUT, name: "input device" };
const QUEUE_SIZE = 64;
/** Status buffers in flight. */
const STATUS_BUFFERS = 16;
/** Events of one report; a device that never ends one does not fill memory. */
const MAX_REPORT = 256;

/** Driver of an input device ("Input Device"): a keyboard, a mouse, a tablet. */
export class InputDriver implements AsyncIterable<InputEvent> {
  readonly session: DriverSession;
  readonly info: InputInfo;
  readonly #events = new Mailbox<InputEvent>();
  readonly #receive: ReceiveBuffers;
  readonly #status: TransmitBuffers;
  readonly #maxWaiting: number;
  /** Buffers that the device gets back when somebody reads. */
  readonly #withheld: ReceiveBuffer[] = [];

  private constructor(session: DriverSession, { maxWaiting = 1024 }: InputDriverOptions) {
    this.session = session;
    this.#maxWaiting = maxWaiting;
    this.info = readInputInfo(session);
    const { memory } = session;
    const events = session.addQueue(VIRTIO_INPUT_EVENTQ, QUEUE_SIZE);
    const status = session.addQueue(VIRTIO_INPUT_STATUSQ, QUEUE_SIZE);
    this.#receive = new ReceiveBuffers(
      events,
      memory,
      QUEUE_SIZE,
      VIRTIO_INPUT_EVENT_SIZE,
      (buffer, written) => this.#used(buffer, written),
    );
    this.#status = new TransmitBuffers(status, memory, STATUS_BUFFERS, VIRTIO_INPUT_EVENT_SIZE);
    session.onFailure = (error) => this.#failed(error);
    session.ready();
  }

  /** Takes the device over. Throws when it is not an input device, or refuses. */
  static open(transport: DriverTransport, options: InputDriverOptions = {}): Promise<InputDriver> {
    const { ring, signal } = options;
    return DriverSession.start(
      transport,
      {
        type: TYPE,
        config: VIRTIO_INPUT_CONFIG["u.string"],
        wanted: 0n,
        ring,
        signal,
        check: () => wholeOptions("input", options, { maxWaiting: [1, Number.MAX_SAFE_INTEGER] }),
      },
      (session) => new InputDriver(session, options),
    );
  }

  /** The next event, or undefined when the driver was closed. Rejects when the device failed. */
  async receive(): Promise<InputEvent | undefined> {
    const event = await this.#events.take();
    this.#replenish();
    return event;
  }

  /** Events as they come, until the driver is closed. */
  async *[Symbol.asyncIterator](): AsyncGenerator<InputEvent, void> {
    for (let event = await this.receive(); event !== undefined; event = await this.receive()) yield event;
  }

  /**
   * What happened at one time, together and without the EV_SYN that ends it: both axes of a motion, a modifier with its
   * key. A report that the device says it lost a part of is left out.
   */
  async *reports(): AsyncGenerator<readonly InputEvent[], void> {
    let report: InputEvent[] = [];
    let dropped = false;
    for await (const event of this) {
      if (event.type !== EV_SYN) {
        if (report.length < MAX_REPORT) report.push(event);
        else dropped = true;
      } else if (event.code === SYN_DROPPED) dropped = true;
      else if (event.code === SYN_REPORT) {
        if (!dropped && report.length > 0) yield report;
        report = [];
        dropped = false;
      }
    }
  }

  /** Sends status to the device. Resolves when it has taken it. */
  async send({ type, code, value }: InputEvent, signal?: CancelSignal): Promise<void> {
    const bytes = new Uint8Array(VIRTIO_INPUT_EVENT_SIZE);
    writeLe16(bytes, EVENT.type, type);
    writeLe16(bytes, EVENT.code, code);
    writeLe32(bytes, EVENT.value, value);
    await this.#status.send([bytes], signal);
  }

  /** Switches a LED_… light. Rejects with a RangeError when the device does not have it. */
  async setLed(code: number, on: boolean, signal?: CancelSignal): Promise<void> {
    if (this.info.events.get(EV_LED)?.has(code) !== true)
      throw new RangeError(`input: there is no light ${code}`);
    await Promise.all([
      this.send({ type: EV_LED, code, value: on ? 1 : 0 }, signal),
      this.send({ type: EV_SYN, code: SYN_REPORT, value: 0 }, signal),
    ]);
  }

  /** Resets the device; readers see the end, what is sent fails. */
  async close(signal?: CancelSignal): Promise<void> {
    this.#events.end();
    const closed = this.session.close(signal);
    this.#status.fail(new Error("the input driver was closed"));
    await closed;
  }

  #used(buffer: ReceiveBuffer, written: number): void {
    if (written < VIRTIO_INPUT_EVENT_SIZE) {
      const detail = { queue: VIRTIO_INPUT_EVENTQ, value: written };
      return this.session.fail(new VirtioFault("dev.input.operation", "short event", detail));
    }
    const bytes = this.#receive.copy(buffer, VIRTIO_INPUT_EVENT_SIZE);
    this.#events.put({
      type: readLe16(bytes, EVENT.type),
      code: readLe16(bytes, EVENT.code),
      value: readLe32(bytes, EVENT.value) | 0,
    });
    if (this.#events.length >= this.#maxWaiting) {
      this.#withheld.push(buffer);
      return;
    }
    this.#receive.give(buffer);
    this.#receive.kick();
  }

  #replenish(): void {
    if (this.#withheld.length === 0 || this.#events.length >= this.#maxWaiting) return;
    for (const buffer of this.#withheld.splice(0)) this.#receive.give(buffer);
    this.#receive.kick();
  }

  #failed(error: Error): void {
    this.#events.fail(error);
    this.#status.fail(error);
  }
}
