import { describe } from "virtio/fault";
import type { VirtioObserver } from "virtio/device/observer";

/**
 * For devices whose driver is right: a hint is an error, thrown where the driver made the mistake. What `observer`, an object of
 * functions, wants to hear it hears too.
 */
export function noHints(observer: VirtioObserver = {}): VirtioObserver {
  return {
    ...observer,
    hint(device, hint) {
      observer.hint?.(device, hint);
      const text = describe(hint.clause, hint.rule, hint, device.queueNames);
      throw new Error(`${device.label}: a driver of ours gets the hint ${text}`);
    },
  };
}
