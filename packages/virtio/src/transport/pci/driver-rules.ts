/**
 * What a driver does wrong at the registers of a PCI function, and what they put up with ("PCI Device Layout" and what follows).
 * Asked before an access is done, and only when somebody wants to hear of it.
 */
import { hint } from "../../device/hint.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import type { FaultDetail } from "../../fault.ts";
import { VIRTIO_MSI_NO_VECTOR } from "../../spec/pci.ts";
import type { Field, FieldMap } from "../fields.ts";
import type { Negotiated } from "../negotiated.ts";
import type { ModernLayout } from "./layout.ts";

const COMMON_CFG = "drv.pci.common-cfg";
const LAYOUT = "drv.pci.layout";

const READ_ONLY: ReadonlySet<string> = new Set([
  "device_feature",
  "num_queues",
  "config_generation",
  "queue_notify_off",
  "queue_notif_config_data",
  "admin_queue_index",
  "admin_queue_num",
]);
const LEGACY_READ_ONLY: ReadonlySet<string> = new Set(["device_features", "queue_size", "isr_status"]);
/** "The driver MUST configure the other virtqueue fields before enabling the virtqueue": then these stand. */
const CONFIGURES_QUEUE: ReadonlySet<string> = new Set([
  "queue_size",
  "queue_desc",
  "queue_desc (high)",
  "queue_driver",
  "queue_driver (high)",
  "queue_device",
  "queue_device (high)",
]);
const OF_QUEUE: ReadonlySet<string> = new Set([
  ...CONFIGURES_QUEUE,
  "queue_msix_vector",
  "queue_enable",
  "queue_reset",
]);

/** An access to fields of a structure: whether it is one that a driver may do. */
export function judgeWidth(
  instance: DeviceInstance,
  fields: FieldMap,
  access: "read" | "write",
  offset: number,
  size: number,
  clause: string = LAYOUT,
): void {
  const field = fields.at(offset);
  if (field === undefined) hint(instance, clause, `${access} of a place that is no field`, { value: offset });
  // Machines such as v86 split a read of 16 bits into two of 8 themselves: that is not the driver's doing.
  else if (access === "read" && size === 1 && field.size === 2) return;
  else if (field.offset !== offset || field.size !== size)
    hint(instance, clause, `${access} of ${field.name} that is not ${8 * field.size} bits wide and aligned`, {
      value: offset,
    });
}

/** A write of a field of the common configuration structure. */
export function judgeCommon(
  instance: DeviceInstance,
  negotiated: Negotiated,
  queueSelect: number,
  { name }: Field,
  value: number,
): void {
  const say = (rule: string, detail: FaultDetail, clause = COMMON_CFG): void =>
    hint(instance, clause, rule, detail);
  if (READ_ONLY.has(name)) return say(`write to the read-only field ${name}`, { value });
  if (!OF_QUEUE.has(name)) return;
  const queue = instance.queue(queueSelect);
  if (queue === undefined)
    return say(`${name} written for a virtqueue that does not exist`, { value: queueSelect });
  const where = { queue: queueSelect, value };
  if (CONFIGURES_QUEUE.has(name) && queue.enabled) say(`${name} written while queue_enable is 1`, where);
  else if (name === "queue_enable" && value !== 1) say("queue_enable takes only 1", where);
  else if (name === "queue_enable" && queue.resetting)
    say("queue_enable set before queue_reset reads 0", where);
  else if (name === "queue_reset" && !negotiated.ringReset)
    say("queue_reset written without VIRTIO_F_RING_RESET", where, "drv.core.vq-reset");
  else if (name === "queue_reset" && value !== 1) say("queue_reset takes only 1", where);
}

/** A write of a field of the legacy header. */
export function judgeLegacy(
  instance: DeviceInstance,
  queueSelect: number,
  { name }: Field,
  value: number,
): void {
  if (LEGACY_READ_ONLY.has(name))
    hint(instance, "own.legacy", `write to the read-only field ${name}`, { value });
  else if (
    (name === "queue_address" || name === "queue_msix_vector") &&
    instance.queue(queueSelect) === undefined
  )
    hint(instance, "own.legacy", `${name} written for a virtqueue that does not exist`, {
      value: queueSelect,
    });
}

/** A vector that the driver writes and that does not exist: it reads back as NO_VECTOR. */
export function judgeVector(instance: DeviceInstance, vectors: number, { name }: Field, value: number): void {
  if (name.endsWith("_msix_vector") && value !== VIRTIO_MSI_NO_VECTOR && value >= vectors)
    hint(instance, "drv.pci.msix", `${name} is none of the MSI-X table`, { value });
}

/** An access behind the modern BAR that is none to the common configuration. */
export function judgeModern(
  instance: DeviceInstance,
  layout: ModernLayout,
  access: "read" | "write",
  offset: number,
  size: number,
): void {
  const inside = (start: number, length: number): boolean => offset >= start && offset < start + length;
  if (inside(layout.device, layout.deviceLength)) {
    if ((offset - layout.device) % size !== 0)
      hint(
        instance,
        LAYOUT,
        `${access} of the configuration space at a place that is not aligned to its width`,
        {
          value: offset - layout.device,
        },
      );
  } else if (inside(layout.isr, layout.isrLength)) {
    if (access === "write") hint(instance, "drv.pci.isr", "write to the ISR status");
    else if (size !== 1)
      hint(instance, LAYOUT, "read of the ISR status that is not 8 bits wide", { value: size });
  } else if (inside(layout.notify, layout.notifyLength)) {
    if (access === "read") hint(instance, "own.notify", "read of the notification structure");
  } else hint(instance, LAYOUT, `${access} outside of every structure`, { value: offset });
}

/** A write to the notification structure. `queue`: what it names, or -1. */
export function judgeNotify(
  instance: DeviceInstance,
  negotiated: Negotiated,
  offset: number,
  size: number,
  queue: number,
  value: number,
): void {
  const width = negotiated.notificationData ? 4 : 2;
  if (size !== width)
    hint(instance, "own.notify", `notification that is not ${8 * width} bits wide`, { value: size });
  if (size === 1) return;
  if (queue < 0)
    hint(instance, "own.notify", "notification at an address of no virtqueue", { value: offset });
  else if (!negotiated.notifConfigData && (value & 0xffff) !== queue)
    hint(instance, "own.notify", "notification with the index of another virtqueue", { queue, value });
}
