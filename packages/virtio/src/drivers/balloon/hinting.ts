import type { DriverSession } from "../../driver/session.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { readLe32, writeLe32 } from "../../memory/bytes.ts";
import type { Gpa, Segment } from "../../memory/guest-memory.ts";
import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CMD_ID_STOP,
  VIRTIO_BALLOON_CONFIG,
} from "../../spec/balloon.ts";

/** Memory whose contents nobody needs, for as long as a migration looks at it. */
export interface HintSource {
  /** What is free now. It stays unused until `done`, and what was in it is lost. */
  take(): readonly Segment[];
  /** The device has no more use for the hints. */
  done(): void;
}

/** Free page hinting: tells the device in rounds, which it begins and ends, what need not be migrated. */
export class FreePageHinting {
  readonly #session: DriverSession;
  readonly #queue: DriverVirtqueue;
  readonly #source: HintSource;
  readonly #command: Gpa;
  #current: number = VIRTIO_BALLOON_CMD_ID_STOP;
  #hinted = false;
  #running = false;

  constructor(session: DriverSession, queue: DriverVirtqueue, source: HintSource) {
    this.#session = session;
    this.#queue = queue;
    this.#source = source;
    this.#command = session.transport.memory.allocate(4, 4);
  }

  /** The configuration may have changed. */
  follow(): void {
    // Another look when the round is over will see what came meanwhile.
    if (!this.#running) void this.#rounds();
  }

  /** Only when the device was reset. */
  free(): void {
    this.#session.transport.memory.free(this.#command, 4);
    this.#finish();
  }

  async #rounds(): Promise<void> {
    this.#running = true;
    try {
      for (let id = this.#wanted(); id !== this.#current; id = this.#wanted()) {
        this.#current = id;
        if (id === VIRTIO_BALLOON_CMD_ID_DONE) this.#finish();
        else if (id !== VIRTIO_BALLOON_CMD_ID_STOP) await this.#round(id);
      }
    } catch (error) {
      // A request that failed ends the device anyhow, and then there is nobody to give hints to.
      this.#session.fail(error);
    } finally {
      this.#running = false;
    }
  }

  /** "The driver MUST start hinting by providing an output buffer containing the current command ID", once. */
  async #round(id: number): Promise<void> {
    this.#hinted = true;
    await this.#send(id);
    for (const segment of this.#source.take()) {
      if (this.#wanted() !== id) break;
      await this.#queue.request([], [segment]);
    }
    await this.#send(VIRTIO_BALLOON_CMD_ID_STOP);
  }

  async #send(id: number): Promise<void> {
    writeLe32(this.#session.transport.memory.view(this.#command, 4), 0, id);
    await this.#queue.request([{ gpa: this.#command, length: 4 }], []);
  }

  #wanted(): number {
    return readLe32(this.#session.readConfig(VIRTIO_BALLOON_CONFIG.free_page_hint_cmd_id, 4), 0);
  }

  #finish(): void {
    if (this.#hinted) this.#source.done();
    this.#hinted = false;
  }
}
