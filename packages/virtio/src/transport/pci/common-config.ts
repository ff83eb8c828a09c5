import type { AccessSize } from "../../bus/types.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import type { QueueRegisters } from "../../device/queue-registers.ts";
import { VirtioFault } from "../../fault.ts";
import { VIRTIO_MSI_NO_VECTOR, VIRTIO_PCI_COMMON_CFG as COMMON } from "../../spec/pci.ts";
import { isQueueSize } from "../../virtqueue/state.ts";
import type { ConfigGeneration } from "../config-generation.ts";
import { FieldMap, type Field, type Registers } from "../fields.ts";
import type { Negotiated } from "../negotiated.ts";
import { judgeCommon, judgeVector, judgeWidth } from "./driver-rules.ts";
import type { PciInterrupts } from "./interrupts.ts";

/** What the common configuration structure works on. */
export interface CommonConfigParts {
  readonly instance: DeviceInstance;
  readonly interrupts: PciInterrupts;
  readonly negotiated: Negotiated;
  readonly generation: ConfigGeneration;
  /** All virtqueues have the same Queue Notify address. */
  readonly oneNotifyAddress: boolean;
  readonly notifConfigData: (queue: number) => number;
}

/** The driver's selections. */
export interface CommonConfigState {
  readonly deviceFeatureSelect: number;
  readonly driverFeatureSelect: number;
  readonly queueSelect: number;
}

const AREAS: ReadonlySet<string> = new Set(["queue_desc", "queue_driver", "queue_device"]);
const BYTES: ReadonlySet<string> = new Set(["device_status", "config_generation"]);
const DWORDS: ReadonlySet<string> = new Set([
  "device_feature_select",
  "device_feature",
  "driver_feature_select",
  "driver_feature",
]);
/** Second half of a 64-bit field. */
const HIGH = 4;

const FIELDS = new FieldMap(
  Object.entries(COMMON).flatMap(([name, offset]): Field[] => {
    if (BYTES.has(name)) return [{ name, offset, size: 1 }];
    if (DWORDS.has(name)) return [{ name, offset, size: 4 }];
    if (!AREAS.has(name)) return [{ name, offset, size: 2 }];
    return [
      { name, offset, size: 4 },
      { name: `${name} (high)`, offset: offset + HIGH, size: 4 },
    ];
  }),
);

/** "Common configuration structure layout": the registers of struct virtio_pci_common_cfg. */
export class CommonConfig implements Registers {
  readonly #parts: CommonConfigParts;
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #queueSelect = 0;

  constructor(parts: CommonConfigParts) {
    this.#parts = parts;
  }

  read(offset: number, size: AccessSize): number {
    const { instance } = this.#parts;
    if (instance.observer?.hint !== undefined) judgeWidth(instance, FIELDS, "read", offset, size);
    return FIELDS.read(this, offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    const { instance } = this.#parts;
    if (instance.observer?.hint !== undefined) judgeWidth(instance, FIELDS, "write", offset, size);
    FIELDS.write(this, offset, size, value);
  }

  readField(field: Field): number {
    const value = this.#get(field.offset);
    const { instance } = this.#parts;
    instance.observer?.register?.(instance, "read", field.name, value);
    return value;
  }

  writeField(field: Field, value: number): void {
    const { instance, negotiated, interrupts } = this.#parts;
    if (instance.observer?.hint !== undefined) {
      judgeCommon(instance, negotiated, this.#queueSelect, field, value);
      judgeVector(instance, interrupts.vectors, field, value);
    }
    instance.observer?.register?.(instance, "write", field.name, value);
    this.#set(field.offset, value);
  }

  reset(): void {
    this.#deviceFeatureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#queueSelect = 0;
  }

  save(): CommonConfigState {
    return {
      deviceFeatureSelect: this.#deviceFeatureSelect,
      driverFeatureSelect: this.#driverFeatureSelect,
      queueSelect: this.#queueSelect,
    };
  }

  restore(state: CommonConfigState): void {
    this.#deviceFeatureSelect = state.deviceFeatureSelect;
    this.#driverFeatureSelect = state.driverFeatureSelect;
    this.#queueSelect = state.queueSelect;
  }

  #get(offset: number): number {
    const { instance, interrupts, generation } = this.#parts;
    switch (offset) {
      case COMMON.device_feature_select:
        return this.#deviceFeatureSelect;
      case COMMON.device_feature:
        return instance.readDeviceFeatures(this.#deviceFeatureSelect);
      case COMMON.driver_feature_select:
        return this.#driverFeatureSelect;
      case COMMON.driver_feature:
        return instance.readDriverFeatures(this.#driverFeatureSelect);
      case COMMON.config_msix_vector:
        return interrupts.configVector;
      case COMMON.num_queues:
        return instance.queueCount;
      case COMMON.device_status:
        return instance.status;
      case COMMON.config_generation:
        return generation.value;
      case COMMON.queue_select:
        return this.#queueSelect;
      case COMMON.queue_msix_vector:
        return interrupts.queueVector(this.#queueSelect);
      default:
        return this.#getQueue(offset);
    }
  }

  /** Of a virtqueue that is not there, and of the administration virtqueues, which nobody has, all is 0. */
  #getQueue(offset: number): number {
    const { instance, negotiated, oneNotifyAddress, notifConfigData } = this.#parts;
    const queue = instance.queue(this.#queueSelect);
    if (queue === undefined) return 0;
    switch (offset) {
      case COMMON.queue_size:
        return queue.size;
      case COMMON.queue_enable:
        return queue.enabled ? 1 : 0;
      case COMMON.queue_notify_off:
        return oneNotifyAddress ? 0 : queue.index;
      case COMMON.queue_desc:
        return queue.readArea("descriptorArea", "low");
      case COMMON.queue_desc + HIGH:
        return queue.readArea("descriptorArea", "high");
      case COMMON.queue_driver:
        return queue.readArea("driverArea", "low");
      case COMMON.queue_driver + HIGH:
        return queue.readArea("driverArea", "high");
      case COMMON.queue_device:
        return queue.readArea("deviceArea", "low");
      case COMMON.queue_device + HIGH:
        return queue.readArea("deviceArea", "high");
      case COMMON.queue_notif_config_data:
        return negotiated.notifConfigData ? notifConfigData(queue.index) : 0;
      case COMMON.queue_reset:
        // "The device MUST continue to present 1 in queue_reset as long as the queue reset is ongoing."
        return negotiated.ringReset && queue.resetting ? 1 : 0;
      default:
        return 0;
    }
  }

  #set(offset: number, value: number): void {
    const { instance, interrupts } = this.#parts;
    switch (offset) {
      case COMMON.device_feature_select:
        this.#deviceFeatureSelect = value;
        return;
      case COMMON.driver_feature_select:
        this.#driverFeatureSelect = value;
        return;
      case COMMON.driver_feature:
        return instance.writeDriverFeatures(this.#driverFeatureSelect, value);
      case COMMON.config_msix_vector:
        interrupts.configVector = value;
        return;
      case COMMON.device_status:
        return this.#setStatus(value);
      case COMMON.queue_select:
        this.#queueSelect = value;
        return;
      case COMMON.queue_msix_vector:
        return interrupts.setQueueVector(this.#queueSelect, value);
      default:
        return this.#setQueue(offset, value);
    }
  }

  /** A driver that starts here, or starts again, is no legacy driver. */
  #setStatus(value: number): void {
    const { instance, negotiated } = this.#parts;
    if (instance.status === 0) instance.useModern();
    instance.writeStatus(value);
    negotiated.update(instance);
  }

  #setQueue(offset: number, value: number): void {
    const { instance, negotiated, interrupts } = this.#parts;
    const queue = instance.queue(this.#queueSelect);
    if (queue === undefined) return;
    if (offset === COMMON.queue_enable) {
      // "The driver MUST NOT write a 0 to queue_enable": only a reset disables a virtqueue.
      if (value === 1 && !queue.resetting) queue.enable();
    } else if (offset === COMMON.queue_reset) {
      if (value !== 1 || !negotiated.ringReset) return;
      // "The device MUST reset any state of a virtqueue to the default state".
      interrupts.setQueueVector(queue.index, VIRTIO_MSI_NO_VECTOR);
      queue.reset();
    } else if (!queue.enabled) {
      // "The driver MUST configure the other virtqueue fields before enabling the virtqueue": then they stand.
      this.#configureQueue(queue, offset, value);
    }
  }

  #configureQueue(queue: QueueRegisters, offset: number, value: number): void {
    switch (offset) {
      case COMMON.queue_size:
        return this.#setQueueSize(queue, value);
      case COMMON.queue_desc:
        return queue.setArea("descriptorArea", "low", value);
      case COMMON.queue_desc + HIGH:
        return queue.setArea("descriptorArea", "high", value);
      case COMMON.queue_driver:
        return queue.setArea("driverArea", "low", value);
      case COMMON.queue_driver + HIGH:
        return queue.setArea("driverArea", "high", value);
      case COMMON.queue_device:
        return queue.setArea("deviceArea", "low", value);
      case COMMON.queue_device + HIGH:
        return queue.setArea("deviceArea", "high", value);
      default:
        return;
    }
  }

  /** A size that the driver must not write is not taken, for "the device MUST present either 0 or a power of 2". */
  #setQueueSize(queue: QueueRegisters, value: number): void {
    const { instance, negotiated } = this.#parts;
    if (isQueueSize(value, negotiated.ringPacked) && value <= queue.maxSize) {
      queue.size = value;
      return;
    }
    const rule = `queue_size must be ${negotiated.ringPacked ? "" : "a power of two and "}1 to ${queue.maxSize}`;
    instance.reportFault(new VirtioFault("drv.pci.common-cfg", rule, { queue: queue.index, value }));
  }
}
