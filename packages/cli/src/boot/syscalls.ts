import type { CharacterBackend, CharacterPort } from "virtio/backends/character";

import { requestAddress, requestSize } from "../guest/syscall-program.ts";

/** Number and six arguments, four bytes each; what arguments point to comes after. */
const headerSize = 28;

interface Call {
  readonly request: Uint8Array;
  readonly resolve: (result: number) => void;
}

/** System calls of the guest's kernel for i386, made by the program of guest/syscall-program.ts at the other end. */
export class SyscallPort implements CharacterBackend {
  #port: CharacterPort | undefined;
  #open = false;
  readonly #waiting: Call[] = [];
  #current: Call | undefined;
  #reply: Uint8Array = new Uint8Array(0);

  /**
   * Makes one system call, after those that were asked for before. A string is handed over as a pointer to it with a NUL, bytes
   * as a pointer to them. Gives the result; a failure is the error's number, negative.
   */
  async call(number: number, ...values: readonly (number | string | Uint8Array)[]): Promise<number> {
    const request = encodeCall(number, values);
    return new Promise((resolve) => {
      this.#waiting.push({ request, resolve });
      this.#next();
    });
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    port?.setOpen(true);
  }

  guestOpen(open: boolean): void {
    this.#open = open;
    this.#next();
  }

  guestReady(): void {
    this.#next();
  }

  write(bytes: Uint8Array): number {
    this.#reply = Buffer.concat([this.#reply, bytes]);
    if (this.#reply.length < 4 || this.#current === undefined) return bytes.length;
    const { resolve } = this.#current;
    const result = Buffer.from(this.#reply).readInt32LE();
    this.#current = undefined;
    this.#reply = new Uint8Array(0);
    resolve(result);
    this.#next();
    return bytes.length;
  }

  /** One at a time: each request must be what one read of the program gives. */
  #next(): void {
    const [call] = this.#waiting;
    if (this.#current !== undefined || call === undefined || !this.#open || this.#port === undefined) return;
    this.#current = call;
    if (this.#port.receive(call.request) === call.request.length) this.#waiting.shift();
    else this.#current = undefined;
  }
}

function encodeCall(number: number, values: readonly (number | string | Uint8Array)[]): Uint8Array {
  const request = Buffer.alloc(requestSize);
  request.writeInt32LE(number);
  let end = headerSize;
  values.forEach((value, index) => {
    const offset = 4 * (index + 1);
    if (typeof value === "number") request.writeInt32LE(value | 0, offset);
    else {
      const data = typeof value === "string" ? Buffer.from(`${value}\0`) : value;
      if (end + data.length > requestSize)
        throw new RangeError("the arguments of a system call are too long");
      request.writeInt32LE(requestAddress + end, offset);
      request.set(data, end);
      end = (end + data.length + 3) & ~3;
    }
  });
  return request.subarray(0, end);
}
