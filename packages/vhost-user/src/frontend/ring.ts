import type { DeviceNotification } from "virtio/driver/types";
import { readLe16 } from "virtio/memory/bytes";
import type { QueueConfig } from "virtio/virtqueue/types";
import { closeAll, type Descriptor } from "../native/descriptor.ts";
import { clearEvent, createEvent, signalEvent } from "../native/event.ts";
import type { Poller } from "@virtio/node/native/poller";
import type { Watch } from "@virtio/node/native/poller";
import * as vu from "../protocol/numbers.ts";
import { encodeU64, encodeVringAddress, encodeVringState } from "../protocol/payloads.ts";
import { BusyPoll } from "./busy-poll.ts";
import type { Connection } from "./connection.ts";
import type { FrontendOptions } from "./options.ts";
import type { SharedMemory } from "./shared-memory.ts";

const POLL_MAX_NS = 65_536;

/** What happens on a ring. */
export interface RingListener {
  used(notification: DeviceNotification): void;
  /** The back-end found something that no driver may do. */
  broken(index: number): void;
}

/** Where a ring starts that nobody has used: packed, both positions 0 with their wrap counters set. */
const FIRST_SPLIT = 0;
const FIRST_PACKED = 0x8000_8000;

/** One vring as its driver set it up, with its three descriptors. */
export class FrontendRing {
  readonly config: QueueConfig;
  readonly notification: DeviceNotification;
  readonly #packed: boolean;
  readonly #kick: Descriptor = createEvent();
  readonly #call: Descriptor = createEvent();
  readonly #err: Descriptor = createEvent();
  readonly #watches: Watch[] = [];
  readonly #busyPoll: BusyPoll | undefined;

  constructor(
    config: QueueConfig,
    packed: boolean,
    poller: Poller,
    options: Pick<FrontendOptions, "polling" | "pollMaxNs" | "poller">,
    listener: RingListener,
  ) {
    this.config = config;
    this.notification = { queue: config.index, used: true, configuration: false };
    this.#packed = packed;
    if (options.polling !== true) {
      // Its turns are those of Node's own loop.
      const pollMaxNs = options.poller === undefined ? (options.pollMaxNs ?? POLL_MAX_NS) : 0;
      const used = (): void => listener.used(this.notification);
      const busyPoll = pollMaxNs > 0 ? new BusyPoll(pollMaxNs, used) : undefined;
      this.#busyPoll = busyPoll;
      this.#watch(poller, this.#call, () => {
        busyPoll?.woken();
        used();
      });
    }
    this.#watch(poller, this.#err, () => listener.broken(config.index));
  }

  /** As `DriverTransport.looksAgain`. */
  looksAgain(found: boolean): boolean {
    return this.#busyPoll?.looksAgain(found) ?? false;
  }

  /** Before it was started too: the back-end finds the kick when it is. */
  kick(): void {
    signalEvent(this.#kick.fd);
  }

  /** Tells the back-end everything. `again`: the ring ran under another connection, and goes on. */
  start(connection: Connection, memory: SharedMemory, again: boolean): void {
    const { index, size, descriptorArea, driverArea, deviceArea } = this.config;
    let base = this.#packed ? FIRST_PACKED : FIRST_SPLIT;
    // The inflight region says where the ring stands; a back-end that had not begun with it starts from here.
    if (again && !this.#packed) base = readLe16(memory.pool.view(deviceArea + 2, 2), 0);
    const state = (value: number): Uint8Array => encodeVringState({ index, value });
    connection.tell(vu.SET_VRING_NUM, state(size));
    connection.tell(vu.SET_VRING_BASE, state(base));
    connection.tell(
      vu.SET_VRING_ADDR,
      encodeVringAddress({
        index,
        flags: 0,
        // User addresses are the guest's, see SharedMemory.
        descriptor: descriptorArea,
        used: deviceArea,
        available: driverArea,
        log: deviceArea,
      }),
    );
    connection.tell(vu.SET_VRING_ERR, encodeU64(index), [this.#err]);
    connection.tell(vu.SET_VRING_CALL, encodeU64(index), [this.#call]);
    connection.tell(vu.SET_VRING_KICK, encodeU64(index), [this.#kick]);
  }

  /** Only with VHOST_USER_F_PROTOCOL_FEATURES: without it a ring that is started is enabled. */
  enable(connection: Connection, on: boolean): void {
    const { index } = this.config;
    connection.tell(vu.SET_VRING_ENABLE, encodeVringState({ index, value: Number(on) }));
  }

  /** Resolves when the back-end holds nothing of it any more. */
  async stop(connection: Connection): Promise<void> {
    const { index } = this.config;
    const { descriptors } = await connection.ask(vu.GET_VRING_BASE, encodeVringState({ index, value: 0 }));
    closeAll(descriptors);
  }

  close(): void {
    this.#busyPoll?.stop();
    for (const watch of this.#watches) watch.stop();
    closeAll([this.#kick, this.#call, this.#err]);
  }

  #watch(poller: Poller, event: Descriptor, signalled: () => void): void {
    const watch = poller.watch(event.fd, () => {
      if (event.closed) return;
      if (!clearEvent(event.fd)) watch.stop();
      signalled();
    });
    this.#watches.push(watch);
  }
}
