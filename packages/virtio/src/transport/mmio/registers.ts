import type { AccessSize, InterruptLine, IoHandler } from "../../bus/types.ts";
import { partOption, wholeOption } from "../../check-option.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import type { QueueRegisters } from "../../device/queue-registers.ts";
import { VirtioFault } from "../../fault.ts";
import {
  VIRTIO_MMIO as MMIO,
  VIRTIO_MMIO_INTERRUPT_CONFIG,
  VIRTIO_MMIO_INTERRUPT_USED,
  VIRTIO_MMIO_LEGACY as LEGACY,
  VIRTIO_MMIO_MAGIC_VALUE,
  VIRTIO_MMIO_VERSION,
  VIRTIO_MMIO_VERSION_LEGACY,
} from "../../spec/mmio.ts";
import { MMIO_FEATURES, checkOffered } from "../features.ts";
import { enableLegacy } from "../legacy-ring.ts";
import { Negotiated } from "../negotiated.ts";
import { judgeRead, judgeWrite, registerName, type MmioPlace } from "./driver-rules.ts";
import { isMmioState, type MmioTransportState } from "./state.ts";

/** "Shared Memory Regions": where the machine put one. */
export interface MmioSharedMemory {
  /** The device type's `shmid`. */
  readonly id: number;
  /** Guest-physical address. */
  readonly base: number;
  /** Bytes. */
  readonly length: number;
}

export interface VirtioMmioOptions {
  /** Asserted while InterruptStatus is not 0. */
  readonly interrupt: InterruptLine;
  /** 2, or 1 for the legacy interface. Default 2. */
  readonly version?: 1 | 2;
  /** `VendorID`, 32 bits. Default "QEMU", as QEMU has it. */
  readonly vendorId?: number;
  readonly sharedMemory?: readonly MmioSharedMemory[];
}

const DEFAULT_VENDOR_ID = 0x554d4551;
const SMALLEST_WINDOW = 0x200;
const ALL_ONES = 0xffffffff;
const HALF = 2 ** 32;
/** QueueAlign and GuestPageSize larger than this are refused: an area must not start beyond any memory. */
const LARGEST_ALIGN = 2 ** 30;

/**
 * A virtio device as memory-mapped registers ("Virtio Over MMIO"): map it anywhere, `length` bytes. Control registers
 * answer only to aligned 32-bit accesses, others read 0 and change nothing.
 */
export class VirtioMmio implements IoHandler {
  readonly instance: DeviceInstance;
  /** Bytes of the window: a power of two, at least 0x200. */
  readonly length: number;
  readonly version: 1 | 2;
  readonly #interrupt: InterruptLine;
  readonly #vendorId: number;
  readonly #sharedMemory: readonly MmioSharedMemory[];
  readonly #negotiated = new Negotiated();
  #deviceFeaturesSel = 0;
  #driverFeaturesSel = 0;
  #queueSel = 0;
  #shmSel = 0;
  #interruptStatus = 0;
  #guestPageSize = 0;
  /** Legacy: `QueueAlign` of each virtqueue. */
  readonly #queueAlign: number[];

  /** Throws a RangeError on options that cannot be, and when the device offers features that MMIO may not offer. */
  constructor(instance: DeviceInstance, options: VirtioMmioOptions) {
    checkOffered(instance.id, instance.offered, MMIO_FEATURES, "MMIO");
    this.instance = instance;
    this.version = options.version ?? VIRTIO_MMIO_VERSION;
    wholeOption("MMIO: version", this.version, VIRTIO_MMIO_VERSION_LEGACY, VIRTIO_MMIO_VERSION);
    this.#interrupt = partOption("MMIO: interrupt", options.interrupt, "an InterruptLine", "set");
    this.#vendorId = wholeOption("MMIO: vendorId", options.vendorId ?? DEFAULT_VENDOR_ID, 0, ALL_ONES);
    this.#sharedMemory = checkedRegions(options.sharedMemory ?? []);
    this.#queueAlign = Array.from({ length: instance.queueCount }, () => 0);
    let length = SMALLEST_WINDOW;
    while (length < MMIO.Config + instance.configLength) length *= 2;
    this.length = length;
    instance.notifier = {
      usedBuffer: () => this.#raise(VIRTIO_MMIO_INTERRUPT_USED),
      configurationChange: () => this.#raise(VIRTIO_MMIO_INTERRUPT_CONFIG),
    };
    instance.onReset = () => this.#reset();
    instance.queueClause = "drv.mmio.registers";
  }

  get #legacy(): boolean {
    return this.version === VIRTIO_MMIO_VERSION_LEGACY;
  }

  read(offset: number, size: AccessSize): number {
    if (this.instance.observer?.hint !== undefined) judgeRead(this.#place, offset, size);
    if (offset >= MMIO.Config) return this.instance.readConfig(offset - MMIO.Config, size);
    if (size !== 4 || (offset & 3) !== 0) return 0;
    const value = this.#legacy ? this.#readLegacy(offset) : this.#readModern(offset);
    const { observer } = this.instance;
    if (observer !== undefined)
      observer.register?.(this.instance, "read", registerName(offset, this.#legacy), value);
    return value;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (this.instance.observer?.hint !== undefined) judgeWrite(this.#place, offset, size, value >>> 0);
    if (offset >= MMIO.Config) {
      if (this.#legacy) this.instance.useLegacy();
      this.instance.writeConfig(offset - MMIO.Config, size, value);
      return;
    }
    if (size !== 4 || (offset & 3) !== 0) return;
    const unsigned = value >>> 0;
    const { observer } = this.instance;
    if (observer !== undefined)
      observer.register?.(this.instance, "write", registerName(offset, this.#legacy), unsigned);
    if (offset === MMIO.QueueNotify) this.#notify(unsigned);
    else if (this.#legacy) this.#writeLegacy(offset, unsigned);
    else this.#writeModern(offset, unsigned);
  }

  /** Machine reset. */
  reset(): void {
    this.instance.writeStatus(0);
    this.#reset();
    this.#guestPageSize = 0;
  }

  /** Registers of the transport alone; the device's are `instance.save()`. Plain data. */
  save(): MmioTransportState {
    return {
      version: 1,
      interface: this.version,
      deviceFeaturesSel: this.#deviceFeaturesSel,
      driverFeaturesSel: this.#driverFeaturesSel,
      queueSel: this.#queueSel,
      shmSel: this.#shmSel,
      interruptStatus: this.#interruptStatus,
      guestPageSize: this.#guestPageSize,
      queueAlign: [...this.#queueAlign],
    };
  }

  /** Call it after `instance.restore`. The state is untrusted: it is taken whole, or an Error is thrown. */
  restore(state: unknown): void {
    if (
      !isMmioState(state) ||
      state.interface !== this.version ||
      state.queueAlign.length !== this.#queueAlign.length
    ) {
      throw new Error("this is no saved state of such a virtio MMIO device");
    }
    this.#deviceFeaturesSel = state.deviceFeaturesSel;
    this.#driverFeaturesSel = state.driverFeaturesSel;
    this.#queueSel = state.queueSel;
    this.#shmSel = state.shmSel;
    this.#guestPageSize = state.guestPageSize;
    state.queueAlign.forEach((align, queue) => {
      this.#queueAlign[queue] = align;
    });
    this.#negotiated.update(this.instance);
    this.#interruptStatus = 0;
    this.#raise(state.interruptStatus);
  }

  get #queue(): QueueRegisters | undefined {
    return this.instance.queue(this.#queueSel);
  }

  /** Registers that both layouts have; write-only ones and holes read 0. */
  #readCommon(offset: number): number {
    switch (offset) {
      case MMIO.MagicValue:
        return VIRTIO_MMIO_MAGIC_VALUE;
      case MMIO.Version:
        return this.version;
      case MMIO.DeviceID:
        return this.instance.id;
      case MMIO.VendorID:
        return this.#vendorId;
      case MMIO.QueueSizeMax:
        return this.#queue?.maxSize ?? 0;
      case MMIO.InterruptStatus:
        return this.#interruptStatus;
      case MMIO.Status:
        return this.instance.status;
      default:
        return 0;
    }
  }

  #readModern(offset: number): number {
    switch (offset) {
      case MMIO.DeviceFeatures:
        return this.instance.readDeviceFeatures(this.#deviceFeaturesSel);
      case MMIO.QueueReady:
        return this.#queue?.enabled === true ? 1 : 0;
      case MMIO.QueueReset:
        // 1 until no request of the virtqueue can touch memory any more.
        return this.#negotiated.ringReset && this.#queue?.resetting === true ? 1 : 0;
      case MMIO.SHMLenLow:
      case MMIO.SHMLenHigh:
      case MMIO.SHMBaseLow:
      case MMIO.SHMBaseHigh:
        return this.#readSharedMemory(offset);
      case MMIO.ConfigGeneration:
        return this.instance.generation;
      default:
        return this.#readCommon(offset);
    }
  }

  /** Of a region that does not exist both 64-bit values are all ones. */
  #readSharedMemory(offset: number): number {
    const region = this.#sharedMemory.find((candidate) => candidate.id === this.#shmSel);
    if (region === undefined) return ALL_ONES;
    if (offset === MMIO.SHMLenLow) return region.length % HALF;
    if (offset === MMIO.SHMLenHigh) return Math.floor(region.length / HALF);
    if (offset === MMIO.SHMBaseLow) return region.base % HALF;
    return Math.floor(region.base / HALF);
  }

  #readLegacy(offset: number): number {
    switch (offset) {
      case LEGACY.HostFeatures:
        // A legacy driver must not see bits 32 and up.
        return this.#deviceFeaturesSel === 0 ? this.instance.readLegacyFeatures() : 0;
      case LEGACY.QueuePFN: {
        const queue = this.#queue;
        if (queue === undefined || !queue.enabled || this.#guestPageSize === 0) return 0;
        return Math.floor(queue.descriptorArea / this.#guestPageSize) % HALF;
      }
      default:
        return this.#readCommon(offset);
    }
  }

  /** Registers that both layouts have; read-only ones and holes stay. */
  #writeCommon(offset: number, value: number): void {
    switch (offset) {
      case MMIO.DeviceFeaturesSel:
        this.#deviceFeaturesSel = value;
        return;
      case MMIO.DriverFeaturesSel:
        this.#driverFeaturesSel = value;
        return;
      case MMIO.QueueSel:
        this.#queueSel = value;
        return;
      case MMIO.QueueSize: {
        const queue = this.#queue;
        // "When QueueReady is not zero, the driver MUST NOT access QueueSize". The size is checked when it is used.
        if (queue !== undefined && !queue.enabled) queue.size = value;
        return;
      }
      case MMIO.InterruptACK:
        this.#interruptStatus &= ~value;
        if (this.#interruptStatus === 0) this.#interrupt.set(false);
        return;
      case MMIO.Status:
        this.instance.writeStatus(value & 0xff);
        this.#negotiated.update(this.instance);
        return;
      default:
        return;
    }
  }

  #writeModern(offset: number, value: number): void {
    const queue = this.#queue;
    switch (offset) {
      case MMIO.DriverFeatures:
        return this.instance.writeDriverFeatures(this.#driverFeaturesSel, value);
      case MMIO.QueueReady:
        if (value === 1 && !(this.#negotiated.ringReset && queue?.resetting === true)) queue?.enable();
        else if (value === 0) queue?.disable();
        return;
      case MMIO.QueueDescLow:
      case MMIO.QueueDescHigh:
      case MMIO.QueueDriverLow:
      case MMIO.QueueDriverHigh:
      case MMIO.QueueDeviceLow:
      case MMIO.QueueDeviceHigh:
        if (queue !== undefined && !queue.enabled) setArea(queue, offset, value);
        return;
      case MMIO.SHMSel:
        this.#shmSel = value;
        return;
      case MMIO.QueueReset:
        if (value === 1 && this.#negotiated.ringReset) queue?.reset();
        return;
      default:
        return this.#writeCommon(offset, value);
    }
  }

  #writeLegacy(offset: number, value: number): void {
    // A reset makes the device forget it.
    if (offset !== LEGACY.Status || value !== 0) this.instance.useLegacy();
    switch (offset) {
      case LEGACY.GuestFeatures:
        if (this.#driverFeaturesSel === 0) this.instance.writeDriverFeatures(0, value);
        return;
      case LEGACY.GuestPageSize:
        this.#guestPageSize = value;
        return;
      case LEGACY.QueueAlign:
        if (this.#queueSel < this.#queueAlign.length) this.#queueAlign[this.#queueSel] = value;
        return;
      case LEGACY.QueuePFN:
        return this.#setPage(value);
      default:
        return this.#writeCommon(offset, value);
    }
  }

  /** Page 0 stops the virtqueue. */
  #setPage(page: number): void {
    const queue = this.#queue;
    if (queue === undefined) return;
    if (queue.enabled) queue.disable();
    if (page === 0) return;
    const align = this.#queueAlign[queue.index] ?? 0;
    for (const [name, value] of [
      ["GuestPageSize", this.#guestPageSize],
      ["QueueAlign", align],
    ] as const) {
      if (value !== 0 && value <= LARGEST_ALIGN && (value & (value - 1)) === 0) continue;
      const rule = `legacy interface: ${name} must be a power of two, at most ${LARGEST_ALIGN}`;
      return this.instance.reportFault(
        new VirtioFault("drv.mmio.registers", rule, { queue: queue.index, value }),
      );
    }
    enableLegacy(queue, page * this.#guestPageSize, align);
  }

  /** With VIRTIO_F_NOTIFICATION_DATA the upper half is a hint that the ring itself makes good. Nothing is allocated. */
  #notify(value: number): void {
    if (this.#legacy) this.instance.useLegacy();
    this.instance.notify(this.#negotiated.notificationData ? value & 0xffff : value);
  }

  #raise(bits: number): void {
    this.#interruptStatus |= bits;
    this.#interrupt.set(this.#interruptStatus !== 0);
  }

  /** "Upon reset, the device MUST clear all bits in InterruptStatus". GuestPageSize stays: Linux writes it before. */
  #reset(): void {
    this.#deviceFeaturesSel = 0;
    this.#driverFeaturesSel = 0;
    this.#queueSel = 0;
    this.#shmSel = 0;
    this.#interruptStatus = 0;
    this.#interrupt.set(false);
    this.#queueAlign.fill(0);
    this.#negotiated.update(this.instance);
  }

  /** For the rules, which look at it when somebody listens. */
  get #place(): MmioPlace {
    return {
      instance: this.instance,
      legacy: this.#legacy,
      negotiated: this.#negotiated,
      queueSel: this.#queueSel,
      interruptStatus: this.#interruptStatus,
    };
  }
}

function setArea(queue: QueueRegisters, offset: number, value: number): void {
  switch (offset) {
    case MMIO.QueueDescLow:
      return queue.setArea("descriptorArea", "low", value);
    case MMIO.QueueDescHigh:
      return queue.setArea("descriptorArea", "high", value);
    case MMIO.QueueDriverLow:
      return queue.setArea("driverArea", "low", value);
    case MMIO.QueueDriverHigh:
      return queue.setArea("driverArea", "high", value);
    case MMIO.QueueDeviceLow:
      return queue.setArea("deviceArea", "low", value);
    case MMIO.QueueDeviceHigh:
      return queue.setArea("deviceArea", "high", value);
    default:
      return;
  }
}

function checkedRegions(regions: readonly MmioSharedMemory[]): readonly MmioSharedMemory[] {
  const ids = new Set<number>();
  for (const { id, base, length } of regions) {
    wholeOption("MMIO: id of shared memory", id, 0, 0xff);
    wholeOption("MMIO: base of shared memory", base, 0, Number.MAX_SAFE_INTEGER);
    wholeOption("MMIO: length of shared memory", length, 1, Number.MAX_SAFE_INTEGER - base);
    if (ids.has(id)) throw new RangeError(`MMIO: two regions of shared memory have the id ${id}`);
    ids.add(id);
  }
  return regions;
}

/** A register window for a device; see `VirtioMmioOptions`. */
export function virtioMmio(instance: DeviceInstance, options: VirtioMmioOptions): VirtioMmio {
  return new VirtioMmio(instance, options);
}
