import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal, DriverVirtqueue } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import type { Gpa } from "../../memory/guest-memory.ts";
import { VIRTIO_ID_ENTROPY } from "../../spec/ids.ts";

/** Bytes asked for at a time. */
const BUFFER_BYTES = 4096;

/** The driver of the entropy device. Reads are served one after the other through one buffer. */
export class EntropyDriver {
  readonly #session: DriverSession;
  readonly #queue: DriverVirtqueue;
  readonly #buffer: Gpa;
  #last: Promise<void> = Promise.resolve();

  private constructor(session: DriverSession) {
    this.#session = session;
    this.#queue = session.addQueue(0, 8);
    this.#buffer = session.memory.allocate(BUFFER_BYTES, 16);
    session.ready();
  }

  /** Takes the device over. Throws when it is not an entropy device, or refuses. */
  static open(transport: DriverTransport, options: DriverOpenOptions = {}): Promise<EntropyDriver> {
    const session = { type: { id: VIRTIO_ID_ENTROPY, name: "entropy device" }, wanted: 0n, ...options };
    return DriverSession.start(transport, session, (started) => new EntropyDriver(started));
  }

  /** Fills the whole of `target` with random bytes. Rejects when the device fails or gives none. */
  read(target: Uint8Array): Promise<void> {
    const done = this.#last.then(() => this.#fill(target));
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** Pieces of `length` random bytes for as long as they are asked for. */
  async *pieces(length: number): AsyncGenerator<Uint8Array, never> {
    for (;;) {
      const piece = new Uint8Array(length);
      await this.read(piece);
      yield piece;
    }
  }

  /** Random bytes in pieces as large as the driver asks the device for. */
  [Symbol.asyncIterator](): AsyncGenerator<Uint8Array, never> {
    return this.pieces(BUFFER_BYTES);
  }

  /** Resets the device and gives its memory back. */
  close(signal?: CancelSignal): Promise<void> {
    return this.#session.close(signal);
  }

  async #fill(target: Uint8Array): Promise<void> {
    const { memory } = this.#session;
    for (let done = 0; done < target.length;) {
      const length = Math.min(BUFFER_BYTES, target.length - done);
      // "The driver MUST examine the length written by the device"
      const written = await this.#queue.request([], [{ gpa: this.#buffer, length }]);
      if (written === 0) {
        const fault = new VirtioFault("dev.entropy.operation", "no random byte in a used buffer", {
          queue: 0,
        });
        this.#session.fail(fault);
        throw fault;
      }
      target.set(memory.view(this.#buffer, written), done);
      done += written;
    }
  }
}
