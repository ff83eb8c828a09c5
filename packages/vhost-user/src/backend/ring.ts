import type { QueueMode, QueueRegisters } from "virtio/device/queue-registers";
import type { GuestMemory } from "virtio/memory/guest-memory";
import { readLe16 } from "virtio/memory/bytes";
import type { QueueStart } from "virtio/virtqueue/types";
import type { Descriptor } from "../native/descriptor.ts";
import { clearEvent, signalEvent } from "../native/event.ts";
import type { Poller } from "@virtio/node/native/poller";
import type { Watch } from "@virtio/node/native/poller";
import { PeerError } from "../protocol/errors.ts";
import type { VringAddress } from "../protocol/payloads.ts";
import type { InflightQueue } from "./inflight.ts";

/** What a ring needs of its session. */
export interface RingHost {
  readonly memory: GuestMemory;
  readonly poller: Poller;
  /** VIRTIO_F_RING_PACKED was negotiated. */
  readonly packed: boolean;
  /** Guest address of a ring address, or undefined when it is in no region. */
  ringAddress(address: number): number | undefined;
  /** This address of a ring is not in memory. */
  missing(address: number): void;
  inflight(index: number, size: number): InflightQueue | undefined;
  /** The device may have to be reset before this ring can run. False: that takes a while, the ring is started again. */
  starting(): boolean;
  started(ring: BackendRing): void;
  notify(index: number): void;
  /** What the front-end set up cannot be, and nobody waits for an answer. */
  broken(error: unknown): void;
}

interface Areas {
  readonly descriptorArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
}

/** Where a ring starts that no driver has used. */
const FIRST_SPLIT = 0;
const FIRST_PACKED = 0x8000;

/** What QEMU itself accepts. It may give a device a smaller ring than the device type's own limits assume. */
const LONGEST_CHAIN = 1024;

/** One vring: what the front-end said of it, and its descriptors. */
export class BackendRing {
  readonly index: number;
  readonly #registers: QueueRegisters;
  readonly #host: RingHost;
  /** What a disabled ring does. */
  readonly #disabledMode: QueueMode;
  #size = 0;
  /** As SET_VRING_BASE gives it: split, an index; packed, the available position below and the used one above. */
  #base = 0;
  #address: VringAddress | undefined;
  #areas: Areas | undefined;
  #kick: Descriptor | undefined;
  #call: Descriptor | undefined;
  #err: Descriptor | undefined;
  #watch: Watch | undefined;
  /** While it runs, on a thread that looks before it sleeps. */
  #spin: Watch | undefined;
  /** SET_VRING_KICK came: the ring is to run as soon as it can. */
  #started = false;
  #running = false;
  /** The driver kicked since the ring was set up. */
  #kicked = false;
  /** It has run and was stopped elsewhere than where a new driver starts. */
  #advanced = false;

  constructor(registers: QueueRegisters, host: RingHost, disabledMode: QueueMode) {
    this.index = registers.index;
    this.#registers = registers;
    this.#host = host;
    this.#disabledMode = disabledMode;
    registers.mode = disabledMode;
    registers.longestChain = LONGEST_CHAIN;
  }

  get running(): boolean {
    return this.#running;
  }

  /** The driver uses it: it kicked, it offers buffers, or the ring had got further when it was taken up. */
  get inUse(): boolean {
    if (!this.#running || this.#areas === undefined || this.#registers.mode !== "serve") return false;
    return this.#kicked || !this.#isFirst || this.#offersBuffers(this.#areas);
  }

  /** The ring starts where only a new driver starts, and an earlier driver had got further. */
  get beginsAnew(): boolean {
    return this.#advanced && this.#isFirst;
  }

  setSize(size: number): void {
    if (size === 0 || size > this.#registers.maxSize)
      throw new PeerError(`virtqueue ${this.index}: size ${size}, ${this.#registers.maxSize} is the largest`);
    if (this.#running && size !== this.#size)
      throw new PeerError(`virtqueue ${this.index}: size of a running ring`);
    this.#size = size;
  }

  setBase(base: number): void {
    if (this.#running) throw new PeerError(`virtqueue ${this.index}: base of a running ring`);
    this.#base = base;
  }

  /** A running ring that moves is taken up at its new place. */
  async setAddress(address: VringAddress): Promise<void> {
    const old = this.#address;
    this.#address = address;
    const moved =
      old?.descriptor !== address.descriptor ||
      old.available !== address.available ||
      old.used !== address.used;
    if (this.#running && moved) await this.#halt();
    this.tryStart();
  }

  set enabled(enabled: boolean) {
    this.#registers.mode = enabled ? "serve" : this.#disabledMode;
  }

  /** Starts the ring. Undefined: there are no kicks, the ring is polled. */
  setKick(kick: Descriptor | undefined): void {
    this.#closeKick();
    this.#kicked = false;
    this.#kick = kick;
    const { poller } = this.#host;
    try {
      this.#watch =
        kick === undefined
          ? poller.poll(() => this.#polled())
          : poller.watch(kick.fd, () => this.#wake(), true);
    } catch (error) {
      this.#closeKick();
      const reason = error instanceof Error ? error.message : String(error);
      throw new PeerError(`virtqueue ${this.index}: cannot wait for kicks: ${reason}`);
    }
    this.#started = true;
    this.tryStart();
  }

  setCall(call: Descriptor | undefined): void {
    this.#call?.close();
    this.#call = call;
    call?.setNonBlocking();
    // What was used while nobody could be told.
    if (this.#running) this.signalUsed();
  }

  setErr(err: Descriptor | undefined): void {
    this.#err?.close();
    this.#err = err;
    err?.setNonBlocking();
  }

  signalUsed(): void {
    if (this.#call !== undefined) signalEvent(this.#call.fd);
  }

  signalError(): void {
    if (this.#err !== undefined) signalEvent(this.#err.fd);
  }

  /** Runs the ring if everything that it needs is there. */
  tryStart(): void {
    if (this.#running || !this.#started || this.#size === 0 || this.#address === undefined) return;
    const areas = this.#findAreas(this.#address);
    if (areas === undefined || !this.#isClean(areas)) return;
    if (!this.#host.starting()) return;
    const registers = this.#registers;
    registers.size = this.#size;
    registers.descriptorArea = areas.descriptorArea;
    registers.driverArea = areas.driverArea;
    registers.deviceArea = areas.deviceArea;
    registers.start = this.#position(areas);
    this.#areas = areas;
    registers.enable();
    this.#running = true;
    this.#spin = this.#host.poller.spin?.({ look: () => registers.look(), rest: () => registers.rest() });
    this.#host.started(this);
  }

  /** Guest memory changed: a ring that lies elsewhere now, or nowhere, is taken up there. */
  async memoryChanged(): Promise<void> {
    if (this.#running && this.#address !== undefined) {
      const now = this.#findAreas(this.#address);
      const same =
        now !== undefined &&
        now.descriptorArea === this.#areas?.descriptorArea &&
        now.driverArea === this.#areas.driverArea &&
        now.deviceArea === this.#areas.deviceArea;
      if (!same) await this.#halt();
    }
    this.tryStart();
  }

  /** GET_VRING_BASE: what is being worked on is done first. */
  async stop(): Promise<number> {
    this.#started = false;
    this.#closeKick();
    await this.#halt();
    return this.#base;
  }

  /** Stops it until `tryStart`: what is being worked on is done first. */
  async pause(): Promise<void> {
    await this.#halt();
    this.#advanced = false;
  }

  /** Nothing of the front-end's is held any more. The ring is stopped. */
  close(): void {
    this.#closeKick();
    this.setCall(undefined);
    this.setErr(undefined);
    this.#address = undefined;
    this.#started = false;
    this.#size = 0;
    this.#base = 0;
    this.#advanced = false;
  }

  async #halt(): Promise<void> {
    if (!this.#running) return;
    this.#spin?.stop();
    this.#spin = undefined;
    const state = await this.#registers.stop();
    this.#running = false;
    if (state === undefined) return;
    const { packed } = this.#host;
    this.#base = packed ? (state.nextAvailable | (state.nextUsed << 16)) >>> 0 : state.nextAvailable;
    this.#advanced = state.nextAvailable !== (packed ? FIRST_PACKED : FIRST_SPLIT);
  }

  #wake(): void {
    if (this.#kick === undefined) return;
    if (!clearEvent(this.#kick.fd)) this.#watch?.stop();
    this.#kicked = true;
    this.#notified();
  }

  /** A ring without kicks: its driver said something when it offers a buffer. */
  #polled(): void {
    if (!this.#kicked) {
      const areas = this.#address === undefined ? undefined : this.#findAreas(this.#address);
      this.#kicked = areas !== undefined && this.#offersBuffers(areas);
    }
    if (this.#running || this.#kicked) this.#notified();
  }

  #notified(): void {
    if (this.#running) return this.#host.notify(this.index);
    try {
      this.tryStart();
    } catch (error) {
      this.#host.broken(error);
    }
  }

  #closeKick(): void {
    this.#watch?.stop();
    this.#watch = undefined;
    this.#kick?.close();
    this.#kick = undefined;
  }

  /** Undefined while some of it is not in memory, or not translated. */
  #findAreas({ descriptor, available, used }: VringAddress): Areas | undefined {
    const { memory, packed } = this.#host;
    const size = this.#size;
    const find = (address: number, length: number, writable = false): number => {
      const gpa = this.#host.ringAddress(address);
      if (gpa === undefined) return -1;
      const run = memory.contiguous(gpa, length, writable);
      if (run < length) this.#host.missing(gpa + run);
      return run < length ? -1 : gpa;
    };
    const areas = {
      descriptorArea: find(descriptor, 16 * size, packed),
      driverArea: find(available, packed ? 4 : 6 + 2 * size),
      deviceArea: find(used, packed ? 4 : 6 + 8 * size, true),
    };
    return Math.min(areas.descriptorArea, areas.driverArea, areas.deviceArea) < 0 ? undefined : areas;
  }

  /** The front-end says that the ring starts where a new driver does. */
  get #isFirst(): boolean {
    return (this.#base & 0xffff) === (this.#host.packed ? FIRST_PACKED : FIRST_SPLIT);
  }

  /** Buffers that seem to be offered beyond the front-end's position; of a packed ring 1 stands for any number. */
  #offered({ descriptorArea, driverArea }: Areas): number {
    const { memory, packed } = this.#host;
    const base = this.#base & 0xffff;
    if (!packed) return (readLe16(memory.view(driverArea + 2, 2), 0) - base) & 0xffff;
    const position = base & 0x7fff;
    if (position >= this.#size) return 0;
    const flags = readLe16(memory.view(descriptorArea + 16 * position + 14, 2), 0);
    const wrap = base >>> 15;
    return ((flags >>> 7) & 1) === wrap && flags >>> 15 !== wrap ? 1 : 0;
  }

  #offersBuffers(areas: Areas): boolean {
    const count = this.#offered(areas);
    return count > 0 && count <= this.#size;
  }

  /**
   * A split ring that a driver is about to use for the first time may lie in a page of which the driver has not yet removed what
   * somebody left there: then it is looked at again when the driver has kicked.
   */
  #isClean(areas: Areas): boolean {
    if (this.#kicked || this.#host.packed || !this.#isFirst) return true;
    if (this.#host.inflight(this.index, this.#size)?.begun === true) return true;
    return this.#usedIdx(areas) === FIRST_SPLIT && this.#offered(areas) <= this.#size;
  }

  #usedIdx({ deviceArea }: Areas): number {
    return readLe16(this.#host.memory.view(deviceArea + 2, 2), 0);
  }

  /** Where the ring goes on: as the inflight region says, else as the front-end said. */
  #position(areas: Areas): QueueStart {
    const { memory, packed } = this.#host;
    const record = this.#host.inflight(this.index, this.#size);
    const size = this.#size;
    if (packed) {
      // Both positions are the same: we stop with nothing in flight, and so does whoever did it before us.
      const base = this.#base & 0xffff;
      if ((base & 0x7fff) >= size) throw new PeerError(`virtqueue ${this.index}: base ${base} of ${size}`);
      const ringFlags = (at: number): number =>
        at < size ? readLe16(memory.view(areas.descriptorArea + 16 * at + 14, 2), 0) : 0;
      return record?.recover({ base, usedIdx: base, ringFlags }) ?? { nextAvailable: base, nextUsed: base };
    }
    const base = this.#base & 0xffff;
    let usedIdx = this.#usedIdx(areas);
    // Of a ring that was never used: the driver leaves the device's part to the device.
    if (this.#isFirst && record?.begun !== true && ((base - usedIdx) & 0xffff) > size) usedIdx = base;
    const start = record?.recover({ base, usedIdx }) ?? {
      nextAvailable: base,
      nextUsed: usedIdx,
      held: (base - usedIdx) & 0xffff,
    };
    if ((start.held ?? 0) > size)
      throw new PeerError(`virtqueue ${this.index}: base ${base} and used idx ${usedIdx} of ${size}`);
    return start;
  }
}
