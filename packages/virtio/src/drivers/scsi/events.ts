import { Mailbox } from "../../driver/mailbox.ts";
import { ReceiveBuffers } from "../../driver/receive-buffers.ts";
import type { DmaMemory } from "../../driver/types.ts";
import type { DriverVirtqueue } from "../../driver/virtqueue.ts";
import { VirtioFault } from "../../fault.ts";
import { readLe32 } from "../../memory/bytes.ts";
import {
  VIRTIO_SCSI_EVENT,
  VIRTIO_SCSI_EVENT_SIZE,
  VIRTIO_SCSI_EVT_RESET_HARD,
  VIRTIO_SCSI_EVT_RESET_REMOVED,
  VIRTIO_SCSI_EVT_RESET_RESCAN,
  VIRTIO_SCSI_T_ASYNC_NOTIFY,
  VIRTIO_SCSI_T_EVENTS_MISSED,
  VIRTIO_SCSI_T_PARAM_CHANGE,
  VIRTIO_SCSI_T_TRANSPORT_RESET,
} from "../../spec/scsi.ts";
import { decodeAddress, type ScsiAddress } from "./address.ts";

/** What a SCSI host device reported about its logical units ("Device Operation: eventq"). */
export type ScsiEvent =
  | { readonly kind: "added" | "removed" | "reset"; readonly unit: ScsiAddress }
  /** Parameters changed, such as the capacity; the codes are those of the unit attention. */
  | { readonly kind: "changed"; readonly unit: ScsiAddress; readonly asc: number; readonly ascq: number }
  /** `events`: VIRTIO_SCSI_EVT_ASYNC_…. */
  | { readonly kind: "notification"; readonly unit: ScsiAddress; readonly events: number }
  /** The device had no buffer, or nobody read: what there is must be found out by a scan. */
  | { readonly kind: "missed" };

/** "[…] placing 10-15 buffers on the event queue is sufficient." */
const BUFFERS = 15;
/** A device may ask for buffers of 4 GiB. */
const MAX_BUFFER_BYTES = 4096;
/** Events that wait for a reader; what comes then is missed. */
const MAX_WAITING = 256;

const RESET_KINDS: Readonly<Record<number, "added" | "removed" | "reset">> = {
  [VIRTIO_SCSI_EVT_RESET_HARD]: "reset",
  [VIRTIO_SCSI_EVT_RESET_RESCAN]: "added",
  [VIRTIO_SCSI_EVT_RESET_REMOVED]: "removed",
};

/** The event queue, kept populated. */
export class ScsiEvents {
  readonly #buffers: ReceiveBuffers;
  readonly #waiting = new Mailbox<ScsiEvent>();
  readonly #heard: (event: ScsiEvent) => void;
  #missed = false;

  /** `size`: `event_info_size`. `heard` is called for each event, before anybody reads it. */
  constructor(
    queue: DriverVirtqueue,
    memory: DmaMemory,
    size: number,
    heard: (event: ScsiEvent) => void,
    fail: (fault: VirtioFault) => void,
  ) {
    this.#heard = heard;
    const bytes = Math.max(VIRTIO_SCSI_EVENT_SIZE, Math.min(size, MAX_BUFFER_BYTES));
    this.#buffers = new ReceiveBuffers(queue, memory, BUFFERS, bytes, (buffer, written) => {
      if (written < VIRTIO_SCSI_EVENT_SIZE)
        return fail(
          new VirtioFault("dev.scsi.eventq", "short event", { queue: queue.index, value: written }),
        );
      const event = this.#buffers.copy(buffer, VIRTIO_SCSI_EVENT_SIZE);
      this.#buffers.give(buffer);
      this.#buffers.kick();
      for (const each of parseEvents(event)) this.#heard(each);
    });
  }

  kick(): void {
    this.#buffers.kick();
  }

  /** For readers of `take`. */
  put(event: ScsiEvent): void {
    if (this.#waiting.length >= MAX_WAITING) {
      this.#missed = true;
      return;
    }
    this.#waiting.put(event);
  }

  /** The next event; undefined when the driver was closed. */
  take(): Promise<ScsiEvent | undefined> {
    if (this.#missed && this.#waiting.length === 0) {
      this.#missed = false;
      return Promise.resolve({ kind: "missed" });
    }
    return this.#waiting.take();
  }

  end(): void {
    this.#waiting.end();
  }

  fail(error: Error): void {
    this.#waiting.fail(error);
  }
}

/** One buffer says that events were lost, or what happened, or both. What makes no sense says nothing. */
export function parseEvents(bytes: Uint8Array): ScsiEvent[] {
  const word = readLe32(bytes, VIRTIO_SCSI_EVENT.event);
  const reason = readLe32(bytes, VIRTIO_SCSI_EVENT.reason);
  const unit = decodeAddress(bytes.subarray(VIRTIO_SCSI_EVENT.lun, VIRTIO_SCSI_EVENT.lun + 8));
  const missed: ScsiEvent[] = word >= VIRTIO_SCSI_T_EVENTS_MISSED ? [{ kind: "missed" }] : [];
  const event = unit === undefined ? undefined : parseOne(word % VIRTIO_SCSI_T_EVENTS_MISSED, unit, reason);
  return event === undefined ? missed : [...missed, event];
}

function parseOne(event: number, unit: ScsiAddress, reason: number): ScsiEvent | undefined {
  switch (event) {
    case VIRTIO_SCSI_T_TRANSPORT_RESET: {
      const kind = RESET_KINDS[reason];
      return kind && { kind, unit };
    }
    case VIRTIO_SCSI_T_ASYNC_NOTIFY:
      return { kind: "notification", unit, events: reason };
    case VIRTIO_SCSI_T_PARAM_CHANGE:
      return { kind: "changed", unit, asc: reason & 0xff, ascq: (reason >>> 8) & 0xff };
    default:
      return undefined;
  }
}
