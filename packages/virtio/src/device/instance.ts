import { VirtioFault } from "../fault.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import {
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
  featureBits,
  hasFeature,
} from "../spec/core.ts";
import { featureList } from "../spec/feature-names.ts";
import { Activation } from "./activation.ts";
import { ConfigAccess } from "./config-access.ts";
import type { QueueCounters } from "./counters.ts";
import type { RunningQueue, VirtioDevice } from "./device.ts";
import { DEFAULT_CORE_FEATURES, featureWindow, missingDependency, offer, withWindow } from "./features.ts";
import * as rules from "./driver-rules.ts";
import type { VirtioObserver } from "./observer.ts";
import type { QueueRegisters } from "./queue-registers.ts";
import { QueueSet } from "./queue-set.ts";
import { immediateScheduler, type Scheduler } from "./scheduler.ts";
import { parseDeviceState, type DeviceInstanceState, type SavedQueue } from "./state.ts";

/** How a device is plugged in. */
export interface InstanceOptions {
  /** Unique in its machine; names the device in logs and faults. */
  readonly label: string;
  readonly memory: GuestMemory;
  /** Ring and transport features to offer beside the device's own; default `DEFAULT_CORE_FEATURES`. */
  readonly features?: bigint;
  /** Caps the size of every virtqueue. */
  readonly queueSize?: number;
  readonly scheduler?: Scheduler;
  readonly observer?: VirtioObserver;
  /** Chains a queue serves before it looks at the clock; default 64. */
  readonly budget?: number;
}

/** What a transport does when the device has something to say. */
export interface DeviceNotifier {
  usedBuffer(queue: number): void;
  configurationChange(): void;
}

const DEFAULT_BUDGET = 64;

/**
 * One plugged-in device: its life between a transport's registers and a device type.
 *
 * ```
 *           FEATURES_OK (checked)        DRIVER_OK               SUSPEND
 *   reset ────────────────────────▶ set up ──────▶ running ◀─────────────────▶ suspended
 *     ▲                               │               │        DRIVER_OK
 *     │                               ▼     fault     ▼
 *     └──── writeStatus(0) ─────────── DEVICE_NEEDS_RESET (or FAILED, by the driver)
 * ```
 */
export class DeviceInstance {
  readonly device: VirtioDevice;
  readonly label: string;
  /** Virtio device id. */
  readonly id: number;
  readonly queueNames: readonly string[];
  readonly memory: GuestMemory;
  readonly observer: VirtioObserver | undefined;
  readonly scheduler: Scheduler;
  /** Chains a queue serves before it looks at the clock. */
  readonly budget: number;
  /** All features offered to a modern driver. */
  readonly offered: bigint;
  /** Set by the transport. */
  notifier: DeviceNotifier | undefined;
  /** Set by the transport: the driver uses the legacy interface. A reset clears it. */
  legacy = false;
  /** Set by the transport: the clause about its registers of a virtqueue. */
  queueClause = "own.queue-size";
  /** Set by the transport: clear what is its own (vectors, selectors, interrupt status). */
  onReset: (() => void) | undefined;
  /** Called with every fault, after the device was stopped. */
  onFault: ((fault: VirtioFault) => void) | undefined;

  readonly #config: ConfigAccess;
  readonly #queues: QueueSet;
  #status = 0;
  #driverFeatures = 0n;
  #generation = 0;
  #activation: Activation | undefined;
  /** The host paused the device. */
  #paused = false;
  /** The driver set SUSPEND and requests are still being worked on. */
  #suspending = false;
  #configChangePending = false;
  /** The device type is still resetting. */
  #resetting = false;

  constructor(device: VirtioDevice, options: InstanceOptions) {
    this.device = device;
    this.label = options.label;
    this.id = device.id;
    this.queueNames = device.queues.map(({ name }) => name);
    this.memory = options.memory;
    this.observer = options.observer;
    this.scheduler = options.scheduler ?? immediateScheduler;
    this.budget = options.budget ?? DEFAULT_BUDGET;
    this.offered = offer(device, options.features ?? DEFAULT_CORE_FEATURES);
    this.#config = new ConfigAccess(device.config);
    this.#queues = new QueueSet(
      device,
      options.memory,
      options.queueSize ?? Number.MAX_SAFE_INTEGER,
      this.#queueHost(),
    );
  }

  // ---- registers that every transport has

  get status(): number {
    return this.#status;
  }

  /** 0 resets. Any other value sets bits; see the diagram. */
  writeStatus(value: number): void {
    if (value === 0) return this.#reset();
    if (this.observer?.hint !== undefined) rules.judgeStatus(this, value);
    if (this.#resetting) return;
    const cleared = this.#status & ~value & ~(VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_SUSPEND);
    if (cleared !== 0)
      return this.reportFault(new VirtioFault("drv.core.status", "status bits cleared", { value: cleared }));
    const added = value & ~this.#status;
    const decided =
      VIRTIO_STATUS_FEATURES_OK |
      VIRTIO_STATUS_DRIVER_OK |
      VIRTIO_STATUS_SUSPEND |
      VIRTIO_STATUS_DEVICE_NEEDS_RESET;
    this.#setStatus(this.#status | (added & ~decided));
    if ((added & VIRTIO_STATUS_FAILED) !== 0) return this.#queues.stop();
    if ((added & VIRTIO_STATUS_FEATURES_OK) !== 0) this.#acceptFeatures();
    if ((added & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#driverOk();
    if ((added & VIRTIO_STATUS_SUSPEND) !== 0) this.#suspend();
  }

  /** What the driver accepted so far. */
  get driverFeatures(): bigint {
    return this.#driverFeatures;
  }

  /** 32 offered bits, unsigned; windows beyond the last are 0. */
  readDeviceFeatures(window: number): number {
    return featureWindow(this.offered, window);
  }

  /** The 32 bits that the legacy interface shows; our devices never depend on framing, so ANY_LAYOUT is among them. */
  readLegacyFeatures(): number {
    return featureWindow(this.offered | featureBits(VIRTIO_F_ANY_LAYOUT), 0);
  }

  readDriverFeatures(window: number): number {
    return featureWindow(this.#driverFeatures, window);
  }

  /** Ignored once FEATURES_OK is set: "The driver MUST NOT accept new feature bits after this step". */
  writeDriverFeatures(window: number, value: number): void {
    if (this.observer?.hint !== undefined) rules.judgeFeatures(this, window, value);
    const settled = VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_SUSPEND;
    if ((this.#status & settled) !== 0) return;
    this.#driverFeatures = withWindow(this.#driverFeatures, window, value);
  }

  // ---- configuration space

  /** Changes whenever two reads could see different versions; 32 bits, a transport shows what fits. */
  get generation(): number {
    return this.#generation;
  }

  /** Bytes. */
  get configLength(): number {
    return this.#config.length;
  }

  readConfig(offset: number, size: 1 | 2 | 4): number {
    const value = this.#config.read(offset, size);
    if (this.observer !== undefined) rules.watchConfig(this, "read", offset, size, value);
    return value;
  }

  readConfigBytes(offset: number, target: Uint8Array): void {
    this.#config.readBytes(offset, target);
  }

  /** Dropped while suspended ("Device Suspend"). */
  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    if (this.observer !== undefined) rules.watchConfig(this, "write", offset, size, value);
    if (!this.#suspended && this.#config.write(offset, size, value, this.#driverFeatures)) return;
    if (this.observer?.hint !== undefined) rules.judgeConfigWrite(this, offset, size);
  }

  writeConfigBytes(offset: number, source: Uint8Array): void {
    if (!this.#suspended) this.#config.writeBytes(offset, source, this.#driverFeatures);
  }

  // ---- virtqueues

  get queueCount(): number {
    return this.#queues.registers.length;
  }

  queue(index: number): QueueRegisters | undefined {
    return this.#queues.registers[index];
  }

  /** One for each virtqueue. */
  get counters(): readonly QueueCounters[] {
    return this.#queues.counters;
  }

  /** An available buffer notification. What VIRTIO_F_NOTIFICATION_DATA adds is a hint; the ring itself says more. */
  notify(index: number): void {
    if (this.observer?.hint !== undefined) rules.judgeNotification(this, index);
    const counters = this.#queues.counters[index];
    if (counters === undefined) return;
    counters.notificationsReceived++;
    this.observer?.notification?.(this, "available", index);
    // "The transitional device MUST support the driver using the device before the step DRIVER_OK."
    if (this.legacy && this.#activation === undefined && !this.#stopped) this.#activate();
    this.#queues.notify(index);
  }

  // ---- the machine's side

  /** Takes no more chains and waits until none is being worked on. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#queues.drain();
  }

  resume(): void {
    this.#paused = false;
    this.#resumeQueues();
  }

  /** The device as data. Only while paused; throws an Error otherwise, or when the device still holds chains. */
  save(): DeviceInstanceState {
    if (!this.#paused) throw new Error(`${this.label}: pause before save`);
    // First the device type: it may give chains back.
    const device = this.device.save?.();
    return {
      version: 1,
      id: this.id,
      status: this.#status,
      features: this.#driverFeatures.toString(16),
      generation: this.#generation,
      configChangePending: this.#configChangePending,
      legacy: this.legacy,
      // Rings of a device that needs a reset never move again, whatever is left in them.
      queues: this.#queues.save(!this.#stopped),
      device,
    };
  }

  /**
   * Adopts a saved state whole, or throws and leaves the device reset. The device stays paused until `resume`.
   * `state` may come from anywhere.
   */
  restore(state: unknown): void {
    this.#reset();
    this.#resetting = false;
    this.#setStatus(0);
    this.#paused = true;
    const maxSizes = this.#queues.registers.map((queue) => queue.maxSize);
    const offered = this.offered | featureBits(VIRTIO_F_ANY_LAYOUT);
    const saved = parseDeviceState(state, { id: this.id, offered, maxSizes });
    const accepted = (saved.status & VIRTIO_STATUS_FEATURES_OK) !== 0 && !saved.legacy;
    const refusal = accepted ? this.#refusal(saved.features) : undefined;
    if (refusal !== undefined) throw new RangeError(`saved device: ${refusal}`);
    this.device.restore?.(saved.device);
    this.legacy = saved.legacy;
    this.#driverFeatures = saved.features;
    this.#generation = saved.generation;
    this.#configChangePending = saved.configChangePending;
    this.#status = saved.status;
    saved.queues.forEach((queue, index) => this.#queues.registers[index]?.adopt(queue));
    try {
      this.#reactivate(saved.queues);
    } catch (error) {
      this.#reset();
      this.#resetting = false;
      this.#setStatus(0);
      throw error;
    }
  }

  /** The driver broke a rule: DEVICE_NEEDS_RESET, and every queue stops. */
  reportFault(fault: VirtioFault): void {
    this.#queues.stop();
    const first = (this.#status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) === 0;
    this.#setStatus(this.#status | VIRTIO_STATUS_DEVICE_NEEDS_RESET);
    this.observer?.fault?.(this, fault);
    if (first && (this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#notifyConfigChange();
    this.onFault?.(fault);
  }

  // ---- what a device type may ask (ActivationHost)

  runningQueue(index: number): RunningQueue | undefined {
    return this.#queues.running(index);
  }

  configChanged(): void {
    this.#generation = (this.#generation + 1) >>> 0;
    if (this.#suspended || this.#paused) this.#configChangePending = true;
    else this.#notifyConfigChange();
  }

  // ---- life

  get #stopped(): boolean {
    return (this.#status & (VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_FAILED)) !== 0;
  }

  get #suspended(): boolean {
    return this.#suspending || (this.#status & VIRTIO_STATUS_SUSPEND) !== 0;
  }

  #setStatus(status: number): void {
    if (status === this.#status) return;
    const from = this.#status;
    this.#status = status;
    this.observer?.status?.(this, from, status);
  }

  #reset(): void {
    if (this.#resetting) return;
    this.#activation?.end();
    this.#activation = undefined;
    this.#queues.clear();
    this.#driverFeatures = 0n;
    this.#suspending = false;
    this.#configChangePending = false;
    this.legacy = false;
    this.onReset?.();
    const done = this.device.reset?.();
    // A device that was never set up holds nothing of the driver's, and its status says already that it is reset.
    if (done === undefined || this.#status === 0) {
      done?.catch(() => undefined);
      return this.#setStatus(0);
    }
    // Until then the driver reads the old status: a reset is complete "when it reads device status as 0".
    this.#resetting = true;
    const finish = (): void => {
      if (!this.#resetting) return;
      this.#resetting = false;
      this.#setStatus(0);
    };
    done.then(finish, finish);
  }

  #acceptFeatures(): void {
    if (this.legacy) return;
    const refusal = this.#refusal(this.#driverFeatures);
    this.observer?.features?.(this, this.offered, this.#driverFeatures, refusal);
    if (refusal === undefined) this.#setStatus(this.#status | VIRTIO_STATUS_FEATURES_OK);
  }

  /** Why FEATURES_OK cannot stick. */
  #refusal(features: bigint): string | undefined {
    const strange = features & ~this.offered;
    if (strange !== 0n) return `${featureList(this.id, strange)} was not offered`;
    if (!hasFeature(features, VIRTIO_F_VERSION_1)) return "VIRTIO_F_VERSION_1 was not accepted";
    return (
      missingDependency(this.id, features, this.device.dependencies ?? []) ?? this.device.refuse?.(features)
    );
  }

  #driverOk(): void {
    if (this.#stopped) return;
    if (this.#suspended) return this.#unsuspend();
    if (!this.legacy && (this.#status & VIRTIO_STATUS_FEATURES_OK) === 0) {
      const rule = "DRIVER_OK without FEATURES_OK";
      return this.reportFault(new VirtioFault("drv.core.init", rule, { value: this.#status }));
    }
    this.#setStatus(this.#status | VIRTIO_STATUS_DRIVER_OK);
    this.#activate();
  }

  /** The device is live: rings for all enabled queues, then the device type, then what is already in the rings. */
  #activate(): void {
    if (this.#activation !== undefined) return;
    const activation = this.#begin();
    for (const queue of this.#queues.registers) if (queue.enabled) this.#startQueue(queue, activation);
    if (this.#stopped) return;
    this.device.activate?.(activation);
    this.#resumeQueues();
  }

  #begin(): Activation {
    if (this.legacy) this.#driverFeatures &= this.offered | featureBits(VIRTIO_F_ANY_LAYOUT);
    const activation = new Activation(this, this.#driverFeatures);
    this.#activation = activation;
    return activation;
  }

  /** After a restore: rings continue where they stood, and nothing runs before `resume`. Throws what a ring throws. */
  #reactivate(saved: readonly SavedQueue[]): void {
    const running = (this.#status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_SUSPEND)) !== 0;
    if (this.#stopped || (!running && !saved.some((queue) => queue.ring !== undefined))) return;
    const activation = this.#begin();
    for (const queue of this.#queues.registers) {
      const ring = saved[queue.index]?.ring;
      if (queue.enabled && ring !== undefined) this.#queues.start(queue, activation, ring);
    }
    this.device.activate?.(activation);
    if (this.#suspended) this.#queues.freeze();
  }

  #startQueue(queue: QueueRegisters, activation: Activation): void {
    try {
      this.#queues.start(queue, activation, queue.start);
    } catch (error) {
      if (!(error instanceof VirtioFault)) throw error;
      this.reportFault(error);
    }
  }

  /** The driver enabled a queue: at set-up only its registers are checked, later (Virtqueue Re-enable) it runs. */
  #queueEnabled(queue: QueueRegisters): void {
    if (this.#activation !== undefined && !this.#stopped) {
      this.#startQueue(queue, this.#activation);
      if (!this.#paused && !this.#suspended && !this.#stopped) this.#queues.resumeOne(queue.index);
      return;
    }
    try {
      this.#queues.checkSize(queue, hasFeature(this.#driverFeatures, VIRTIO_F_RING_PACKED));
    } catch (error) {
      if (!(error instanceof VirtioFault)) throw error;
      this.reportFault(error);
    }
  }

  #resumeQueues(): void {
    if (this.#stopped || this.#paused || this.#suspended) return;
    if (this.#configChangePending) this.#notifyConfigChange();
    this.#queues.resume();
  }

  #suspend(): void {
    const running = (this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0 && !this.#stopped;
    // "The device MUST ignore any operations on the SUSPEND bit if it has not been completely initialized."
    if (!running || this.#suspended || !hasFeature(this.#driverFeatures, VIRTIO_F_SUSPEND)) return;
    this.#suspending = true;
    this.#queues.stop();
    const suspended = (): void => {
      if (!this.#suspending) return;
      this.#queues.flush();
      this.#queues.freeze();
      this.#suspending = false;
      this.#setStatus((this.#status | VIRTIO_STATUS_SUSPEND) & ~VIRTIO_STATUS_DRIVER_OK);
    };
    if (this.#queues.idle) suspended();
    else void this.#queues.drain().then(suspended);
  }

  #unsuspend(): void {
    this.#suspending = false;
    this.#setStatus((this.#status & ~VIRTIO_STATUS_SUSPEND) | VIRTIO_STATUS_DRIVER_OK);
    this.#resumeQueues();
  }

  #notifyConfigChange(): void {
    this.#configChangePending = false;
    this.observer?.notification?.(this, "configuration", undefined);
    this.notifier?.configurationChange();
  }

  #queueHost(): ConstructorParameters<typeof QueueSet>[3] {
    return {
      label: this.label,
      id: this.id,
      queueNames: this.queueNames,
      observer: this.observer,
      scheduler: this.scheduler,
      budget: this.budget,
      notifyDriver: (queue) => this.notifier?.usedBuffer(queue),
      fail: (fault) => this.reportFault(fault),
      drained: () => this.#queues.wakeDrain(),
      queueClause: () => this.queueClause,
      enableQueue: (queue) => this.#queueEnabled(queue),
    };
  }
}
