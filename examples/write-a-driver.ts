import { DriverSession } from "virtio/driver/session";
import type { DriverTransport } from "virtio/driver/types";
import type { DriverVirtqueue } from "virtio/driver/virtqueue";
import { VirtioFault } from "virtio/fault";
import { readLe32, readLe64 } from "virtio/memory/bytes";
import type { Gpa } from "virtio/memory/guest-memory";
// Step 1: which device.
import { VIRTIO_ID_PMEM } from "virtio/spec/ids";

/** `struct virtio_pmem_config`, `virtio_pmem_req` and `virtio_pmem_resp`. */
const CONFIG = { start: 0, size: 8, bytes: 16 } as const;
const VIRTIO_PMEM_REQ_TYPE_FLUSH = 0;
const REQUEST_BYTES = 4;
const RESPONSE_BYTES = 4;

/** The driver of the pmem device: memory that outlives the machine, and a way to know when it is durable. */
export class PmemDriver {
  /** Where the memory lies, as a guest-physical address, and how much there is of it, in bytes. */
  readonly start: Gpa;
  readonly size: number;
  readonly #session: DriverSession;
  readonly #queue: DriverVirtqueue;
  readonly #buffer: Gpa;
  #last: Promise<void> = Promise.resolve();

  private constructor(session: DriverSession) {
    this.#session = session;
    // Step 3: what the device says about itself. `readConfig` reads again when it changes meanwhile.
    const config = session.readConfig(0, CONFIG.bytes);
    this.start = readLe64(config, CONFIG.start);
    this.size = readLe64(config, CONFIG.size);
    // Step 4: the virtqueues, and memory that the device can reach.
    this.#queue = session.addQueue(0, 8);
    this.#buffer = session.memory.allocate(REQUEST_BYTES + RESPONSE_BYTES, 16);
    session.ready();
  }

  /**
   * Step 2: acknowledges the device and negotiates features (none of pmem's are wanted). Throws when it is another device; whatever
   * fails here, the device is reset, memory goes back and the status is FAILED.
   */
  static open(transport: DriverTransport): Promise<PmemDriver> {
    const options = { type: { id: VIRTIO_ID_PMEM, name: "pmem device" }, wanted: 0n };
    return DriverSession.start(transport, options, (session) => new PmemDriver(session));
  }

  /** Step 5: what the device is for. Everything written to the memory before is durable when this resolves. */
  flush(): Promise<void> {
    // One buffer, so one request at a time.
    const done = this.#last.then(() => this.#flush());
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** Step 6: resets the device; only then is the memory ours again, and the session gives it back. */
  close(): Promise<void> {
    return this.#session.close();
  }

  async #flush(): Promise<void> {
    const { failure, memory } = this.#session;
    // Also after `close`: the buffer is not ours any more.
    if (failure !== undefined) throw failure;
    const response = this.#buffer + REQUEST_BYTES;
    const bytes = memory.view(this.#buffer, REQUEST_BYTES + RESPONSE_BYTES);
    bytes.fill(0).fill(VIRTIO_PMEM_REQ_TYPE_FLUSH, 0, 1);
    const written = await this.#queue.request(
      [{ gpa: this.#buffer, length: REQUEST_BYTES }],
      [{ gpa: response, length: RESPONSE_BYTES }],
    );
    // A device may lie. What it did not write is not read.
    if (written < RESPONSE_BYTES) {
      const fault = new VirtioFault("dev.pmem.return", "response too short", { queue: 0, value: written });
      this.#session.fail(fault);
      throw fault;
    }
    const status = readLe32(memory.view(response, RESPONSE_BYTES), 0);
    if (status !== 0) throw new Error(`pmem: flush failed with ${status}`);
  }
}
