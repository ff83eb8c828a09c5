import type { GuestMemory } from "../memory/guest-memory.ts";
import type { IndirectTables } from "./indirect-tables.ts";
import { PackedDeviceQueue } from "./packed-device.ts";
import { PackedDriverQueue } from "./packed-driver.ts";
import { SplitDeviceQueue } from "./split-device.ts";
import { SplitDriverQueue } from "./split-driver.ts";
import type { DeviceQueue, DriverQueue, QueueConfig, QueueStart } from "./types.ts";

/** The device side of the negotiated format. Throws a VirtioFault when the areas are not usable. */
export function createDeviceQueue(
  memory: GuestMemory,
  config: QueueConfig,
  packed: boolean,
  state?: QueueStart,
): DeviceQueue {
  return packed ? new PackedDeviceQueue(memory, config, state) : new SplitDeviceQueue(memory, config, state);
}

/** The driver side of the negotiated format, on zeroed areas. */
export function createDriverQueue(
  memory: GuestMemory,
  config: QueueConfig,
  packed: boolean,
  tables?: IndirectTables,
): DriverQueue {
  return packed
    ? new PackedDriverQueue(memory, config, tables)
    : new SplitDriverQueue(memory, config, tables);
}
