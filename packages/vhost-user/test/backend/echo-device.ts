import type { ConfigSpace, DeviceContext, VirtioDevice } from "virtio/device/device";
import { SegmentReader, SegmentWriter } from "virtio/memory/cursor";

/** Copies what it reads into the room it is given, at once or when the test says; counts what it did, by first byte. */
export class EchoDevice implements VirtioDevice<{ done: number[] }> {
  readonly id = 42;
  readonly name: string;
  /** Bit 1 needs bit 0. */
  readonly features = 3n;
  readonly dependencies = [{ feature: 1, needs: [[0]] }];
  readonly queues: VirtioDevice["queues"];
  readonly config: ConfigSpace & { bytes: Uint8Array };
  /** First bytes of the requests that were served, in order. */
  done: number[] = [];
  resets = 0;
  activations = 0;
  accepted = 0n;
  /** Requests wait for `release` when true. */
  deferred = false;
  readonly #waiting: (() => void)[] = [];
  context: DeviceContext | undefined;

  constructor(queues = 2, name = "echo", queueName = "queue") {
    this.name = name;
    const bytes = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]);
    this.config = {
      bytes,
      length: bytes.length,
      read: (offset, target) => target.set(bytes.subarray(offset, offset + target.length)),
      write: (offset, source) => bytes.set(source, offset),
    };
    this.queues = Array.from({ length: queues }, (_, i) => ({
      name: `${queueName}${i}`,
      maxSize: 256,
      serve: (chain, context) => {
        const finish = (): number => {
          const text = new Uint8Array(chain.readableLength);
          new SegmentReader(context.memory).start(chain.readable).copy(text);
          this.done.push(text[0] ?? -1);
          return new SegmentWriter(context.memory).start(chain.writable).copy(text);
        };
        if (!this.deferred) return finish();
        return new Promise<number>((resolve, reject) =>
          this.#waiting.push(() => {
            try {
              resolve(context.live ? finish() : 0);
            } catch (error) {
              reject(error instanceof Error ? error : new Error(String(error)));
            }
          }),
        );
      },
    }));
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Lets this many requests end; default all. */
  release(count = Infinity): void {
    for (const finish of this.#waiting.splice(0, count)) finish();
  }

  activate(context: DeviceContext): void {
    this.accepted = context.features;
    this.context = context;
    this.activations++;
  }

  reset(): void {
    this.resets++;
  }

  save(): { done: number[] } {
    return { done: this.done };
  }

  restore(state: unknown): void {
    const done = (state as { done?: unknown }).done;
    if (!Array.isArray(done)) throw new Error("no list");
    this.done = done as number[];
  }
}
