import { bitsOption, partOption, powerOption, textOption, wholeOption } from "../check-option.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import { VIRTQ_MAX_SIZE } from "../spec/virtqueue.ts";
import type { VirtioDevice } from "./device.ts";
import { DEFAULT_CORE_FEATURES } from "./features.ts";
import type { VirtioObserver } from "./observer.ts";
import { immediateScheduler, type Scheduler } from "./scheduler.ts";

/** Chains in a row, after which the clock is asked. */
const DEFAULT_BUDGET = 64;

/** How a device is plugged in. */
export interface InstanceOptions {
  /** Unique in its machine; names the device in logs and faults. */
  readonly label: string;
  readonly memory: GuestMemory;
  /** Ring and transport features to offer beside the device's own, as bits; default `DEFAULT_CORE_FEATURES`. */
  readonly features?: bigint;
  /** Caps the size of every virtqueue; a power of two, at most 32768. Device types follow it (`seg_max`). */
  readonly queueSize?: number;
  readonly scheduler?: Scheduler;
  readonly observer?: VirtioObserver;
  /** Chains a queue serves before it looks at the clock, at most; fewer where they take long. Default 64. */
  readonly budget?: number;
}

/** The options with every default. Throws a RangeError or TypeError that names what cannot be. */
export function resolveOptions(
  device: VirtioDevice,
  options: InstanceOptions,
): Required<Pick<InstanceOptions, "features" | "queueSize" | "scheduler" | "budget">> {
  const {
    label,
    features = DEFAULT_CORE_FEATURES,
    queueSize = VIRTQ_MAX_SIZE,
    budget = DEFAULT_BUDGET,
  } = options;
  textOption(`label of a device of type ${device.name}`, label, 1);
  partOption(`${label}: memory`, options.memory, "a GuestMemory", "view");
  bitsOption(`${label}: features`, features);
  powerOption(`${label}: queueSize`, queueSize, 1, VIRTQ_MAX_SIZE);
  wholeOption(`${label}: budget`, budget, 1, Number.MAX_SAFE_INTEGER);
  for (const { name, maxSize } of device.queues)
    powerOption(`${device.name}: maxSize of ${name}`, maxSize, 1, VIRTQ_MAX_SIZE);
  return { features, queueSize, budget, scheduler: options.scheduler ?? immediateScheduler };
}

/** What a transport does when the device has something to say. */
export interface DeviceNotifier {
  usedBuffer(queue: number): void;
  configurationChange(): void;
}
