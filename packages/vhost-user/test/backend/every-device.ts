import { closeSync } from "node:fs";
import type { CryptoSessionKeeper } from "@virtio/vhost-user/backend/crypto-sessions";
import type { SharedObjectExchange } from "@virtio/vhost-user/backend/shared-objects";
import { createEvent } from "@virtio/vhost-user/native/event";
import { SharingDevice, uuid } from "./sharing-device.ts";

/** A device of whom every message of the protocol asks for something. */
export class EveryDevice extends SharingDevice implements CryptoSessionKeeper {
  readonly sessions = new Set<number>();
  readonly #event = createEvent();
  #next = 0;

  constructor() {
    super();
    this.exported.set(1, this.#event.fd);
  }

  override shareWith(exchange: SharedObjectExchange | undefined): void {
    super.shareWith(exchange);
    if (exchange === undefined) return;
    void exchange.add(uuid(1));
    void exchange.remove(uuid(2));
    void exchange.lookup(uuid(3)).then((fd) => fd !== undefined && closeSync(fd));
  }

  createCryptoSession(): number {
    this.sessions.add(this.#next);
    return this.#next++;
  }

  closeCryptoSession(id: number): void {
    if (!this.sessions.delete(id)) throw new Error(`${id} is no session`);
  }

  /** Throws an Error when something of the last front-end is still held. */
  close(): void {
    this.#event.close();
    if (this.sessions.size > 0) throw new Error("sessions are left");
    if (this.exchange !== undefined) throw new Error("the exchange is left");
  }
}
