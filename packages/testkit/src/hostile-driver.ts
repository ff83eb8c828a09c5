import type { DeviceQueue, QueueConfig } from "virtio/virtqueue/types";
import { VirtioFault } from "virtio/fault";
import type { CreateDeviceQueue } from "./conformance/device-queue.ts";
import { HOSTILE_PACKED } from "./hostile/packed.ts";
import { HOSTILE_SPLIT } from "./hostile/split.ts";
import type { HostileDriver } from "./hostile/types.ts";
import { createWorld, RING, type RingWorld } from "./ring/history.ts";

/**
 * A catalogue of what a driver must not do to a virtqueue, each with the fault that it must end in. Works on any
 * implementation of `DeviceQueue`:
 *
 * ```ts
 * for (const hostile of HOSTILE_DRIVERS) test(hostile.name, () => checkFault(hostile, provoke(hostile, createMyQueue)));
 * ```
 */
export const HOSTILE_DRIVERS: readonly HostileDriver[] = [...HOSTILE_SPLIT, ...HOSTILE_PACKED];

export type { HostileDriver } from "./hostile/types.ts";

/** What came of it: the fault, or how many chains the device took instead. */
export type Outcome =
  { readonly fault: VirtioFault } | { readonly fault: undefined; readonly chains: number };

/** Lets the driver do it, and the device run into it. Throws what is no VirtioFault. */
export function provoke(hostile: HostileDriver, create: CreateDeviceQueue): Outcome {
  const world = createWorld({ index: 5, ...hostile.shape });
  let chains = 0;
  try {
    const config: QueueConfig = { ...world.config, ...hostile.configure?.(world.config) };
    const queue = create(world.memory, config, hostile.shape.packed);
    for (const act of hostile.acts) {
      act(world);
      chains += popAll(queue, config.size);
    }
  } catch (error) {
    if (error instanceof VirtioFault) return { fault: error };
    throw error;
  }
  return { fault: undefined, chains };
}

/** Pops until the ring is empty; one more than it can hold is an endless loop. */
function popAll(queue: DeviceQueue, size: number): number {
  let chains = 0;
  while (queue.popAvailable() !== undefined) {
    chains++;
    if (chains > size) throw new Error("the device pops more chains than the ring has entries");
  }
  return chains;
}

/** What differs from the fault that the catalogue wants, as text; undefined when nothing does. */
export function faultMismatch(hostile: HostileDriver, outcome: Outcome): string | undefined {
  if (outcome.fault === undefined) return `no fault, ${outcome.chains} chains`;
  const { fault } = outcome;
  const { clause, descriptor, value } = hostile.fault;
  const wrong: string[] = [];
  if (fault.clause !== clause) wrong.push(`clause ${fault.clause}, not ${clause}`);
  if (fault.queue !== 5) wrong.push(`queue ${fault.queue}, not 5`);
  if (descriptor !== undefined && fault.descriptor !== descriptor)
    wrong.push(`descriptor ${fault.descriptor}, not ${descriptor}`);
  if (value !== undefined ? fault.value !== value : fault.value === undefined)
    wrong.push(`value ${fault.value}, not ${value ?? "some"}`);
  return wrong.length === 0 ? undefined : `${wrong.join("; ")} (${fault.message})`;
}

/** Memory that goes away under a running ring. */
export function removeRing(world: RingWorld): void {
  world.memory.remove(RING);
}
