import type { FaultDetail, VirtioFault } from "../fault.ts";
import type { DescriptorChain } from "../virtqueue/types.ts";

/** The device an event is about. */
export interface ObservedDevice {
  /** Unique within a machine: QEMU's `id`, or one made from the device's name. */
  readonly label: string;
  /** Virtio device id. */
  readonly id: number;
  /** The spec's names of its virtqueues, by index: `requestq1`. */
  readonly queueNames: readonly string[];
}

/** Something a driver did that the spec or common sense forbids, and that the device puts up with. */
export interface DriverHint extends FaultDetail {
  /**
   * Id of the normative clause, as in `VirtioFault.clause`; or `own.…` where no clause forbids it, as `own.notify` for a notification
   * that nothing comes of.
   */
  readonly clause: string;
  /** What was done, in words. Of any driver there are only so many different ones: what it wrote is in `value`. */
  readonly rule: string;
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
  /** The device stopped. */
  fault?(device: ObservedDevice, fault: VirtioFault): void;
  /** The driver did what it must not, and the device goes on. A driver can cause as many as it likes. */
  hint?(device: ObservedDevice, hint: DriverHint): void;
  /** A request ends with the error of its device type; `reason` says why: "IOERR: sector 8192 is beyond the end". */
  failed?(device: ObservedDevice, queue: number, reason: string): void;
  /** A state was saved that does not hold this; what that means after a restore is said with it. */
  unsaved?(device: ObservedDevice, what: string): void;
}
