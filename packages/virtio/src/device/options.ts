import type { GuestMemory } from "../memory/guest-memory.ts";
import type { VirtioObserver } from "./observer.ts";
import type { Scheduler } from "./scheduler.ts";

/** Chains in a row, after which the clock is asked. */
export const DEFAULT_BUDGET = 64;

/** How a device is plugged in. */
export interface InstanceOptions {
  /** Unique in its machine; names the device in logs and faults. */
  readonly label: string;
  readonly memory: GuestMemory;
  /** Ring and transport features to offer beside the device's own; default `DEFAULT_CORE_FEATURES`. */
  readonly features?: bigint;
  /** Caps the size of every virtqueue. */
  readonly queueSize?: number;
  readonly scheduler?: Scheduler;
  readonly observer?: VirtioObserver;
  /** Chains a queue serves before it looks at the clock; default 64. */
  readonly budget?: number;
}

/** What a transport does when the device has something to say. */
export interface DeviceNotifier {
  usedBuffer(queue: number): void;
  configurationChange(): void;
}
