import type { DeviceInstance } from "virtio/device/instance";
import { DirtyLog } from "../memory/dirty-log.ts";
import { Iotlb } from "../memory/iotlb.ts";
import type { MemoryTable } from "../memory/memory-table.ts";
import type { Descriptor } from "../native/descriptor.ts";
import { signalEvent } from "../native/event.ts";
import type { PeerFiles } from "../memory/peer-file.ts";
import { reject } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import * as payload from "../protocol/payloads.ts";
import { u64, type Handled, type Register } from "./handlers.ts";
import type { BackendRing } from "./ring.ts";
import type { Upcalls } from "./upcalls.ts";

/** Bytes, for 64 TiB of guest addresses. One view shows all of it. */
const LARGEST_LOG = 2 ** 31;

/** What the memory of a session needs of it. */
export interface SessionMemoryHost {
  readonly instance: DeviceInstance;
  readonly rings: readonly BackendRing[];
  readonly upcalls: Upcalls | undefined;
  readonly files: PeerFiles;
}

/** Guest memory as a front-end leads it: its table, the dirty log, translations. */
export class SessionMemory {
  readonly #memory: MemoryTable;
  readonly #host: SessionMemoryHost;
  #logAll = false;
  /** SET_LOG_BASE came; it is used while LOG_ALL is set. */
  #log: DirtyLog | undefined;
  #logEvent: Descriptor | undefined;

  constructor(memory: MemoryTable, host: SessionMemoryHost) {
    this.#memory = memory;
    this.#host = host;
    memory.onLogged = () => this.#logEvent && signalEvent(this.#logEvent.fd);
    memory.onMiss = (iova) => host.upcalls?.translationMissing(iova) ?? false;
  }

  /** VIRTIO_F_ACCESS_PLATFORM. */
  get translated(): boolean {
    return this.#memory.iotlb !== undefined;
  }

  set translated(translated: boolean) {
    if (translated !== this.translated) this.#memory.iotlb = translated ? new Iotlb() : undefined;
  }

  /** VHOST_F_LOG_ALL. */
  set logAll(logAll: boolean) {
    this.#logAll = logAll;
    this.#applyLog();
  }

  /** No request uses memory any more. */
  close(): void {
    this.#memory.log = undefined;
    this.#log?.close();
    this.#log = undefined;
    this.#logEvent?.close();
    this.#logEvent = undefined;
    this.#memory.clear();
  }

  register(on: Register): void {
    on(vu.SET_MEM_TABLE, (body, luggage) => {
      const regions = payload.decodeMemoryTable(body);
      if (regions.length !== luggage.count)
        reject(`memory table of ${regions.length} regions with ${luggage.count} descriptors`);
      const descriptors = luggage.all;
      const table = regions.flatMap((region, i) => {
        const descriptor = descriptors[i];
        return descriptor === undefined ? [] : [{ region, descriptor }];
      });
      return this.#changeMemory(() => this.#memory.replace(table));
    });
    on(vu.GET_MAX_MEM_SLOTS, () => u64(vu.MAX_MEM_SLOTS));
    on(vu.ADD_MEM_REG, (body, luggage) => {
      const region = payload.decodeRegion(body);
      const descriptor = luggage.one();
      try {
        this.#memory.add(region, descriptor);
      } finally {
        descriptor.close();
      }
      for (const ring of this.#host.rings) ring.tryStart();
      return undefined;
    });
    on(vu.REM_MEM_REG, (body) => {
      const region = payload.decodeRegion(body);
      return this.#changeMemory(() => this.#memory.remove(region));
    });
    on(vu.SET_LOG_BASE, (body, luggage) => {
      const log = payload.decodeLog(body);
      const descriptor = luggage.one();
      try {
        if (log.size > LARGEST_LOG) reject(`dirty log of ${log.size} bytes, ${LARGEST_LOG} are the most`);
        if (log.size === 0) reject("dirty log of no bytes");
        const old = this.#log;
        this.#log = new DirtyLog(this.#host.files.map("dirty log", descriptor, log.offset, log.size));
        this.#applyLog();
        old?.close();
      } finally {
        descriptor.close();
      }
      return u64(0);
    });
    on(vu.SET_LOG_FD, (_, luggage) => {
      this.#logEvent?.close();
      this.#logEvent = luggage.take();
      this.#logEvent?.setNonBlocking();
      return undefined;
    });
    on(vu.IOTLB_MSG, (body) => this.#translation(payload.decodeIotlb(body)));
  }

  /** Mappings go only when no request uses them. */
  async #changeMemory(change: () => void): Promise<Handled> {
    await this.#host.instance.pause();
    try {
      change();
      for (const ring of this.#host.rings) await ring.memoryChanged();
    } finally {
      this.#host.instance.resume();
    }
    return undefined;
  }

  async #translation(message: payload.IotlbMessage): Promise<Handled> {
    const { iotlb } = this.#memory;
    if (iotlb === undefined) reject("IOTLB message without VIRTIO_F_ACCESS_PLATFORM");
    const known = iotlb.find(message.iova) !== undefined;
    if (message.type === vu.IOTLB_UPDATE) {
      if (this.#memory.guestAddress(message.userAddress) === undefined) return u64(1);
      if (known) await this.#changeMemory(() => iotlb.update(message));
      else iotlb.update(message);
      this.#memory.translationsChanged();
      this.#host.upcalls?.translationsChanged(message.iova, message.size);
      for (const ring of this.#host.rings) {
        ring.tryStart();
        if (ring.running) this.#host.instance.notify(ring.index);
      }
      return u64(0);
    }
    if (message.type !== vu.IOTLB_INVALIDATE) return u64(1);
    await this.#changeMemory(() => {
      iotlb.invalidate(message.iova, message.size);
      this.#host.upcalls?.translationsChanged(message.iova, message.size);
      this.#memory.translationsChanged();
    });
    return u64(0);
  }

  #applyLog(): void {
    this.#memory.log = this.#logAll ? this.#log : undefined;
  }
}
