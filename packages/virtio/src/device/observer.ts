import type { VirtioFault } from "../fault.ts";
import type { DescriptorChain } from "../virtqueue/types.ts";

/** The device an event is about. */
export interface ObservedDevice {
  /** Unique within a machine: QEMU's `id`, or one made from the device's name. */
  readonly label: string;
  /** Virtio device id. */
  readonly id: number;
}

/**
 * Watches devices from outside; every method is optional and must not throw. Nothing is computed for an observer that
 * is not there. Chains are only valid during the call.
 */
export interface VirtioObserver {
  /** A transport register: `name` is the spec's field name, `value` unsigned. */
  register?(device: ObservedDevice, access: "read" | "write", name: string, value: number): void;
  /** The driver set FEATURES_OK. `refusal` says why the device did not keep it. */
  features?(device: ObservedDevice, offered: bigint, accepted: bigint, refusal: string | undefined): void;
  status?(device: ObservedDevice, from: number, to: number): void;
  available?(device: ObservedDevice, queue: number, chain: DescriptorChain): void;
  used?(device: ObservedDevice, queue: number, chain: DescriptorChain, written: number): void;
  /** `queue` is undefined for a configuration change notification. */
  notification?(
    device: ObservedDevice,
    kind: "available" | "used" | "configuration",
    queue: number | undefined,
  ): void;
  fault?(device: ObservedDevice, fault: VirtioFault): void;
}
