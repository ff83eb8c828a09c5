import type { DeviceContext, QueueSpec, VirtioDevice } from "../../src/device/device.ts";
import { readLe16, readLe32, readLe64, writeLe32 } from "../../src/memory/bytes.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";
import {
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_PAGE_REPORTING,
  VIRTIO_BALLOON_F_STATS_VQ,
} from "../../src/spec/balloon.ts";
import { featureBits, hasFeature } from "../../src/spec/core.ts";
import { VIRTIO_ID_BALLOON } from "../../src/spec/ids.ts";

export type Message = readonly [queue: string, ...numbers: number[]];

/** A balloon of the test's own: keeps a record of all that it is told, in order. */
export class TestBalloon implements VirtioDevice {
  readonly id = VIRTIO_ID_BALLOON;
  readonly name = "balloon";
  readonly features: bigint;
  readonly queues: readonly QueueSpec[];
  readonly bytes = new Uint8Array(16);
  readonly messages: Message[] = [];
  /** Configuration writes: offset, value, and whether DRIVER_OK was set. */
  readonly writes: {
    readonly offset: number;
    readonly length: number;
    readonly value: number;
    readonly live: boolean;
  }[] = [];
  /** Pages that are the device's. */
  readonly pages = new Set<number>();
  /** Tags and values of the last statistics, and how many bytes they had. */
  readonly statistics: { readonly entries: (readonly [number, number])[]; readonly length: number }[] = [];
  /** Writable ranges of reports and hints. */
  readonly ranges: { readonly queue: string; readonly gpa: number; readonly length: number }[] = [];
  /** Called when a request arrives; a promise makes the driver wait. */
  hold: (queue: string) => Promise<void> | undefined = () => undefined;
  context: DeviceContext | undefined;
  /** Chains in the statistics queue beside the one that the device holds. */
  extra = 0;
  #stats: DescriptorChain | undefined;
  readonly config = {
    length: 16,
    read: (offset: number, target: Uint8Array): void =>
      target.set(this.bytes.subarray(offset, offset + target.length)),
    write: (offset: number, source: Uint8Array): void => {
      this.writes.push({
        offset,
        length: source.length,
        value: readLe32(source, 0),
        live: this.context?.live === true,
      });
      this.bytes.set(source, offset);
    },
  };

  /** `compact`: queues that are not there leave no gap. */
  constructor(features: bigint, compact = false) {
    this.features = features;
    const all: { queue: QueueSpec; feature?: number }[] = [
      { queue: this.#queue("inflateq") },
      { queue: this.#queue("deflateq") },
      {
        queue: { name: "statsq", maxSize: 16, refilled: (context) => this.#refilled(context) },
        feature: VIRTIO_BALLOON_F_STATS_VQ,
      },
      { queue: this.#queue("free_page_vq"), feature: VIRTIO_BALLOON_F_FREE_PAGE_HINT },
      { queue: this.#queue("reporting_vq"), feature: VIRTIO_BALLOON_F_PAGE_REPORTING },
    ];
    this.queues = all
      .filter(({ feature }) => !compact || feature === undefined || hasFeature(features, feature))
      .map(({ queue }) => queue);
  }

  activate(context: DeviceContext): void {
    this.context = context;
  }

  /** Wants so many pages. */
  want(pages: number): void {
    this.set(0, pages);
  }

  set(offset: number, value: number): void {
    writeLe32(this.bytes, offset, value);
    this.context?.configChanged();
  }

  get actual(): number {
    return readLe32(this.bytes, 4);
  }

  /** Uses the buffer of the statistics, and so asks for the next. False: there is none. */
  ask(): boolean {
    const queue = this.#statsQueue();
    if (queue === undefined || this.#stats === undefined) return false;
    queue.addUsed(this.#stats, 0);
    this.#stats = undefined;
    queue.flush();
    return true;
  }

  #statsQueue(): ReturnType<DeviceContext["queue"]> {
    return this.context?.queue(this.queues.findIndex(({ name }) => name === "statsq"));
  }

  #refilled({ memory }: DeviceContext): void {
    const chain = this.#statsQueue()?.popAvailable();
    const segment = chain?.readable[0];
    if (chain === undefined || segment === undefined) return;
    if (this.#stats !== undefined) this.extra++;
    this.#stats = chain;
    const bytes = memory.view(segment.gpa, segment.length);
    const entries: (readonly [number, number])[] = [];
    for (let at = 0; at + 10 <= bytes.length; at += 10)
      entries.push([readLe16(bytes, at), readLe64(bytes, at + 2)]);
    this.statistics.push({ entries, length: segment.length });
    // Empty to the end, so that the next one is told of.
    while (this.#statsQueue()?.popAvailable() !== undefined) this.extra++;
  }

  #queue(name: string): QueueSpec {
    const serve = (chain: DescriptorChain, { memory }: DeviceContext): number | Promise<number> => {
      const numbers: number[] = [];
      for (const { gpa, length } of chain.readable) {
        const bytes = memory.view(gpa, length);
        for (let at = 0; at < length; at += 4) numbers.push(readLe32(bytes, at));
      }
      for (const { gpa, length } of chain.writable) this.ranges.push({ queue: name, gpa, length });
      this.messages.push([name, ...numbers]);
      if (name === "inflateq") for (const page of numbers) this.pages.add(page);
      if (name === "deflateq") for (const page of numbers) this.pages.delete(page);
      const wait = this.hold(name);
      return wait === undefined ? 0 : wait.then(() => 0);
    };
    return { name, maxSize: 64, serve };
  }
}

export const ALL_BALLOON: bigint = featureBits(0, 1, 2, 3, 4, 5);
