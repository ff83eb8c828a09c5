import type { BlockCompletion } from "../../backends/block.ts";
import type { RunningQueue } from "../../device/device.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";

/**
 * A request that a backend has begun and will tell of, and what is to be known then. Used again for others, so that nothing is
 * allocated for one.
 */
export class Started<Session> implements BlockCompletion {
  session: Session | undefined;
  chain: DescriptorChain | undefined;
  /** The ring that the chain is of, also when another one has taken its place. */
  ring: RunningQueue | undefined;
  queue = 0;
  /** The queue's life that it belongs to: in another one the chain is no longer the device's. */
  life = 0;
  /** Bytes that a read fills. */
  filled = 0;
  write = false;
  readonly #ended: (started: Started<Session>, error: unknown) => void;

  constructor(ended: (started: Started<Session>, error: unknown) => void) {
    this.#ended = ended;
  }

  done(error?: unknown): void {
    this.#ended(this, error);
  }
}
