import { Descriptor } from "@virtio/vhost-user/native/descriptor";
import { SocketFile } from "@virtio/vhost-user/native/socket-file";
import { isListening } from "@virtio/vhost-user/native/unix-socket";

import { messageOf, UserError } from "../user-error.ts";
import { placeOf, type ServedDevice } from "./describe.ts";

/** Where a front-end is met, kept by the process that starts the one of the device. */
export class DeviceSocket {
  readonly device: ServedDevice;
  /** False: a connection that was handed over; it is over when its process is. */
  readonly listening: boolean;
  readonly #file: SocketFile | undefined;
  readonly #descriptor: Descriptor;

  /** Throws a UserError that names the device. */
  constructor(device: ServedDevice) {
    this.device = device;
    const { socket, description } = device;
    try {
      this.#file = typeof socket === "string" ? SocketFile.listen(socket) : undefined;
      this.#descriptor = typeof socket === "string" ? listenerOf(this.#file) : new Descriptor(socket);
      this.listening = isListening(this.#descriptor);
    } catch (error) {
      this.#file?.close();
      throw new UserError(`${description.label}: ${messageOf(error)}`);
    }
  }

  get fd(): number {
    return this.#descriptor.fd;
  }

  get place(): string {
    return placeOf(this.device);
  }

  /** The process has it: a connection must end when that one does. */
  handedOver(): void {
    if (!this.listening) this.#descriptor.close();
  }

  /** A socket that was made here goes. */
  close(): void {
    this.#file?.close();
    if (!this.#descriptor.closed) this.#descriptor.close();
  }
}

function listenerOf(file: SocketFile | undefined): Descriptor {
  if (file === undefined) throw new Error("no socket was made");
  return file.listener.descriptor;
}
