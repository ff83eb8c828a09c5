import type { QueueConfig } from "virtio/virtqueue/types";
import type { RingWorld } from "../ring/history.ts";
import type { RingShape } from "../ring/place.ts";

/** One thing that a driver must not do. */
export interface HostileDriver {
  readonly name: string;
  readonly shape: RingShape;
  /** Where the driver puts the areas, when that is the crime. */
  readonly configure?: (config: QueueConfig) => Partial<QueueConfig>;
  /** After each, the device pops all that is there. */
  readonly acts: readonly ((world: RingWorld) => void)[];
  /** The fault that it ends in. The queue is always named; `value` may be left open but is never absent. */
  readonly fault: { readonly clause: string; readonly descriptor?: number; readonly value?: number };
}
