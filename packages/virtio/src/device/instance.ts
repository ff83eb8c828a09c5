import { VirtioFault } from "../fault.ts";
import type { GuestMemory } from "../memory/guest-memory.ts";
import {
  VIRTIO_F_SUSPEND,
  VIRTIO_STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_SUSPEND,
  hasFeature,
} from "../spec/core.ts";
import { Activation } from "./activation.ts";
import { ConfigAccess } from "./config-access.ts";
import type { QueueCounters } from "./counters.ts";
import type { RunningQueue, VirtioDevice } from "./device.ts";
import { DeviceReset } from "./device-reset.ts";
import * as rules from "./driver-rules.ts";
import { Negotiation } from "./negotiation.ts";
import type { VirtioObserver } from "./observer.ts";
import { resolveOptions, type DeviceNotifier, type InstanceOptions } from "./options.ts";
import type { QueueRegisters } from "./queue-registers.ts";
import { QueueSet } from "./queue-set.ts";
import type { Scheduler } from "./scheduler.ts";
import { DEVICE_DECIDES, clearedBits } from "./status.ts";
import { parseDeviceState, type DeviceInstanceState, type ParsedQueue } from "./state.ts";
import { turnsOf } from "./turns.ts";

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
 *
 * A reset takes effect at once: devices touch guest memory no more. Where a device type still has something to end, the
 * status reads DEVICE_NEEDS_RESET beside what the driver sets, so that a driver that waits for 0 waits. One that does not
 * wait (Linux over MMIO, every legacy driver) finds its bits set all the same: the registers of its life are collected,
 * and it is "running" when the life before has ended.
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
  /** Chains a queue serves before it looks at the clock, at most. */
  readonly budget: number;
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
  readonly #features: Negotiation;
  readonly #deviceReset: DeviceReset;
  #status = 0;
  #generation = 0;
  #activation: Activation | undefined;
  /** The host paused the device. */
  #paused = false;
  /** The driver set SUSPEND and requests are still being worked on. */
  #suspending = false;
  #configChangePending = false;
  /** The driver has set the device up; it is live when nothing hinders it any more. */
  #due = false;

  constructor(device: VirtioDevice, options: InstanceOptions) {
    const { features, queueSize, scheduler, budget } = resolveOptions(device, options);
    this.device = device;
    this.label = options.label;
    this.id = device.id;
    this.memory = options.memory;
    this.observer = options.observer;
    this.scheduler = scheduler;
    this.budget = budget;
    this.#features = new Negotiation(device, features);
    this.queueNames = this.#features.queueNames;
    this.#config = new ConfigAccess(device.config);
    this.#queues = new QueueSet(device, options.memory, queueSize, this.#queueHost());
    this.#deviceReset = new DeviceReset(device, () => this.#ended());
    device.plugged?.({
      queueSizes: this.#queues.registers.map((queue) => queue.maxSize),
      configChanged: () => this.#configAnnounced(),
    });
  }

  // ---- registers that every transport has

  get status(): number {
    return this.#resetUnderWay ? this.#status | VIRTIO_STATUS_DEVICE_NEEDS_RESET : this.#status;
  }

  /** 0 resets. Any other value sets bits; see the diagram. */
  writeStatus(value: number): void {
    if (value === 0) return this.#reset();
    if (this.observer?.hint !== undefined) rules.judgeStatus(this, this.#status, value);
    const added = value & ~this.#status;
    const cleared = clearedBits(this.#status, value, this.legacy);
    // A legacy driver writes each bit alone, or forgets some: its status is what it wrote.
    if (this.legacy) this.#setStatus(this.#status & ~cleared);
    else if (cleared !== 0)
      return this.reportFault(new VirtioFault("drv.core.status", "status bits cleared", { value: cleared }));
    this.#setStatus(this.#status | (added & ~DEVICE_DECIDES));
    if ((added & VIRTIO_STATUS_FAILED) !== 0) return this.#queues.stop();
    if ((added & VIRTIO_STATUS_FEATURES_OK) !== 0) this.#acceptFeatures();
    if ((added & VIRTIO_STATUS_DRIVER_OK) !== 0) this.#driverOk();
    if ((added & VIRTIO_STATUS_SUSPEND) !== 0) this.#suspend();
  }

  /** All features offered to a modern driver. */
  get offered(): bigint {
    return this.#features.offered;
  }

  /** What the driver accepted so far. */
  get driverFeatures(): bigint {
    return this.#features.accepted;
  }

  /** 32 offered bits, unsigned; windows beyond the last are 0. */
  readDeviceFeatures(window: number): number {
    return this.#features.readOffered(window);
  }

  /** The 32 bits that the legacy interface shows. */
  readLegacyFeatures(): number {
    return this.#features.readLegacyOffered();
  }

  readDriverFeatures(window: number): number {
    return this.#features.readAccepted(window);
  }

  /** Ignored once FEATURES_OK is set: "The driver MUST NOT accept new feature bits after this step". */
  writeDriverFeatures(window: number, value: number): void {
    if (this.observer?.hint !== undefined) rules.judgeFeatures(this, window, value);
    const settled = VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_SUSPEND;
    if ((this.#status & settled) === 0) this.#features.write(window, value);
  }

  /** For a transport with both interfaces: the driver used the legacy one. Too late once it has used the other. */
  useLegacy(): void {
    if (this.legacy || (this.#status & VIRTIO_STATUS_FEATURES_OK) !== 0) return;
    this.legacy = true;
    this.#features.keepLegacyWindow();
  }

  /** The driver began on the interface of today. Too late once the device is live for the other. */
  useModern(): void {
    if (this.#activation === undefined && !this.#due) this.legacy = false;
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
    if (!this.#inSuspension) {
      this.#deviceReset.touch();
      if (this.#config.write(offset, size, value, this.#features.accepted)) return;
    }
    if (this.observer?.hint !== undefined) rules.judgeConfigWrite(this, offset, size);
  }

  writeConfigBytes(offset: number, source: Uint8Array): void {
    if (this.#inSuspension) return;
    this.#deviceReset.touch();
    this.#config.writeBytes(offset, source, this.#features.accepted);
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

  /**
   * Takes no more chains and waits until nothing can touch guest memory: requests of all queues, also of those that were
   * reset and of before a device reset, the reset of the device type itself, a suspension on its way.
   */
  async pause(): Promise<void> {
    this.#paused = true;
    this.#queues.stop();
    while (!this.#resting) await this.#queues.change();
    this.#queues.flush();
  }

  resume(): void {
    this.#paused = false;
    this.#resumeQueues();
  }

  /** The device as data. Throws an Error unless `pause` is over, and when the device type holds chains. */
  save(): DeviceInstanceState {
    if (!this.#paused) throw new Error(`${this.label}: pause before save`);
    if (!this.#resting) throw new Error(`${this.label}: the pause is not over, requests are in flight`);
    // First the device type: it may give chains back.
    const device = this.device.save?.((what) => this.observer?.unsaved?.(this, what));
    return {
      version: 2,
      id: this.id,
      status: this.#status,
      features: this.#features.accepted.toString(16),
      generation: this.#generation,
      configChangePending: this.#configChangePending,
      legacy: this.legacy,
      active: this.#activation?.features.toString(16) ?? null,
      // Rings of a device that needs a reset never move again, whatever is left in them.
      queues: this.#queues.save(!this.#stopped),
      device,
    };
  }

  /**
   * Adopts a saved state whole, or throws and leaves the device reset. The device stays paused until `resume`. `state` may
   * come from anywhere. Throws an Error while requests are being worked on: pause first.
   */
  restore(state: unknown): void {
    if (!this.#queues.quiet) throw new Error(`${this.label}: pause before restore, requests are in flight`);
    this.#reset();
    this.#deviceReset.forget();
    this.#paused = true;
    const { id } = this;
    const saved = parseDeviceState(state, { id, features: this.#features, queues: this.#queues.registers });
    this.#generation = saved.generation;
    this.#configChangePending = saved.configChangePending;
    // What changes while it is restored, a live driver is told of when it goes on.
    this.#due = saved.active !== undefined;
    try {
      this.device.restore?.(saved.device);
      this.legacy = saved.legacy;
      this.#features.accepted = saved.features;
      this.#status = saved.status;
      saved.queues.forEach((queue, index) => this.#queues.registers[index]?.adopt(queue));
      if (saved.active !== undefined) this.#reactivate(saved.active, saved.queues);
    } catch (error) {
      this.#reset();
      this.#deviceReset.forget();
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
    if (this.#due || this.#inSuspension || this.#paused) this.#configChangePending = true;
    else this.#notifyConfigChange();
  }

  /** The device type's word at any time: a driver that reads before DRIVER_OK compares generations, and is not notified. */
  #configAnnounced(): void {
    if (this.#activation !== undefined || this.#due) this.configChanged();
    else this.#generation = (this.#generation + 1) >>> 0;
  }

  // ---- life

  get #stopped(): boolean {
    return (this.#status & (VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_FAILED)) !== 0;
  }

  get #inSuspension(): boolean {
    return this.#suspending || (this.#status & VIRTIO_STATUS_SUSPEND) !== 0;
  }

  #setStatus(status: number): void {
    if (status === this.#status) return;
    const from = this.#status;
    this.#status = status;
    this.observer?.status?.(this, from, status);
  }

  /** Not over: the device type is at it, or backends may still write into memory that they write to by themselves. */
  get #resetUnderWay(): boolean {
    return this.#deviceReset.pending || (this.memory.pinned === true && this.#queues.formerBusy);
  }

  /** Nothing that was asked for, now or in an earlier life, is being worked on. */
  get #resting(): boolean {
    return this.#queues.quiet && !this.#deviceReset.pending && !this.#suspending;
  }

  #reset(): void {
    const wasSetUp = this.#status !== 0 || this.#activation !== undefined;
    this.#activation?.end();
    this.#activation = undefined;
    this.#due = false;
    this.#queues.clear();
    this.#features.accepted = 0n;
    this.#suspending = false;
    this.#configChangePending = false;
    this.legacy = false;
    this.onReset?.();
    this.#deviceReset.begin(wasSetUp);
    this.#setStatus(0);
  }

  /** Something of before has come to its end: what had to wait for it goes on. */
  #ended(): void {
    if (!this.#due && !this.#suspending && !this.#queues.awaited) return;
    this.#queues.drained();
    if (this.#due && !this.#stopped) this.#activate();
    for (const queue of this.#queues.registers) {
      const activation = this.#activation;
      if (activation === undefined || this.#stopped) break;
      if (queue.enabled && this.#queues.running(queue.index) === undefined) this.#runQueue(queue, activation);
    }
    if (this.#suspending && !this.#due && this.#queues.idle) this.#suspended();
    this.#queues.wake();
  }

  #acceptFeatures(): void {
    if (this.legacy) return;
    this.#deviceReset.touch();
    const { offered, accepted } = this.#features;
    const refusal = this.#features.refusal(accepted);
    this.observer?.features?.(this, offered, accepted, refusal);
    if (refusal === undefined) this.#setStatus(this.#status | VIRTIO_STATUS_FEATURES_OK);
  }

  #driverOk(): void {
    if (this.#stopped) return;
    if (this.#inSuspension) return this.#unsuspend();
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
    this.#due = this.#deviceReset.pending;
    if (this.#due) return;
    if (this.legacy) this.#features.maskLegacy();
    const activation = this.#begin(this.#features.accepted);
    for (const queue of this.#queues.registers) if (queue.enabled) this.#queues.tryStart(queue, activation);
    if (this.#stopped) {
      this.#activation = undefined;
      return activation.end();
    }
    this.device.activate?.(activation);
    this.#resumeQueues();
  }

  #begin(features: bigint): Activation {
    const activation = new Activation(this, features);
    this.#activation = activation;
    this.#due = false;
    return activation;
  }

  /** After a restore: rings continue where they stood, and nothing runs before `resume`. Throws what a ring throws. */
  #reactivate(features: bigint, saved: readonly ParsedQueue[]): void {
    const activation = this.#begin(features);
    for (const queue of this.#queues.registers) {
      const ring = saved[queue.index]?.ring;
      if (ring !== undefined) this.#queues.start(queue, activation, ring);
    }
    this.device.activate?.(activation);
    if (this.#inSuspension) this.#queues.freeze();
  }

  /** The driver enabled a queue: at set-up only its registers are checked, later (Virtqueue Re-enable) it runs. */
  #queueEnabled(queue: QueueRegisters): void {
    if (this.#activation !== undefined && !this.#stopped) return this.#runQueue(queue, this.#activation);
    this.#queues.check(queue, this.#features.packed);
  }

  #runQueue(queue: QueueRegisters, activation: Activation): void {
    this.#queues.tryStart(queue, activation);
    if (!this.#paused && !this.#inSuspension && !this.#stopped) this.#queues.resumeOne(queue.index);
  }

  #resumeQueues(): void {
    if (this.#stopped || this.#paused || this.#inSuspension) return;
    if (this.#configChangePending) this.#notifyConfigChange();
    this.#queues.resume();
  }

  #suspend(): void {
    const running = (this.#status & VIRTIO_STATUS_DRIVER_OK) !== 0 && !this.#stopped;
    // "The device MUST ignore any operations on the SUSPEND bit if it has not been completely initialized."
    if (!running || this.#inSuspension || !hasFeature(this.#features.accepted, VIRTIO_F_SUSPEND)) return;
    this.#suspending = true;
    this.#queues.stop();
    this.#ended();
  }

  #suspended(): void {
    this.#queues.flush();
    this.#queues.freeze();
    this.#suspending = false;
    this.#setStatus((this.#status | VIRTIO_STATUS_SUSPEND) & ~VIRTIO_STATUS_DRIVER_OK);
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
      turns: turnsOf(this.scheduler),
      budget: this.budget,
      notifyDriver: (queue) => this.notifier?.usedBuffer(queue),
      fail: (fault) => this.reportFault(fault),
      drained: () => this.#ended(),
      queueClause: () => this.queueClause,
      enableQueue: (queue) => this.#queueEnabled(queue),
    };
  }
}
