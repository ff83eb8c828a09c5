/** A device with its registers on a guest's memory, worked by a driver that may do anything; for `save-anytime.test.ts`. */
import type { AccessSize, IoHandler, PciSlot } from "virtio/bus/types";
import { SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import { DeviceInstance } from "virtio/device/instance";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_RING_PACKED, featureBits, hasFeature } from "virtio/spec/core";
import { VIRTIO_MMIO as MMIO, VIRTIO_MMIO_LEGACY as LEGACY_MMIO } from "virtio/spec/mmio";
import { VIRTIO_PCI_COMMON_CFG as COMMON, VIRTIO_PCI_LEGACY as LEGACY } from "virtio/spec/pci";
import { VirtioMmio } from "virtio/transport/mmio/registers";
import { VirtioPciFunction } from "virtio/transport/pci/function";
import type { DescriptorChain } from "virtio/virtqueue/types";
import { ProbeDevice } from "../device/rig.ts";

export const KINDS = ["MMIO", "MMIO legacy", "PCI modern", "PCI transitional", "PCI legacy"] as const;
export type Kind = (typeof KINDS)[number];

export const RAM_SIZE = 0x8000;
const QUEUE_SIZE = 8;
const PAGE = 4096;
const LEGACY_BAR = 0;
const MODERN_BAR = 4;

/** A probe that saves what the driver can change of it, and gives back what it holds. */
class SavingProbe extends ProbeDevice {
  readonly held: DescriptorChain[] = [];
  /** What the device type saw of its driver. */
  readonly seen: string[] = [];
  /** Its reset takes until somebody resolves it. */
  slow = false;
  readonly resets: (() => void)[] = [];

  override activate(context: NonNullable<ProbeDevice["context"]>): void {
    super.activate(context);
    this.seen.push(`active with ${context.features.toString(16)}`);
  }

  override reset(): void | Promise<void> {
    this.configBytes.set([1, 2, 3, 4, 5, 6, 7, 8]);
    this.held.length = 0;
    this.seen.push("reset");
    if (this.slow) return new Promise((resolve) => this.resets.push(resolve));
  }

  override resetQueue(index: number): void {
    if (index === 1) this.held.length = 0;
  }

  override save(): unknown {
    const queue = this.context?.queue(1);
    for (let chain = this.held.pop(); chain !== undefined; chain = this.held.pop()) queue?.unpop(chain);
    return { probe: 1, config: [...this.configBytes] };
  }

  override restore(state: unknown): void {
    super.restore(state);
    this.configBytes.set((state as { config: number[] }).config);
  }
}

/** What a guest reaches: where, and how. */
interface Window {
  readonly name: string;
  readonly length: number;
  readonly handler: IoHandler;
}

export interface SavedSide {
  readonly instance: unknown;
  readonly registers: unknown;
}

export class Side {
  readonly kind: Kind;
  readonly ram: Uint8Array;
  readonly device: SavingProbe = new SavingProbe();
  readonly instance: DeviceInstance;
  readonly windows: readonly Window[];
  readonly later: (() => void)[] = [];
  /** Level of the interrupt line, and how often it rose. */
  line = false;
  interrupts = 0;
  faults = 0;
  readonly #registers: { save(): unknown; restore(state: unknown): void };

  constructor(kind: Kind, ram: Uint8Array) {
    this.kind = kind;
    this.ram = ram;
    const mmio = kind.startsWith("MMIO");
    this.instance = new DeviceInstance(this.device, {
      label: kind,
      memory: new RegionMemory([{ gpa: 0, bytes: ram }]),
      features: mmio
        ? SUPPORTED_CORE_FEATURES & ~featureBits(VIRTIO_F_NOTIF_CONFIG_DATA)
        : SUPPORTED_CORE_FEATURES,
      scheduler: { soon: (task) => task(), later: (task) => void this.later.push(task), now: () => 0 },
    });
    this.instance.onFault = () => void this.faults++;
    if (mmio) {
      const version = kind === "MMIO" ? 2 : 1;
      const registers = new VirtioMmio(this.instance, {
        interrupt: { set: (on) => this.#level(on) },
        version,
      });
      this.#registers = registers;
      this.windows = [{ name: "registers", length: 0x108, handler: registers }];
    } else {
      const mode = kind === "PCI modern" ? "modern" : kind === "PCI legacy" ? "legacy" : "transitional";
      const fn = new VirtioPciFunction(this.instance, { mode });
      const slot: PciSlot = {
        mapBar: () => undefined,
        setInterrupt: (on) => this.#level(on),
        sendMsi: () => void this.interrupts++,
      };
      fn.attach(slot);
      fn.writeConfig(4, 2, 7);
      this.#registers = fn;
      const config: IoHandler = {
        read: (offset, size) => fn.readConfig(offset, size),
        write: (offset, size, value) => fn.writeConfig(offset, size, value),
      };
      this.windows = [
        { name: "configuration space", length: 0x100, handler: config },
        ...fn.bars.map(({ index, size, handler }) => ({
          name: `BAR ${index}`,
          length: index === MODERN_BAR ? 0x40 : Math.min(size, 0x80),
          handler,
        })),
      ];
    }
  }

  save(): SavedSide {
    return structuredClone({ instance: this.instance.save(), registers: this.#registers.save() });
  }

  /** The same guest on a machine of its own. */
  static restored(old: Side, state: SavedSide): Side {
    const side = new Side(old.kind, old.ram);
    side.instance.restore(state.instance);
    side.#registers.restore(state.registers);
    // What the restore itself did is not the driver's to see.
    side.device.seen.splice(0, side.device.seen.length, ...old.device.seen);
    side.device.slow = old.device.slow;
    side.interrupts = old.interrupts;
    side.faults = old.faults;
    return side;
  }

  /** All that a guest and a device type can tell of the device. */
  look(): unknown {
    const { instance, device } = this;
    return {
      status: instance.status,
      features: instance.driverFeatures,
      legacy: instance.legacy,
      generation: instance.generation,
      queues: [0, 1].map((index) => {
        const queue = instance.queue(index);
        return { ...queue?.values(), resetting: queue?.resetting };
      }),
      line: this.line,
      interrupts: this.interrupts,
      faults: this.faults,
      seen: device.seen,
      config: [...device.configBytes],
      requests: device.requests.length,
      held: device.held.length,
    };
  }

  // ---- a driver

  read(window: number, offset: number, size: AccessSize): number {
    return this.windows[window % this.windows.length]?.handler.read(offset, size) ?? 0;
  }

  write(window: number, offset: number, size: AccessSize, value: number): void {
    const { length, handler } = this.windows[window % this.windows.length] ?? {};
    const masked = size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff);
    if (length !== undefined) handler?.write(offset % length, size, masked);
  }

  status(value: number): void {
    if (this.#mmio) this.#set(MMIO.Status, value);
    else if (this.#legacy) this.#bar(LEGACY_BAR, LEGACY.device_status, 1, value);
    else this.#bar(MODERN_BAR, COMMON.device_status, 1, value);
  }

  get #mmio(): boolean {
    return this.kind.startsWith("MMIO");
  }

  get #legacy(): boolean {
    return this.kind.endsWith("legacy");
  }

  /** From reset to DRIVER_OK without a look at the status in between, with empty rings. */
  start(features: bigint): void {
    this.ram.fill(0);
    this.status(0);
    this.status(1);
    this.status(3);
    this.#accept(features);
    if (!this.#legacy) this.status(11);
    for (const queue of [0, 1]) this.place(queue);
    this.status(this.#legacy ? 7 : 15);
  }

  /** Puts a virtqueue where it always is, and enables it. */
  place(queue: number): void {
    const [descriptors, driver, device] = this.#areas(queue);
    this.select(queue);
    if (this.kind === "MMIO") {
      this.#set(MMIO.QueueSize, QUEUE_SIZE);
      this.#set(MMIO.QueueDescLow, descriptors);
      this.#set(MMIO.QueueDriverLow, driver);
      this.#set(MMIO.QueueDeviceLow, device);
      this.#set(MMIO.QueueReady, 1);
    } else if (this.kind === "MMIO legacy") {
      this.#set(LEGACY_MMIO.GuestPageSize, PAGE);
      this.#set(LEGACY_MMIO.QueueSize, QUEUE_SIZE);
      this.#set(LEGACY_MMIO.QueueAlign, PAGE);
      this.#set(LEGACY_MMIO.QueuePFN, descriptors / PAGE);
    } else if (this.#legacy) this.#bar(LEGACY_BAR, LEGACY.queue_address, 4, descriptors / PAGE);
    else {
      this.#bar(MODERN_BAR, COMMON.queue_size, 2, QUEUE_SIZE);
      this.#bar(MODERN_BAR, COMMON.queue_desc, 4, descriptors);
      this.#bar(MODERN_BAR, COMMON.queue_driver, 4, driver);
      this.#bar(MODERN_BAR, COMMON.queue_device, 4, device);
      this.#bar(MODERN_BAR, COMMON.queue_enable, 2, 1);
    }
  }

  select(queue: number): void {
    if (this.#mmio) this.#set(MMIO.QueueSel, queue);
    else if (this.#legacy) this.#bar(LEGACY_BAR, LEGACY.queue_select, 2, queue);
    else this.#bar(MODERN_BAR, COMMON.queue_select, 2, queue);
  }

  /** The driver takes a virtqueue back, in the way its interface has. */
  takeBack(queue: number): void {
    this.select(queue);
    if (this.kind === "MMIO") this.#set(MMIO.QueueReady, 0);
    else if (this.#mmio) this.#set(LEGACY_MMIO.QueuePFN, 0);
    else if (this.#legacy) this.#bar(LEGACY_BAR, LEGACY.queue_address, 4, 0);
    else this.resetQueue(queue);
  }

  resetQueue(queue: number): void {
    this.select(queue);
    if (this.kind === "MMIO") this.#set(MMIO.QueueReset, 1);
    else if (!this.#legacy) this.#bar(MODERN_BAR, COMMON.queue_reset, 2, 1);
  }

  /** One more writable buffer of 16 bytes, and a notification. */
  offer(queue: number): void {
    const view = new DataView(this.ram.buffer);
    const [descriptors, driver] = this.#areas(queue);
    const packed = hasFeature(this.instance.driverFeatures, VIRTIO_F_RING_PACKED);
    view.setUint32(descriptors, 0x7000, true);
    view.setUint32(descriptors + 8, 16, true);
    view.setUint16(descriptors + (packed ? 14 : 12), packed ? 2 | 0x80 : 2, true);
    if (!packed) {
      const index = view.getUint16(driver + 2, true);
      view.setUint16(driver + 4 + 2 * (index % QUEUE_SIZE), 0, true);
      view.setUint16(driver + 2, index + 1, true);
    }
    if (this.#mmio) this.#set(MMIO.QueueNotify, queue);
    else if (this.#legacy) this.#bar(LEGACY_BAR, LEGACY.queue_notify, 2, queue);
    else this.instance.notify(queue);
  }

  /** Descriptors, driver area, device area. The legacy layout follows from the first; its driver area begins behind it. */
  #areas(queue: number): readonly [number, number, number] {
    const base = 0x1000 + 0x3000 * queue;
    return this.#legacy ? [base, base + 16 * QUEUE_SIZE, base + PAGE] : [base, base + 0x1000, base + 0x2000];
  }

  #accept(features: bigint): void {
    for (const window of [1, 0]) {
      const value = Number((features >> BigInt(32 * window)) & 0xffff_ffffn);
      if (this.#mmio) {
        this.#set(MMIO.DriverFeaturesSel, window);
        this.#set(MMIO.DriverFeatures, value);
      } else if (this.#legacy) {
        if (window === 0) this.#bar(LEGACY_BAR, LEGACY.driver_features, 4, value);
      } else {
        this.#bar(MODERN_BAR, COMMON.driver_feature_select, 4, window);
        this.#bar(MODERN_BAR, COMMON.driver_feature, 4, value);
      }
    }
  }

  #set(offset: number, value: number): void {
    this.windows[0]?.handler.write(offset, 4, value >>> 0);
  }

  #bar(bar: number, offset: number, size: AccessSize, value: number): void {
    this.windows.find(({ name }) => name === `BAR ${bar}`)?.handler.write(offset, size, value);
  }

  #level(on: boolean): void {
    if (on && !this.line) this.interrupts++;
    this.line = on;
  }
}
