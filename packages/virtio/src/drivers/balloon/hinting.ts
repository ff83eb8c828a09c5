import type { DriverSession } from "../../driver/session.ts";
import { nextTurn } from "../../driver/turn.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { readLe32, writeLe32 } from "../../memory/bytes.ts";
import type { Segment } from "../../memory/guest-memory.ts";
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

const COMMAND_BYTES = 4;

/**
 * Free page hinting: tells the device in rounds, which it begins and ends, what need not be migrated. Nobody waits for a
 * hint to be used: "the driver MAY release hinted pages […] including when the device has not yet used the descriptor",
 * and QEMU 7.2 was seen to leave one unused when its migration ended.
 */
export class FreePageHinting {
  readonly #session: DriverSession;
  readonly #queue: DriverVirtqueue;
  readonly #source: HintSource;
  #current: number = VIRTIO_BALLOON_CMD_ID_STOP;
  #hinted = false;
  #running = false;

  constructor(session: DriverSession, queue: DriverVirtqueue, source: HintSource) {
    this.#session = session;
    this.#queue = queue;
    this.#source = source;
  }

  /** The configuration may have changed. */
  follow(): void {
    // Another look when the round is over will see what came meanwhile.
    if (!this.#running) void this.#rounds();
  }

  /** Only when the device was reset. */
  end(): void {
    this.#finish();
  }

  async #rounds(): Promise<void> {
    this.#running = true;
    try {
      while (this.#session.failure === undefined) {
        const id = this.#wanted();
        if (id === this.#current) break;
        this.#current = id;
        if (id === VIRTIO_BALLOON_CMD_ID_DONE) this.#finish();
        else if (id !== VIRTIO_BALLOON_CMD_ID_STOP) this.#round(id);
        // A device that asks without a pause gets a round a turn.
        await nextTurn();
      }
    } catch (error) {
      this.#session.fail(error);
    } finally {
      this.#running = false;
    }
  }

  /** "The driver MUST start hinting by providing an output buffer containing the current command ID", once. */
  #round(id: number): void {
    this.#hinted = true;
    this.#send(id);
    for (const segment of this.#source.take()) {
      if (this.#wanted() !== id) break;
      // A request that fails ends the device anyhow.
      this.#queue.request([], [segment]).catch(() => undefined);
      // The device may have enough at any time.
      this.#queue.kick();
    }
    this.#send(VIRTIO_BALLOON_CMD_ID_STOP);
  }

  #send(id: number): void {
    const { memory } = this.#session;
    const gpa = memory.allocate(COMMAND_BYTES, COMMAND_BYTES);
    writeLe32(memory.view(gpa, COMMAND_BYTES), 0, id);
    this.#queue.request([{ gpa, length: COMMAND_BYTES }], []).then(
      () => memory.free(gpa, COMMAND_BYTES),
      // The device may have it until the reset.
      () => undefined,
    );
  }

  #wanted(): number {
    return readLe32(this.#session.readConfig(VIRTIO_BALLOON_CONFIG.free_page_hint_cmd_id, 4), 0);
  }

  #finish(): void {
    if (this.#hinted) this.#source.done();
    this.#hinted = false;
  }
}
