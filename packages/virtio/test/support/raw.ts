import fc from "fast-check";
import { DriverSession } from "../../src/driver/session.ts";
import type { DriverVirtqueue } from "../../src/driver/virtqueue.ts";
import type { Segment } from "../../src/memory/guest-memory.ts";
import { DRIVER_RING_FEATURES } from "../../src/driver/session.ts";
import type { Loopback } from "./loopback.ts";

/** What came back for one chain. */
export interface Used {
  readonly written: number;
  /** The device-writable bytes, all of them. */
  readonly data: Uint8Array;
}

/** A driver that does what it is told, right or wrong: for tests of the device. */
export class RawDriver {
  readonly session: DriverSession;
  readonly #queues: DriverVirtqueue[] = [];

  private constructor(session: DriverSession) {
    this.session = session;
  }

  /** `queues`: the virtqueues to enable. */
  static async open(
    loopback: Loopback,
    wanted: bigint,
    queues: readonly number[],
    ring: bigint = DRIVER_RING_FEATURES,
  ): Promise<RawDriver> {
    const driver = new RawDriver(await DriverSession.open(loopback, { wanted, ring }));
    for (const index of queues) driver.#queues[index] = driver.session.addQueue(index);
    driver.session.ready();
    return driver;
  }

  queue(index: number): DriverVirtqueue {
    const queue = this.#queues[index];
    if (queue === undefined) throw new Error(`queue ${index} is not enabled`);
    return queue;
  }

  /**
   * Offers one chain: `readable` bytes and room for `writable`, each cut where `cuts` says. The result comes when the
   * device used it; look at `used` of what is returned.
   */
  offer(
    index: number,
    readable: Uint8Array,
    writable: number,
    cuts: { readonly readable?: readonly number[]; readonly writable?: readonly number[] } = {},
  ): { used: Used | undefined; failed: boolean } {
    const { memory } = this.session.transport;
    const input = memory.allocate(Math.max(1, readable.length), 8);
    memory.view(input, readable.length).set(readable);
    const output = memory.allocate(Math.max(1, writable), 8);
    const result: { used: Used | undefined; failed: boolean } = { used: undefined, failed: false };
    const posted = this.queue(index).post(
      cut(input, readable.length, cuts.readable ?? []),
      cut(output, writable, cuts.writable ?? []),
      (written, error) => {
        if (error !== undefined) result.failed = true;
        else result.used = { written, data: memory.view(output, writable).slice() };
        memory.free(input, Math.max(1, readable.length));
        memory.free(output, Math.max(1, writable));
      },
    );
    if (!posted) throw new Error(`queue ${index} is full`);
    this.queue(index).kick();
    return result;
  }
}

/** Segments over `length` bytes from `gpa` on, cut at these places. */
export function cut(gpa: number, length: number, at: readonly number[]): Segment[] {
  const places = [...new Set([0, ...at.filter((place) => place > 0 && place < length), length])].sort(
    (a, b) => a - b,
  );
  const segments: Segment[] = [];
  for (let i = 1; i < places.length; i++) {
    const from = places[i - 1] ?? 0;
    segments.push({ gpa: gpa + from, length: (places[i] ?? 0) - from });
  }
  return segments;
}

/** Where to cut up to `max` bytes. */
export const cutsArbitrary = (max: number): fc.Arbitrary<number[]> =>
  fc.array(fc.integer({ min: 1, max }), { maxLength: 5 });
