import type { ObjectSharer, SharedObjectExchange } from "@virtio/vhost-user/backend/shared-objects";
import { EchoDevice } from "./echo-device.ts";

/** An echo device that exports what a test says. */
export class SharingDevice extends EchoDevice implements ObjectSharer {
  exchange: SharedObjectExchange | undefined;
  /** What happened to the exchange, in order. */
  readonly history: ("here" | "gone")[] = [];
  /** Descriptors by the first byte of their UUID. */
  readonly exported = new Map<number, number>();

  /** The exchange that must be there. */
  get front(): SharedObjectExchange {
    if (this.exchange === undefined) throw new Error("no front-end passes objects on");
    return this.exchange;
  }

  exportedObject(uuid: Uint8Array): number | undefined {
    return this.exported.get(uuid[0] ?? -1);
  }

  shareWith(exchange: SharedObjectExchange | undefined): void {
    this.exchange = exchange;
    this.history.push(exchange === undefined ? "gone" : "here");
  }
}

export const uuid = (first: number): Uint8Array => new Uint8Array(16).fill(0x5a).fill(first, 0, 1);
