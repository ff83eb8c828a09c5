import {
  bytesOption,
  choiceOption,
  flagOptions,
  multipleOption,
  textOption,
  wholeOption,
} from "virtio/check-option";
import { SharedInterrupt } from "virtio/bus/interrupt";
import type { InterruptLine } from "virtio/bus/types";
import { stateRecord } from "virtio/device/checked-state";
import type { VirtioDevice } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import type { InstanceOptions } from "virtio/device/options";
import type { VirtioObserver } from "virtio/device/observer";
import type { Scheduler } from "virtio/device/scheduler";
import type { GuestMemory } from "virtio/memory/guest-memory";
import { virtioMmio } from "virtio/transport/mmio/registers";
import { virtioPciFunction } from "virtio/transport/pci/function";
import type { MachineOptions, MmioPlugOptions, PciPlugOptions, PlugOptions, PluggedDevice } from "./api.ts";
import {
  ACPI_BASE,
  MMIO_DEVICES,
  MMIO_INTERRUPTS,
  MMIO_SIZE,
  PCI_SLOTS,
  boardTables,
  type DescribedMmioDevice,
} from "./board.ts";
import { loadLinux } from "./boot.ts";
import { MMIO_GRANULE, V86Core, type StopReason } from "./internals.ts";
import { V86Memory } from "./memory.ts";
import { fillMemory, usedMemory } from "./memory-image.ts";
import { PciSlots, irqLine } from "./pci-slots.ts";
import { machineScheduler } from "./scheduler.ts";
import { readMachineState, writeMachineState } from "./state-file.ts";
import { checkV86State } from "./v86-state.ts";

const SMALLEST_MEMORY = 32 << 20;
const LARGEST_MEMORY = 1920 * 2 ** 20;

/** A plugged-in device and what its transport keeps. */
interface Plugged extends PluggedDevice {
  readonly transport: { save(): unknown; restore(state: unknown): void };
  /** All that a saved state must agree with. */
  readonly shape: string;
}

/**
 * A PC in this process that runs i386 Linux: v86's processor and board, with our devices on its buses. Plug devices in,
 * then `run` (or `restore`).
 */
export class EmbeddedMachine {
  readonly memory: GuestMemory;
  /** The guest stopped by itself; the machine does not run any more. */
  onStop: ((reason: StopReason) => void) | undefined;
  readonly #acpi: boolean;
  readonly #observer: VirtioObserver | undefined;
  /** What to boot, until it is in guest memory. */
  #image: Pick<MachineOptions, "kernel" | "initrd" | "commandLine"> | undefined;
  readonly #core: V86Core;
  readonly #pci: PciSlots;
  readonly #scheduler: Scheduler;
  readonly #devices: Plugged[] = [];
  readonly #mmio: DescribedMmioDevice[] = [];
  readonly #mmioInterrupts: readonly SharedInterrupt[];
  #loaded = false;
  #destroyed = false;

  private constructor(core: V86Core, options: MachineOptions) {
    this.#core = core;
    this.#acpi = options.acpi ?? true;
    this.#observer = options.observer;
    this.#image = options;
    this.memory = new V86Memory(core);
    this.#scheduler = { ...machineScheduler, idle: (task) => core.whenIdle(task) };
    this.#pci = new PciSlots(core);
    const inputs = MMIO_INTERRUPTS.last - MMIO_INTERRUPTS.first + 1;
    this.#mmioInterrupts = Array.from(
      { length: inputs },
      (_, i) => new SharedInterrupt(irqLine(core, MMIO_INTERRUPTS.first + i)),
    );
    core.setAcpi(this.#acpi);
    core.onStop = (reason) => this.onStop?.(reason);
  }

  /** Rejects with a RangeError or TypeError that names an option which cannot be. */
  static async create(options: MachineOptions): Promise<EmbeddedMachine> {
    const { memorySize, kernel, initrd, commandLine } = options;
    multipleOption("machine: memorySize", memorySize, MMIO_GRANULE, SMALLEST_MEMORY, LARGEST_MEMORY);
    if (kernel !== undefined) bytesOption("machine: kernel", kernel);
    if (initrd !== undefined) bytesOption("machine: initrd", initrd);
    if (commandLine !== undefined) textOption("machine: commandLine", commandLine);
    flagOptions("machine", options, ["acpi"]);
    const { wasm, v86Options = {} } = options;
    return new EmbeddedMachine(await V86Core.open({ wasm, memorySize, v86Options }), options);
  }

  get devices(): readonly PluggedDevice[] {
    return this.#devices;
  }

  /** v86's own `V86` object, for devices that `v86Options` asked for: its files, its events. */
  get emulator(): object {
    return this.#core.emulator;
  }

  get running(): boolean {
    return this.#core.running;
  }

  /** Only before the machine runs. Throws a RangeError when the board is full or the device cannot be such a function. */
  plugPci(device: VirtioDevice, options: PciPlugOptions): PluggedDevice {
    checkPciOptions(options);
    const { mode = "modern", bar = "io", msix = options.vectors !== undefined } = options;
    if (msix && !this.#acpi) throw new RangeError(`${options.label}: MSI-X needs ACPI`);
    const instance = this.#instance(device, options);
    const transport = virtioPciFunction(instance, {
      mode,
      modernBar: bar,
      minimumBarSize: MMIO_GRANULE,
      ...(msix
        ? options.vectors === undefined
          ? {}
          : { msixVectors: options.vectors }
        : { msixVectors: 0 }),
    });
    const slot = this.#pci.plug(transport, options.slot);
    const address = `pci 00:${slot.toString(16).padStart(2, "0")}.0`;
    const bars = transport.bars.map(({ index, kind, size }) => `${index} ${kind} ${size}`).join(", ");
    return this.#add(instance, transport, address, `${mode}, BARs ${bars}`);
  }

  /** Only before the machine runs. Throws a RangeError when the board is full or there is no ACPI to announce it. */
  plugMmio(device: VirtioDevice, options: MmioPlugOptions): PluggedDevice {
    const { version = 2 } = options;
    flagOptions("MMIO", options, ["observed"]);
    const base = MMIO_DEVICES.first + this.#mmio.length * MMIO_GRANULE;
    const gsi = MMIO_INTERRUPTS.first + (this.#mmio.length % this.#mmioInterrupts.length);
    if (!this.#acpi) throw new RangeError(`${options.label}: MMIO devices need ACPI`);
    if (base > MMIO_DEVICES.last) throw new RangeError(`${options.label}: no room for another MMIO device`);
    const instance = this.#instance(device, options);
    const transport = virtioMmio(instance, { version, interrupt: this.#mmioLine(gsi) });
    this.#core.mapMemory(base, Math.max(MMIO_SIZE, transport.length), transport);
    this.#mmio.push({ base, gsi });
    return this.#add(instance, transport, `mmio 0x${base.toString(16)}`, `version ${version}`);
  }

  /** Starts the guest, or lets it go on. Throws an Error when the kernel cannot be booted. */
  run(): void {
    this.#mustLive();
    if (!this.#loaded) this.#load();
    this.#core.run();
  }

  /** The processor stands still afterwards; devices go on with what they have in hand. */
  async pause(): Promise<void> {
    await this.#core.stop();
  }

  async destroy(): Promise<void> {
    if (this.#destroyed) return;
    this.#destroyed = true;
    await this.#core.destroy();
    for (const { instance } of this.#devices) instance.writeStatus(0);
  }

  /** Bytes that the guest writes to its first serial port (`console=ttyS0`). */
  onSerial(listener: (byte: number) => void): void {
    this.#core.onSerial(listener);
  }

  /** Bytes for the guest's first serial port. */
  sendSerial(bytes: Uint8Array): void {
    this.#core.sendSerial(bytes);
  }

  /**
   * The whole machine with its devices, at any time: requests that are being worked on are finished first. What backends
   * hold (disk contents) is not in it.
   */
  async save(): Promise<Uint8Array<ArrayBuffer>> {
    this.#mustLive();
    const { running } = this.#core;
    await this.#core.stop();
    await Promise.all(this.#devices.map(({ instance }) => instance.pause()));
    try {
      // Devices first: saving one may give buffers back, which changes guest memory and interrupt controllers.
      const devices = this.#devices.map(({ instance }) => instance.save());
      const transports = this.#devices.map(({ transport }) => transport.save());
      const v86 = await this.#core.saveState();
      const ram = usedMemory(this.#core);
      return writeMachineState({
        fingerprint: this.#fingerprint(),
        devices: { devices, transports, pins: this.#pci.savePins() },
        v86,
        ram,
      });
    } finally {
      for (const { instance } of this.#devices) instance.resume();
      if (running) this.#core.run();
    }
  }

  /**
   * Becomes the machine that was saved; it must have been made of the same devices in the same places. Throws an Error
   * that says what differs, and then is as it was; on a file that is damaged inside, the machine is of no use any more.
   * Afterwards `run`.
   */
  async restore(state: Uint8Array): Promise<void> {
    this.#mustLive();
    const { fingerprint, devices, v86, ram } = readMachineState(state);
    this.#mustMatch(fingerprint);
    const saved = savedDevices(devices, this.#devices.length);
    const end = ram.at(-1);
    checkV86State(v86);
    if (end !== undefined && end.address + end.bytes.length > this.#core.memorySize) throw damagedState();
    await this.#core.stop();
    // What the devices of before still have in hand must not land in the memory of the restored machine.
    await Promise.all(this.#devices.map(({ instance }) => instance.pause()));
    fillMemory(this.#core, ram, !this.#loaded);
    this.#image = undefined;
    this.#loaded = true;
    await this.#core.restoreState(v86);
    this.#pci.restorePins(saved.pins);
    this.#devices.forEach(({ instance, transport }, i) => {
      instance.restore(saved.devices[i]);
      transport.restore(saved.transports[i]);
    });
    for (const { instance } of this.#devices) instance.resume();
  }

  #instance(device: VirtioDevice, { label, features, queueSize, observed }: PlugOptions): DeviceInstance {
    if (this.#loaded) throw new Error(`${label}: devices are plugged in before the machine runs`);
    if (this.#devices.some((other) => other.label === label))
      throw new RangeError(`two devices are called ${label}`);
    const observer = observed === false ? undefined : this.#observer;
    const options: InstanceOptions = {
      label,
      memory: this.memory,
      scheduler: this.#scheduler,
      ...(features === undefined ? {} : { features }),
      ...(queueSize === undefined ? {} : { queueSize }),
      ...(observer === undefined ? {} : { observer }),
    };
    return new DeviceInstance(device, options);
  }

  #mmioLine(gsi: number): InterruptLine {
    const line = this.#mmioInterrupts[gsi - MMIO_INTERRUPTS.first];
    if (line === undefined) throw new RangeError(`the board has no interrupt ${gsi} for MMIO devices`);
    return line.input();
  }

  #add(
    instance: DeviceInstance,
    transport: Plugged["transport"],
    address: string,
    layout: string,
  ): PluggedDevice {
    const { label, device, offered } = instance;
    const queues = Array.from({ length: instance.queueCount }, (_, i) => instance.queue(i)?.maxSize);
    const shape = [
      `${label}: ${device.name} at ${address}`,
      layout,
      `features 0x${offered.toString(16)}`,
      `virtqueues ${queues.join(", ")}`,
      `configuration of ${instance.configLength} bytes`,
    ].join("; ");
    const plugged = { label, instance, address, transport, shape };
    this.#devices.push(plugged);
    return plugged;
  }

  #load(): void {
    const { kernel, initrd, commandLine = "" } = this.#image ?? {};
    if (kernel === undefined) throw new Error("the machine has neither a kernel nor a restored state");
    const ram = new Uint8Array(this.#core.buffer, this.#core.ramOffset, this.#core.memorySize);
    const tables = this.#acpi ? boardTables(this.#mmio) : undefined;
    if (tables !== undefined) ram.set(tables.bytes, ACPI_BASE);
    this.#core.enter(loadLinux(ram, { kernel, initrd, commandLine, acpiRoot: tables?.root }));
    this.#image = undefined;
    this.#loaded = true;
  }

  #fingerprint(): string {
    const board = `${this.#core.memorySize} bytes of memory, ACPI ${this.#acpi ? "on" : "off"}`;
    return [board, ...this.#devices.map(({ shape }) => shape)].join("\n");
  }

  #mustMatch(fingerprint: string): void {
    const saved = fingerprint.split("\n");
    const own = this.#fingerprint().split("\n");
    const differing = own.findIndex((line, i) => line !== saved[i]);
    const at = differing >= 0 ? differing : saved.length > own.length ? own.length : -1;
    if (at < 0) return;
    const said = (line: string | undefined): string => line ?? "nothing";
    throw new Error(
      `the saved state is of another machine: it has ${said(saved[at])}, this one has ${said(own[at])}`,
    );
  }

  #mustLive(): void {
    if (this.#destroyed) throw new Error("the machine was destroyed");
  }
}

/** What the board knows of; the rest is checked by the device's instance and its transport. */
function checkPciOptions(options: PciPlugOptions): void {
  const { slot, bar } = options;
  flagOptions("PCI", options, ["observed", "msix"]);
  if (slot !== undefined) wholeOption("PCI: slot", slot, PCI_SLOTS.first, PCI_SLOTS.last);
  if (bar !== undefined) choiceOption("PCI: bar", bar, ["io", "memory32", "memory64"]);
}

interface SavedDevices {
  readonly devices: readonly unknown[];
  readonly transports: readonly unknown[];
  readonly pins: unknown;
}

/** States of before pins were saved have none. */
function savedDevices(value: unknown, count: number): SavedDevices {
  const { devices, transports, pins = [] } = stateRecord(value, "the saved state is damaged");
  if (!Array.isArray(devices) || devices.length !== count) throw damagedState();
  if (!Array.isArray(transports) || transports.length !== count) throw damagedState();
  return { devices, transports, pins };
}

function damagedState(): Error {
  return new Error("the saved state is damaged");
}
