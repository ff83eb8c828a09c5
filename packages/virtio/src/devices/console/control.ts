import { writeLe16 } from "../../memory/bytes.ts";
import {
  VIRTIO_CONSOLE_CONSOLE_PORT,
  VIRTIO_CONSOLE_DEVICE_ADD,
  VIRTIO_CONSOLE_DEVICE_READY,
  VIRTIO_CONSOLE_DEVICE_REMOVE,
  VIRTIO_CONSOLE_PORT_NAME,
  VIRTIO_CONSOLE_PORT_OPEN,
  VIRTIO_CONSOLE_PORT_READY,
  VIRTIO_CONSOLE_RESIZE,
  VIRTIO_CONSOLE_RESIZE_SIZE,
} from "../../spec/console.ts";
import { Outbox } from "./outbox.ts";
import type { Port } from "./port.ts";

/** Order of the fields of struct virtio_console_resize; see `ConsoleOptions.resizeOrder`. */
export type ResizeOrder = "columns-rows" | "rows-columns";

/** What device and driver tell each other about ports ("Multiport Device Operation"), apart from the queues. */
export class PortControl {
  readonly outbox: Outbox = new Outbox();
  /** The driver sent a DEVICE_READY: it is told of ports from then on. */
  driverReady = false;
  readonly #ports: ReadonlyMap<number, Port>;
  readonly #resizeOrder: ResizeOrder;

  constructor(ports: ReadonlyMap<number, Port>, resizeOrder: ResizeOrder) {
    this.#ports = ports;
    this.#resizeOrder = resizeOrder;
  }

  reset(): void {
    this.driverReady = false;
    this.outbox.clear();
  }

  /**
   * A message of the driver. What makes no sense is ignored: it harms nobody, and the message has no status. Says why it was, or
   * undefined.
   */
  handle(id: number, event: number, value: number): string | undefined {
    if (event === VIRTIO_CONSOLE_DEVICE_READY) {
      this.driverReady = value === 1;
      for (const port of this.#ports.values()) this.announce(port);
      return undefined;
    }
    const port = this.#ports.get(id);
    if (port === undefined || !port.announced) return "a port that was not announced";
    if (event === VIRTIO_CONSOLE_PORT_READY) {
      port.driverReady = value === 1;
      if (port.driverReady) this.#describe(port);
    } else if (event === VIRTIO_CONSOLE_PORT_OPEN) port.setGuestOpen(value !== 0);
    else return "no event of a driver";
    return undefined;
  }

  /** "The device MUST NOT specify a port which exists in a VIRTIO_CONSOLE_DEVICE_ADD message." */
  announce(port: Port): void {
    if (!this.driverReady || port.announced) return;
    port.announced = true;
    this.outbox.send(port.id, VIRTIO_CONSOLE_DEVICE_ADD, 1);
  }

  /** Only for a port that was created "with a previous VIRTIO_CONSOLE_DEVICE_ADD". */
  remove(port: Port): void {
    if (port.announced) this.outbox.send(port.id, VIRTIO_CONSOLE_DEVICE_REMOVE, 1);
  }

  hostOpenChanged(port: Port): void {
    if (!port.driverReady) return;
    port.toldOpen = port.hostOpen;
    this.outbox.send(port.id, VIRTIO_CONSOLE_PORT_OPEN, port.hostOpen ? 1 : 0);
  }

  sizeChanged(port: Port): void {
    const { size } = port;
    if (!port.driverReady || !port.console || size === undefined) return;
    const data = new Uint8Array(VIRTIO_CONSOLE_RESIZE_SIZE);
    const columnsFirst = this.#resizeOrder === "columns-rows";
    writeLe16(data, columnsFirst ? 0 : 2, size.columns);
    writeLe16(data, columnsFirst ? 2 : 0, size.rows);
    this.outbox.send(port.id, VIRTIO_CONSOLE_RESIZE, 0, data);
  }

  /** CONSOLE_PORT comes first: Linux hooks the port up to hvc then, and drops a size that came before. */
  #describe(port: Port): void {
    if (port.console) this.outbox.send(port.id, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
    if (port.name.length > 0) this.outbox.send(port.id, VIRTIO_CONSOLE_PORT_NAME, 1, port.name);
    if (port.hostOpen || port.toldOpen) this.hostOpenChanged(port);
    this.sizeChanged(port);
  }
}
