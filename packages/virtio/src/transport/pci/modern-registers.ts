import type { AccessSize, IoHandler } from "../../bus/types.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import type { ConfigGeneration } from "../config-generation.ts";
import type { Negotiated } from "../negotiated.ts";
import type { CommonConfig } from "./common-config.ts";
import type { PciInterrupts } from "./interrupts.ts";
import { judgeModern, judgeNotify } from "./driver-rules.ts";
import { queueAt, type ModernLayout } from "./layout.ts";

export interface ModernRegistersParts {
  readonly instance: DeviceInstance;
  readonly interrupts: PciInterrupts;
  readonly negotiated: Negotiated;
  readonly generation: ConfigGeneration;
  readonly common: CommonConfig;
  readonly notifConfigData: (queue: number) => number;
}

/** What is behind the modern BAR: four structures, told apart by their offset. */
export class ModernRegisters implements IoHandler {
  readonly #layout: ModernLayout;
  readonly #notifyEnd: number;
  readonly #parts: ModernRegistersParts;
  /** Virtqueue by `queue_notif_config_data`. */
  readonly #queueByData = new Map<number, number>();

  constructor(layout: ModernLayout, parts: ModernRegistersParts) {
    this.#layout = layout;
    this.#notifyEnd = layout.notify + layout.notifyLength;
    this.#parts = parts;
    for (let queue = 0; queue < parts.instance.queueCount; queue++) {
      const data = parts.notifConfigData(queue);
      if (!Number.isInteger(data) || data < 0 || data > 0xffff || this.#queueByData.has(data)) {
        throw new RangeError(`queue_notif_config_data ${data}: 16 bits, different for each virtqueue`);
      }
      this.#queueByData.set(data, queue);
    }
  }

  read(offset: number, size: AccessSize): number {
    const parts = this.#parts;
    const layout = this.#layout;
    if (offset < layout.common + layout.commonLength) return parts.common.read(offset - layout.common, size);
    if (parts.instance.observer?.hint !== undefined)
      judgeModern(parts.instance, layout, "read", offset, size);
    if (offset === layout.isr) {
      const isr = parts.interrupts.readIsr();
      parts.instance.observer?.register?.(parts.instance, "read", "isr_status", isr);
      return isr;
    }
    if (offset >= layout.device && offset < layout.device + layout.deviceLength) {
      parts.generation.configRead();
      return parts.instance.readConfig(offset - layout.device, size);
    }
    return 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    const parts = this.#parts;
    const layout = this.#layout;
    if (offset >= layout.notify && offset < this.#notifyEnd) {
      this.#notify(parts, offset - layout.notify, size, value);
    } else if (offset < layout.common + layout.commonLength) {
      parts.common.write(offset - layout.common, size, value);
    } else {
      if (parts.instance.observer?.hint !== undefined)
        judgeModern(parts.instance, layout, "write", offset, size);
      this.#writeDevice(offset, size, value);
    }
  }

  #writeDevice(offset: number, size: AccessSize, value: number): void {
    const layout = this.#layout;
    if (offset >= layout.device && offset < layout.device + layout.deviceLength)
      this.#parts.instance.writeConfig(offset - layout.device, size, value);
  }

  /**
   * "Available Buffer Notifications". The address names the virtqueue; where all have the same, the value does.
   * Nothing is allocated here.
   */
  #notify(parts: ModernRegistersParts, offset: number, size: AccessSize, value: number): void {
    const { negotiated, instance } = parts;
    const name = value & 0xffff;
    const queue =
      this.#layout.notifyMultiplier !== 0
        ? queueAt(offset)
        : offset !== 0
          ? -1
          : negotiated.notifConfigData
            ? (this.#queueByData.get(name) ?? -1)
            : name;
    if (instance.observer?.hint !== undefined)
      judgeNotify(instance, negotiated, offset, size, queue, value >>> 0);
    // The notification is 16 bits, or 32 bits with VIRTIO_F_NOTIFICATION_DATA.
    if (size === 1 || queue < 0) return;
    instance.observer?.register?.(parts.instance, "write", "queue_notify", value);
    // What VIRTIO_F_NOTIFICATION_DATA adds in the upper half is a hint that the ring itself makes good.
    instance.notify(queue);
  }
}
