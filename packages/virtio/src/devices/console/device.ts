import { choiceOption, partOption, powerOption, textOption, wholeOption } from "../../check-option.ts";
import { VIRTQ_MAX_SIZE } from "../../spec/virtqueue.ts";
import type { CharacterBackend } from "../../backends/character.ts";
import type { ConfigSpace, DeviceContext, DeviceHost, QueueSpec, VirtioDevice } from "../../device/device.ts";
import { readLe16, readLe32, writeLe16, writeLe32 } from "../../memory/bytes.ts";
import { SegmentReader } from "../../memory/cursor.ts";
import { encodeUtf8 } from "../../memory/utf8.ts";
import {
  VIRTIO_CONSOLE_CONFIG,
  VIRTIO_CONSOLE_CONFIG_SIZE,
  VIRTIO_CONSOLE_CONTROL,
  VIRTIO_CONSOLE_CONTROL_RECEIVEQ,
  VIRTIO_CONSOLE_CONTROL_SIZE,
  VIRTIO_CONSOLE_CONTROL_TRANSMITQ,
  VIRTIO_CONSOLE_F_EMERG_WRITE,
  VIRTIO_CONSOLE_F_MULTIPORT,
  VIRTIO_CONSOLE_F_SIZE,
  consolePortQueue,
} from "../../spec/console.ts";
import { featureBits, hasFeature } from "../../spec/core.ts";
import { VIRTIO_ID_CONSOLE } from "../../spec/ids.ts";
import { PortControl } from "./control.ts";
import type { ResizeOrder } from "./control.ts";
import { Port, discardTransmitted } from "./port.ts";
import type { PortListener } from "./port.ts";
import { checkTransmitBuffer } from "./rules.ts";
import { parseConsoleState } from "./state.ts";
import type { ConsoleState } from "./state.ts";

/** The most ports of one device: two queues each, below the 1024 queues that QEMU's transports have. */
export const MAX_CONSOLE_PORTS = 511;
/** Bytes of a port's name: it must fit in one buffer of the control receiveq. */
export const MAX_PORT_NAME_BYTES = 1024;

export interface ConsolePortOptions {
  readonly backend: CharacterBackend;
  /** A console (QEMU's `virtconsole`, hvc in Linux) or a generic serial port (`virtserialport`, /dev/vportNpM). */
  readonly kind: "console" | "serial";
  /** For the driver to find the port by: /dev/virtio-ports/NAME in Linux. */
  readonly name?: string;
  /** Port number, 0 to 510; default: the first free one. 0 must be a console, for drivers without multiport know only that. */
  readonly nr?: number;
}

export interface ConsoleOptions {
  readonly ports: readonly ConsolePortOptions[];
  /** `max_nr_ports`, up to 511: room for ports that are added later. Default: what `ports` needs. */
  readonly maxPorts?: number;
  /** Queue Size offered for the data queues, a power of two from 1 to 32768. Default 128. */
  readonly queueSize?: number;
  /**
   * Order of the two fields of a RESIZE message. The spec has columns first; Linux took rows first until 2025 (stable
   * kernels since then, Debian's 6.1.0-50 for one, have it right), and with multiport listens to nothing else.
   * Default "columns-rows".
   */
  readonly resizeOrder?: ResizeOrder;
}

const CONTROL_QUEUE_SIZE = 32;
const RESIZE_ORDERS: readonly ResizeOrder[] = ["columns-rows", "rows-columns"];

/** Console device ("Console Device"): consoles and serial ports on character backends. */
export class ConsoleDevice implements VirtioDevice<ConsoleState>, PortListener {
  readonly id: number = VIRTIO_ID_CONSOLE;
  readonly name: string = "console";
  /** Simple communication controller, other. */
  readonly pciClass: number = 0x078000;
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly config: ConfigSpace;
  readonly maxPorts: number;
  readonly #ports = new Map<number, Port>();
  readonly #control: PortControl;
  readonly #message: Uint8Array = new Uint8Array(VIRTIO_CONSOLE_CONTROL_SIZE);
  #host: DeviceHost | undefined;
  #context: DeviceContext | undefined;
  #multiport = false;
  /** Tell the driver the size once it shows that its console is up. */
  #sizePending = false;

  constructor(options: ConsoleOptions) {
    const { resizeOrder = "columns-rows" } = options;
    choiceOption("console: resizeOrder", resizeOrder, RESIZE_ORDERS);
    const numbered = assignNumbers(options.ports);
    const needed = numbered.reduce((most, { nr }) => Math.max(most, nr + 1), 1);
    this.maxPorts = wholeOption("console: maxPorts", options.maxPorts ?? needed, needed, MAX_CONSOLE_PORTS);
    const multiport = this.maxPorts > 1;
    this.features =
      featureBits(VIRTIO_CONSOLE_F_SIZE, VIRTIO_CONSOLE_F_EMERG_WRITE) |
      (multiport ? featureBits(VIRTIO_CONSOLE_F_MULTIPORT) : 0n);
    this.queues = this.#queueSpecs(
      powerOption("console: queueSize", options.queueSize ?? 128, 1, VIRTQ_MAX_SIZE),
      multiport,
    );
    this.config = {
      length: VIRTIO_CONSOLE_CONFIG_SIZE,
      read: (offset, target) => this.#readConfig(offset, target),
      write: (offset, source) => this.#writeConfig(offset, source),
    };
    this.#control = new PortControl(this.#ports, resizeOrder);
    for (const { nr, port } of numbered) this.#plug(nr, port);
  }

  /** The numbers of the ports that exist. */
  get ports(): readonly number[] {
    return [...this.#ports.keys()];
  }

  /** Plugs a port in while the device runs; returns its number. Throws when there is no room or the number is taken. */
  addPort(options: ConsolePortOptions): number {
    checkPortOptions(options);
    const nr = options.nr ?? firstFree(options, (used) => this.#ports.has(used));
    checkPort(nr, options, this.#ports.has(nr));
    if (nr >= this.maxPorts) throw new RangeError(`console: no room for port ${nr} of ${this.maxPorts}`);
    const port = this.#plug(nr, options);
    if (this.#context === undefined) return nr;
    port.start(this.#context);
    if (this.#multiport) {
      this.#control.announce(port);
      this.#flushControl();
    } else if (nr === 0) port.setGuestOpen(true);
    return nr;
  }

  /** Takes a port away while the device runs. Bytes on their way are lost. */
  removePort(nr: number): void {
    const port = this.#ports.get(nr);
    if (port === undefined) throw new RangeError(`console: there is no port ${nr}`);
    this.#control.remove(port);
    this.#ports.delete(nr);
    port.unplug();
    this.#flushControl();
  }

  plugged(host: DeviceHost): void {
    this.#host = host;
  }

  activate(context: DeviceContext): void {
    this.#context = context;
    this.#multiport = hasFeature(context.features, VIRTIO_CONSOLE_F_MULTIPORT);
    this.#sizePending = !this.#multiport && this.#ports.get(0)?.size !== undefined;
    for (const port of this.#ports.values()) port.start(context);
    if (!this.#multiport) this.#ports.get(0)?.setGuestOpen(true);
    this.#receiveControl(context);
    this.#flushControl();
  }

  reset(): void {
    this.#context = undefined;
    this.#multiport = false;
    this.#control.reset();
    for (const port of this.#ports.values()) port.stop();
  }

  resetQueue(index: number): void {
    for (const port of this.#ports.values()) {
      if (consolePortQueue(port.id) + 1 === index) port.restoreTaken(0);
    }
  }

  save(): ConsoleState {
    return {
      maxPorts: this.maxPorts,
      driverReady: this.#control.driverReady,
      ports: [...this.#ports.values()].map((port) => ({
        id: port.id,
        console: port.console,
        announced: port.announced,
        driverReady: port.driverReady,
        guestOpen: port.guestOpen,
        toldOpen: port.toldOpen,
        columns: port.size?.columns ?? 0,
        rows: port.size?.rows ?? 0,
        taken: port.taken,
      })),
      messages: this.#control.outbox.messages.map((message) => ({ ...message, data: message.data.slice() })),
    };
  }

  restore(untrusted: unknown): void {
    const state = parseConsoleState(untrusted, this.maxPorts);
    const same = state.ports.every((saved) => this.#ports.get(saved.id)?.console === saved.console);
    if (!same || state.ports.length !== this.#ports.size)
      throw new Error("console state: saved with other ports than this device has");
    this.#control.driverReady = state.driverReady;
    this.#control.outbox.restore(state.messages);
    for (const saved of state.ports) {
      const port = this.#ports.get(saved.id);
      if (port === undefined) continue;
      port.announced = saved.announced;
      port.driverReady = saved.driverReady;
      port.restoreTaken(saved.taken);
      // The host end is what it is now, and the driver hears of the difference.
      if (port.size === undefined && saved.columns > 0)
        port.restoreSize({ columns: saved.columns, rows: saved.rows });
      else if ((port.size?.columns ?? 0) !== saved.columns || (port.size?.rows ?? 0) !== saved.rows)
        this.sizeChanged(port);
      port.toldOpen = saved.toldOpen;
      if (port.hostOpen !== saved.toldOpen) this.#control.hostOpenChanged(port);
      port.setGuestOpen(saved.guestOpen);
    }
    this.#flushControl();
  }

  hostOpenChanged(port: Port): void {
    this.#control.hostOpenChanged(port);
    this.#flushControl();
  }

  sizeChanged(port: Port): void {
    this.#control.sizeChanged(port);
    this.#flushControl();
    // "This size applies to port 0 only."
    if (port.id === 0) this.#host?.configChanged();
  }

  #plug(nr: number, options: ConsolePortOptions): Port {
    const name = encodeUtf8(options.name ?? "");
    const port = new Port(nr, options.kind === "console", name, options.backend, this);
    this.#ports.set(nr, port);
    port.plug();
    return port;
  }

  #queueSpecs(queueSize: number, multiport: boolean): QueueSpec[] {
    const specs: QueueSpec[] = [];
    for (let nr = 0; nr < this.maxPorts; nr++) {
      specs.push(
        { name: `receiveq(port${nr})`, maxSize: queueSize, refilled: () => this.#ports.get(nr)?.refilled() },
        {
          name: `transmitq(port${nr})`,
          maxSize: queueSize,
          refilled: (context) => this.#transmit(nr, context),
        },
      );
      if (nr > 0 || !multiport) continue;
      specs.push(
        { name: "control receiveq", maxSize: CONTROL_QUEUE_SIZE, refilled: () => this.#flushControl() },
        {
          name: "control transmitq",
          maxSize: CONTROL_QUEUE_SIZE,
          refilled: (context) => this.#receiveControl(context),
        },
      );
    }
    return specs;
  }

  #transmit(nr: number, context: DeviceContext): void {
    const port = this.#ports.get(nr);
    if (port !== undefined) port.transmit();
    else {
      const queue = context.queue(consolePortQueue(nr) + 1);
      if (queue !== undefined) discardTransmitted(queue);
    }
    if (!this.#sizePending) return;
    // Linux without multiport reads the size when it changes, and not when its console comes up.
    this.#sizePending = false;
    context.configChanged();
  }

  #receiveControl(context: DeviceContext): void {
    const queue = this.#multiport ? context.queue(VIRTIO_CONSOLE_CONTROL_TRANSMITQ) : undefined;
    if (queue === undefined) return;
    const reader = new SegmentReader(context.memory);
    const message = this.#message;
    let used = false;
    for (let chain = queue.popAvailable(); chain !== undefined; chain = queue.popAvailable()) {
      if (!checkTransmitBuffer(chain, VIRTIO_CONSOLE_CONTROL_TRANSMITQ, context)) break;
      const whole = reader.start(chain.readable).copy(message) === message.length;
      queue.addUsed(chain, 0);
      used = true;
      if (!whole) {
        context.watch?.failed(VIRTIO_CONSOLE_CONTROL_TRANSMITQ, "ignored: a message that is too short");
        continue;
      }
      const event = readLe16(message, VIRTIO_CONSOLE_CONTROL.event);
      const value = readLe16(message, VIRTIO_CONSOLE_CONTROL.value);
      const ignored = this.#control.handle(readLe32(message, VIRTIO_CONSOLE_CONTROL.id), event, value);
      if (ignored !== undefined && context.watch !== undefined)
        context.watch.failed(VIRTIO_CONSOLE_CONTROL_TRANSMITQ, `event ${event} ignored: ${ignored}`);
    }
    if (used) queue.flush();
    this.#flushControl();
  }

  #flushControl(): void {
    if (this.#multiport && this.#context !== undefined)
      this.#control.outbox.flush(this.#context, VIRTIO_CONSOLE_CONTROL_RECEIVEQ);
  }

  #readConfig(offset: number, target: Uint8Array): void {
    const bytes = new Uint8Array(VIRTIO_CONSOLE_CONFIG_SIZE);
    const size = this.#ports.get(0)?.size;
    writeLe16(bytes, VIRTIO_CONSOLE_CONFIG.cols, size?.columns ?? 0);
    writeLe16(bytes, VIRTIO_CONSOLE_CONFIG.rows, size?.rows ?? 0);
    writeLe32(bytes, VIRTIO_CONSOLE_CONFIG.max_nr_ports, this.maxPorts);
    target.set(bytes.subarray(offset, offset + target.length));
  }

  /** "The device MUST allow a write to emerg_wr, even on an unconfigured device." */
  #writeConfig(offset: number, source: Uint8Array): boolean {
    const byte = source[VIRTIO_CONSOLE_CONFIG.emerg_wr - offset];
    if (byte === undefined) return false;
    for (const port of this.#ports.values()) {
      if (!port.console) continue;
      port.emergency(byte);
      break;
    }
    return true;
  }
}

/** Gives every port its number, as QEMU does. */
function assignNumbers(ports: readonly ConsolePortOptions[]): { nr: number; port: ConsolePortOptions }[] {
  const taken = new Set<number>();
  for (const port of ports) {
    checkPortOptions(port);
    if (port.nr === undefined) continue;
    checkPort(port.nr, port, taken.has(port.nr));
    taken.add(port.nr);
  }
  return ports.map((port) => {
    const nr = port.nr ?? firstFree(port, (used) => taken.has(used));
    if (port.nr === undefined) checkPort(nr, port, false);
    taken.add(nr);
    return { nr, port };
  });
}

function firstFree(port: ConsolePortOptions, taken: (nr: number) => boolean): number {
  let nr = port.kind === "console" ? 0 : 1;
  while (taken(nr)) nr++;
  return nr;
}

function checkPortOptions({ backend, kind, name }: ConsolePortOptions): void {
  partOption("console: backend of a port", backend, "a CharacterBackend", "write");
  choiceOption("console: kind of a port", kind, ["console", "serial"]);
  if (name !== undefined) textOption("console: name of a port", name);
}

function checkPort(nr: number, port: ConsolePortOptions, taken: boolean): void {
  wholeOption("console: nr of a port", nr, 0, MAX_CONSOLE_PORTS - 1);
  if (taken) throw new RangeError(`console: port ${nr} is taken`);
  if (nr === 0 && port.kind !== "console") throw new RangeError("console: port 0 must be a console");
  if (encodeUtf8(port.name ?? "").length > MAX_PORT_NAME_BYTES)
    throw new RangeError(`console: the name of port ${nr} is longer than ${MAX_PORT_NAME_BYTES} bytes`);
}
