import { flagOptions } from "../../check-option.ts";
import type { ReceiveBuffer } from "../../driver/receive-buffers.ts";
import { ReceiveBuffers } from "../../driver/receive-buffers.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import { TransmitBuffers } from "../../driver/transmit-buffers.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal, DriverVirtqueue } from "../../driver/virtqueue.ts";
import { readLe16, readLe32, writeLe16, writeLe32 } from "../../memory/bytes.ts";
import { decodeUtf8 } from "../../memory/utf8.ts";
import {
  VIRTIO_CONSOLE_CONFIG,
  VIRTIO_CONSOLE_CONSOLE_PORT,
  VIRTIO_CONSOLE_CONTROL,
  VIRTIO_CONSOLE_CONTROL_RECEIVEQ,
  VIRTIO_CONSOLE_CONTROL_SIZE,
  VIRTIO_CONSOLE_CONTROL_TRANSMITQ,
  VIRTIO_CONSOLE_DEVICE_ADD,
  VIRTIO_CONSOLE_DEVICE_READY,
  VIRTIO_CONSOLE_DEVICE_REMOVE,
  VIRTIO_CONSOLE_F_EMERG_WRITE,
  VIRTIO_CONSOLE_F_MULTIPORT,
  VIRTIO_CONSOLE_F_SIZE,
  VIRTIO_CONSOLE_PORT_NAME,
  VIRTIO_CONSOLE_PORT_OPEN,
  VIRTIO_CONSOLE_PORT_READY,
  VIRTIO_CONSOLE_RESIZE,
  VIRTIO_CONSOLE_RESIZE_SIZE,
  consolePortQueue,
} from "../../spec/console.ts";
import { featureBits, hasFeature } from "../../spec/core.ts";
import { VIRTIO_ID_CONSOLE } from "../../spec/ids.ts";
import { checkPortBuffers, ConsolePort, PortBuffers } from "./port.ts";
import type { PortBufferOptions, PortSignals } from "./port.ts";

const TYPE = { id: VIRTIO_ID_CONSOLE, name: "console device" };
/** Ports that the driver makes queues for; a device may say that it has 2^32. */
const MAX_DRIVER_PORTS = 64;
/** Room for a message with a long name. */
const CONTROL_BUFFER_BYTES = 1024 + VIRTIO_CONSOLE_CONTROL_SIZE;
const CONTROL_BUFFERS = 16;
const QUEUE_SIZE = 64;

export interface ConsoleDriverOptions extends PortBufferOptions, DriverOpenOptions {
  /** Use VIRTIO_CONSOLE_F_MULTIPORT when it is offered. Default true. */
  readonly multiport?: boolean;
}

/** Driver of a console device ("Console Device"). */
export class ConsoleDriver {
  readonly session: DriverSession;
  /** Called for each port that appears. */
  onPort: ((port: ConsolePort) => void) | undefined;
  /** Called when a port is taken away. */
  onPortRemoved: ((port: ConsolePort) => void) | undefined;
  readonly #options: ConsoleDriverOptions;
  readonly #ports = new Map<number, ConsolePort>();
  readonly #buffers: (PortBuffers | undefined)[] = [];
  readonly #queues: (readonly [rx: DriverVirtqueue, tx: DriverVirtqueue])[] = [];
  readonly #waiting: {
    match: number | string;
    resolve: (port: ConsolePort) => void;
    reject: (e: Error) => void;
  }[] = [];
  readonly #signals: PortSignals = {};
  #controlTransmit: TransmitBuffers | undefined;

  private constructor(session: DriverSession, options: ConsoleDriverOptions) {
    this.session = session;
    this.#options = options;
    session.onConfigChange = () => this.#readSize();
    session.onFailure = (error) => this.#failed(error);
  }

  /** Brings the device up. Its ports appear one after the other when it has several: `port` waits for one. */
  static open(transport: DriverTransport, options: ConsoleDriverOptions = {}): Promise<ConsoleDriver> {
    const { multiport = true, ring, signal } = options;
    const wanted =
      featureBits(VIRTIO_CONSOLE_F_SIZE, VIRTIO_CONSOLE_F_EMERG_WRITE) |
      (multiport ? featureBits(VIRTIO_CONSOLE_F_MULTIPORT) : 0n);
    const check = (): void => {
      flagOptions("console", options, ["multiport"]);
      checkPortBuffers(options);
    };
    return DriverSession.start(transport, { type: TYPE, wanted, ring, signal, check }, (session) => {
      const driver = new ConsoleDriver(session, options);
      if (session.has(VIRTIO_CONSOLE_F_MULTIPORT)) driver.#startMultiport();
      else driver.#startSingle();
      return driver;
    });
  }

  /**
   * Output without virtqueues, at any time, even before or instead of `open` ("emergency write"). False: the device
   * does not offer it.
   */
  static emergencyWrite(transport: DriverTransport, bytes: Uint8Array): boolean {
    if (!hasFeature(transport.readDeviceFeatures(), VIRTIO_CONSOLE_F_EMERG_WRITE)) return false;
    const field = new Uint8Array(4);
    for (const byte of bytes) {
      writeLe32(field, 0, byte);
      transport.writeConfig(VIRTIO_CONSOLE_CONFIG.emerg_wr, field);
    }
    return true;
  }

  /** The ports that there are, by number. */
  get ports(): ReadonlyMap<number, ConsolePort> {
    return this.#ports;
  }

  /** The port with this number or name; waits until there is one. Rejects when the device fails or is closed. */
  port(match: number | string): Promise<ConsolePort> {
    for (const port of this.#ports.values()) if (matches(port, match)) return Promise.resolve(port);
    const { failure } = this.session;
    if (failure !== undefined) return Promise.reject(failure);
    return new Promise((resolve, reject) => this.#waiting.push({ match, resolve, reject }));
  }

  /** Resets the device; reads and writes under way end with an error. */
  async close(signal?: CancelSignal): Promise<void> {
    this.#failed(new Error("the console driver was closed"));
    await this.session.close(signal);
  }

  #startSingle(): void {
    this.#addQueues(0);
    const port = this.#addPort(0);
    port.isConsole = true;
    port.open();
    port.hostChanged(true);
    this.session.ready();
    this.#readSize();
    this.#announce(port);
  }

  #startMultiport(): void {
    const { session } = this;
    const { memory } = session;
    const field = session.readConfig(VIRTIO_CONSOLE_CONFIG.max_nr_ports, 4);
    const count = Math.max(1, Math.min(readLe32(field, 0), MAX_DRIVER_PORTS));
    const controlRx = session.addQueue(VIRTIO_CONSOLE_CONTROL_RECEIVEQ, QUEUE_SIZE);
    const controlTx = session.addQueue(VIRTIO_CONSOLE_CONTROL_TRANSMITQ, QUEUE_SIZE);
    for (let id = 0; id < count; id++) this.#addQueues(id);
    this.#controlTransmit = new TransmitBuffers(controlTx, memory, QUEUE_SIZE, VIRTIO_CONSOLE_CONTROL_SIZE);
    const receive: ReceiveBuffers = new ReceiveBuffers(
      controlRx,
      memory,
      CONTROL_BUFFERS,
      CONTROL_BUFFER_BYTES,
      (buffer, written) => this.#controlMessage(receive, buffer, written),
    );
    this.#signals.setOpen = (id, open) => this.#send(id, VIRTIO_CONSOLE_PORT_OPEN, open ? 1 : 0);
    session.ready();
    this.#send(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
  }

  #addQueues(id: number): void {
    const index = consolePortQueue(id);
    this.#queues[id] = [
      this.session.addQueue(index, QUEUE_SIZE),
      this.session.addQueue(index + 1, QUEUE_SIZE),
    ];
  }

  /** "The receiveq for each port is populated with one or more receive buffers." */
  #addPort(id: number): ConsolePort {
    const queues = this.#queues[id];
    if (queues === undefined) throw new RangeError(`there are no queues for console port ${id}`);
    const [rx, tx] = queues;
    const buffers = (this.#buffers[id] ??= new PortBuffers(rx, tx, this.session.memory, this.#options));
    const port = new ConsolePort(id, buffers, this.#signals);
    this.#ports.set(id, port);
    buffers.receive.kick();
    return port;
  }

  #controlMessage(receive: ReceiveBuffers, buffer: ReceiveBuffer, written: number): void {
    const message = receive.copy(buffer, written);
    receive.give(buffer);
    receive.kick();
    if (written < VIRTIO_CONSOLE_CONTROL_SIZE) return;
    const id = readLe32(message, VIRTIO_CONSOLE_CONTROL.id);
    const event = readLe16(message, VIRTIO_CONSOLE_CONTROL.event);
    const value = readLe16(message, VIRTIO_CONSOLE_CONTROL.value);
    const port = this.#ports.get(id);
    if (event === VIRTIO_CONSOLE_DEVICE_ADD) this.#deviceAdd(id);
    else if (port === undefined) return;
    else if (event === VIRTIO_CONSOLE_DEVICE_REMOVE) this.#deviceRemove(port);
    else this.#portMessage(port, event, value, message.subarray(VIRTIO_CONSOLE_CONTROL_SIZE));
  }

  #deviceAdd(id: number): void {
    if (this.#ports.has(id)) return this.#send(id, VIRTIO_CONSOLE_PORT_READY, 1);
    let port: ConsolePort;
    try {
      port = this.#addPort(id);
    } catch {
      // More ports than queues, or no DMA memory: "0 indicates failure".
      return this.#send(id, VIRTIO_CONSOLE_PORT_READY, 0);
    }
    this.#send(id, VIRTIO_CONSOLE_PORT_READY, 1);
    this.#announce(port);
  }

  #deviceRemove(port: ConsolePort): void {
    this.#ports.delete(port.id);
    port.remove();
    this.onPortRemoved?.(port);
  }

  #portMessage(port: ConsolePort, event: number, value: number, data: Uint8Array): void {
    switch (event) {
      case VIRTIO_CONSOLE_CONSOLE_PORT:
        port.isConsole = true;
        // "[…] MUST respond with a VIRTIO_CONSOLE_PORT_OPEN message, which MUST have value set to 1."
        port.open();
        port.onChange?.();
        break;
      case VIRTIO_CONSOLE_RESIZE:
        if (data.length < VIRTIO_CONSOLE_RESIZE_SIZE) break;
        port.size = { columns: readLe16(data, 0), rows: readLe16(data, 2) };
        port.onChange?.();
        break;
      case VIRTIO_CONSOLE_PORT_OPEN:
        port.hostChanged(value !== 0);
        break;
      case VIRTIO_CONSOLE_PORT_NAME:
        // QEMU ends it with a NUL, which the spec does not.
        port.name = decodeUtf8(data, 0, data.at(-1) === 0 ? data.length - 1 : data.length);
        port.onChange?.();
        this.#settle(port);
        break;
      default:
    }
  }

  #announce(port: ConsolePort): void {
    this.onPort?.(port);
    this.#settle(port);
  }

  /** Wakes those who wait for this port. */
  #settle(port: ConsolePort): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      const waiting = this.#waiting[i];
      if (waiting === undefined || !matches(port, waiting.match)) continue;
      this.#waiting.splice(i, 1);
      waiting.resolve(port);
    }
  }

  #send(id: number, event: number, value: number): void {
    const message = new Uint8Array(VIRTIO_CONSOLE_CONTROL_SIZE);
    writeLe32(message, VIRTIO_CONSOLE_CONTROL.id, id);
    writeLe16(message, VIRTIO_CONSOLE_CONTROL.event, event);
    writeLe16(message, VIRTIO_CONSOLE_CONTROL.value, value);
    // A failure ends the whole driver, through the session.
    this.#controlTransmit?.send([message]).catch(() => undefined);
  }

  /** "This size applies to port 0 only." */
  #readSize(): void {
    const port = this.#ports.get(0);
    if (port === undefined || !this.session.has(VIRTIO_CONSOLE_F_SIZE)) return;
    const bytes = this.session.readConfig(VIRTIO_CONSOLE_CONFIG.cols, 4);
    const size = { columns: readLe16(bytes, 0), rows: readLe16(bytes, 2) };
    if (size.columns === 0 || (port.size?.columns === size.columns && port.size.rows === size.rows)) return;
    port.size = size;
    port.onChange?.();
  }

  #failed(error: Error): void {
    for (const buffers of this.#buffers) {
      buffers?.received.fail(error);
      buffers?.transmit.fail(error);
    }
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

function matches(port: ConsolePort, match: number | string): boolean {
  return typeof match === "number" ? port.id === match : port.name === match;
}
