import type { AccessSize } from "virtio/bus/types";
import type { BusAccess, BusSpace } from "virtio/driver/platform";
import type { QtestClient } from "../qtest/client.ts";
import type { PortSpace } from "./layout.ts";

/** Register accesses of drivers, through qtest. Reads block until QEMU answers, writes do not. */
export class QtestBus implements BusAccess {
  readonly #qtest: QtestClient;
  #ports: PortSpace | undefined;

  constructor(qtest: QtestClient) {
    this.#qtest = qtest;
  }

  setPorts(space: PortSpace): void {
    this.#ports = space;
  }

  read(space: BusSpace, address: number, size: AccessSize): number {
    const qtest = this.#qtest;
    if (space === "io" && this.#ports === "processor")
      return size === 1 ? qtest.inb(address) : size === 2 ? qtest.inw(address) : qtest.inl(address);
    const at = space === "io" ? this.#port(address) : address;
    return size === 1 ? qtest.readb(at) : size === 2 ? qtest.readw(at) : qtest.readl(at);
  }

  write(space: BusSpace, address: number, size: AccessSize, value: number): void {
    const qtest = this.#qtest;
    if (space === "io" && this.#ports === "processor") {
      if (size === 1) qtest.outb(address, value);
      else if (size === 2) qtest.outw(address, value);
      else qtest.outl(address, value);
      return;
    }
    const at = space === "io" ? this.#port(address) : address;
    if (size === 1) qtest.writeb(at, value);
    else if (size === 2) qtest.writew(at, value);
    else qtest.writel(at, value);
  }

  #port(port: number): number {
    const ports = this.#ports;
    if (ports === undefined || ports === "processor") throw new RangeError(`the machine has no port ${port}`);
    return ports.base + port;
  }
}
