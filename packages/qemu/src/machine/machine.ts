import { rmSync } from "node:fs";
import { DmaPool } from "virtio/driver/dma";
import { openMmio, type MmioPlace, type OpenMmioOptions } from "virtio/driver/mmio-transport";
import { WindowAllocator } from "virtio/driver/pci-bars";
import { findVirtioFunctions, type FoundPciFunction } from "virtio/driver/pci-discovery";
import { setUpPci, type PciBusWindows } from "virtio/driver/pci-firmware";
import { openPci, type OpenPciOptions } from "virtio/driver/pci-open";
import type { BusAccess, DriverPlatform, PciPlatform } from "virtio/driver/platform";
import type { DriverTransport } from "virtio/driver/types";
import { RegionMemory } from "virtio/memory/region-memory";
import { QemuError } from "../error.ts";
import type { QemuProcess } from "../process.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { QtestClient } from "../qtest/client.ts";
import { QtestBus } from "./bus.ts";
import { readFirmwareFile } from "./fw-cfg.ts";
import { QemuInterrupts } from "./interrupts.ts";
import { launch, readDeviceTree, MEMORY_ID, type Launched, type LaunchOptions } from "./launch.ts";
import { layoutFdt } from "./layout-fdt.ts";
import { layoutPc, layoutQ35 } from "./layout-pc.ts";
import { layoutVersatile } from "./layout-versatile.ts";
import type { LayoutParts, MachineLayout } from "./layout.ts";
import { readMemoryMap, type MemoryPiece } from "./memory-map.ts";
import { findObjects } from "./objects.ts";

/** A virtio device of the machine, not driven yet. */
export interface QemuDevice {
  /** `pci 00:05.0`, `mmio 0xa003e00`. */
  readonly name: string;
  /** Virtio device id. */
  readonly deviceId: number;
  readonly bus: "pci" | "mmio";
  /** Gives the driver's side. Throws an Error that says why it cannot be driven that way. */
  open(options?: OpenPciOptions & OpenMmioOptions): DriverTransport;
}

export type QemuMachineOptions = LaunchOptions;

/** Words of memory for messages: as many vectors as the machine can have. */
const MESSAGE_WORDS = 1024;
/** Memory for what firmware files are read through. */
const SCRATCH = 2 << 20;
/** What a PC keeps in its first MiB is not ours. */
const LOW_MEMORY = 0x100000;
const CONTROLLER_TYPES: ReadonlySet<string> = new Set([
  "ioapic",
  "arm_gic",
  "arm-gicv3",
  "riscv.sifive.plic",
  "riscv.aplic",
  "versatilepb_sic",
]);

/**
 * A QEMU machine without a guest: no processor runs, and what one would do is done from here. Its memory is shared with
 * this process, its registers are accessed through qtest, its interrupts are heard. Our drivers run on its devices as
 * on any other platform.
 */
export class QemuMachine {
  /** QOM type: `versatilepb-machine`, `virt-7.2-machine`. */
  readonly type: string;
  readonly qmp: QmpClient;
  readonly qtest: QtestClient;
  readonly process: QemuProcess;
  readonly memory: RegionMemory;
  /** Where the machine's memory is. */
  readonly memoryMap: readonly MemoryPiece[];
  readonly interrupts: QemuInterrupts;
  /** What drivers are given. Without PCI its configuration space reads as all ones. */
  readonly platform: PciPlatform;
  /** The device tree blob that QEMU made for the machine, if it did. */
  readonly deviceTree: Uint8Array | undefined;
  readonly layout: MachineLayout;
  /** The machine is gone though nobody closed it. */
  onFailure: ((error: Error) => void) | undefined;
  readonly #launched: Launched;
  readonly #windows: ReadonlyMap<number, PciBusWindows>;
  readonly #lost = new Set<(error: Error) => void>();
  #failure: Error | undefined;
  #closing = false;
  #closed: Promise<void> | undefined;

  private constructor(launched: Launched, found: Found) {
    this.#launched = launched;
    this.qmp = launched.qmp;
    this.qtest = launched.qtest;
    this.process = launched.process;
    this.type = found.type;
    this.memory = found.memory;
    this.memoryMap = found.pieces;
    this.deviceTree = found.deviceTree;
    this.layout = found.layout;
    const { pool } = found;
    const messages = pool.allocate(4 * MESSAGE_WORDS, 4096);
    const bytes = pool.view(messages, 4 * MESSAGE_WORDS);
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, MESSAGE_WORDS);
    this.interrupts = new QemuInterrupts(
      { settle: () => this.qtest.settle(), failed: (error) => this.#handlerFailed(error) },
      { address: messages, words },
      found.layout.unheard,
    );
    const base: DriverPlatform = {
      bus: found.bus,
      memory: pool,
      interrupts: this.interrupts,
      onLost: (handler) => this.#onLost(handler),
    };
    const pci = found.layout.pci;
    this.platform = { ...base, pci: pci?.config ?? NO_PCI };
    this.#windows =
      pci === undefined
        ? new Map<number, PciBusWindows>()
        : setUpPci(pci.config, {
            firstBus: pci.firstBus,
            memory: new WindowAllocator(pci.memory),
            io: pci.io && new WindowAllocator(pci.io),
            line: (device, pin) => pci.line(device, pin),
          });
    this.qtest.onInterrupt = (line, raised) => this.interrupts.changed(line, raised);
    this.qtest.onWrite = () => this.interrupts.expect();
    this.qtest.onFailure = (error) => this.#failed(error);
    if (found.layout.controller !== undefined) this.qtest.interceptInputs(found.layout.controller.path);
    void launched.process.ended.then(() => this.#failed(launched.process.error()));
  }

  /**
   * Starts QEMU as its command line says and takes the machine over. Rejects with a QemuError when it does not start or
   * the machine is not one that can be driven, and with the signal's reason.
   */
  static async start(options: QemuMachineOptions): Promise<QemuMachine> {
    const launched = await launch(options);
    try {
      const machine = new QemuMachine(launched, await explore(launched));
      const { signal } = options;
      signal?.throwIfAborted();
      const abort = (): void => machine.#abort(signal?.reason);
      signal?.addEventListener("abort", abort, { once: true });
      void launched.process.ended.then(() => signal?.removeEventListener("abort", abort));
      return machine;
    } catch (error) {
      launched.process.kill();
      await closeLaunched(launched);
      throw error;
    }
  }

  /** Why the machine is gone. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /**
   * All virtio devices: PCI functions in order of their addresses, then the MMIO windows that hold one. Throws why the
   * machine is gone when it is.
   */
  devices(): readonly QemuDevice[] {
    this.#check();
    const functions =
      this.layout.pci === undefined ? [] : findVirtioFunctions(this.platform.pci, this.layout.pci.firstBus);
    return [
      ...functions.map((found) => this.#pciDevice(found)),
      ...this.layout.mmio.flatMap((place) => this.#mmioDevice(place)),
    ];
  }

  /** The first device of a type. Throws a QemuError when there is none. */
  device(deviceId: number): QemuDevice {
    const device = this.devices().find((each) => each.deviceId === deviceId);
    if (device === undefined) throw new QemuError(`${this.type} has no virtio device of type ${deviceId}`);
    return device;
  }

  /** Ends QEMU. Drivers that are not closed fail with an error. */
  close(): Promise<void> {
    this.#closing = true;
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#failed(new QemuError("the machine was closed"));
    if (this.process.how === undefined) this.qmp.execute("quit").catch(() => undefined);
    await closeLaunched(this.#launched);
  }

  #abort(reason: unknown): void {
    this.#failed(reason instanceof Error ? reason : new Error(String(reason)));
    this.process.kill();
    void this.close();
  }

  #pciDevice({ at, deviceId }: FoundPciFunction): QemuDevice {
    const windows = this.#windows.get(at.bus);
    const hex = (value: number): string => value.toString(16).padStart(2, "0");
    return {
      name: `pci ${hex(at.bus)}:${hex(at.device)}.${at.function}`,
      deviceId,
      bus: "pci",
      open: (options = {}) => {
        this.#check();
        return openPci(this.platform, at, {
          ...(windows?.memory && { memoryWindow: windows.memory }),
          ...(windows?.io && { ioWindow: windows.io }),
          ...options,
        });
      },
    };
  }

  #mmioDevice(place: MmioPlace): QemuDevice[] {
    const deviceId = mmioDeviceId(this.platform.bus, place);
    if (deviceId === 0) return [];
    const name = `mmio 0x${place.base.toString(16)}`;
    const open = (options: OpenMmioOptions = {}): DriverTransport => {
      this.#check();
      const transport = openMmio(this.platform, place, options);
      if (transport === undefined) throw new QemuError(`${name}: no device that can be driven this way`);
      return transport;
    };
    return [{ name, deviceId, bus: "mmio", open }];
  }

  /** QEMU may still answer while it is ended, but nobody would hear of its end. */
  #check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #onLost(handler: (error: Error) => void): () => void {
    this.#check();
    this.#lost.add(handler);
    return () => void this.#lost.delete(handler);
  }

  /** A driver's mistake is not the machine's: it is thrown where it is seen. */
  #handlerFailed(error: unknown): void {
    if (error instanceof QemuError) return this.#failed(error);
    throwLater(error);
  }

  /** Drivers hear of it before the memory goes. */
  #failed(error: unknown): void {
    if (this.#failure !== undefined) return;
    const failure = error instanceof Error ? error : new Error(String(error));
    this.#failure = failure;
    this.interrupts.close();
    const handlers = [...this.#lost, ...(this.#closing ? [] : [this.onFailure])];
    for (const handler of handlers) {
      try {
        handler?.(failure);
      } catch (mistake) {
        // The others are told all the same.
        throwLater(mistake);
      }
    }
  }
}

function throwLater(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
}

/** What was found out about a machine. */
interface Found {
  readonly type: string;
  readonly bus: BusAccess;
  readonly memory: RegionMemory;
  readonly pieces: readonly MemoryPiece[];
  readonly pool: DmaPool;
  readonly deviceTree: Uint8Array | undefined;
  readonly layout: MachineLayout;
}

const NO_PCI: PciPlatform["pci"] = {
  readConfig: (_at, _offset, size) => 2 ** (8 * size) - 1,
  writeConfig: () => undefined,
};

async function explore(launched: Launched): Promise<Found> {
  const { qmp, qtest, memory: mapping } = launched;
  const [type, objects, map, dumped] = await Promise.all([
    qmp.execute("qom-get", { path: "/machine", property: "type" }),
    findObjects(qmp, CONTROLLER_TYPES),
    qmp.humanMonitor("info mtree -f"),
    readDeviceTree(launched),
  ]);
  if (typeof type !== "string") throw new QemuError("QEMU does not say what machine it is");
  const pieces = readMemoryMap(map, MEMORY_ID);
  const memory = new RegionMemory(
    pieces.map(({ gpa, length, offset }) => ({
      gpa,
      bytes: new Uint8Array(mapping.buffer, mapping.offset + offset, length),
    })),
  );
  const { gpa, length } = dmaPiece(pieces);
  const bus = new QtestBus(qtest);
  let deviceTree = dumped;
  if (type === "microvm-machine" && deviceTree === undefined) {
    bus.setPorts("processor");
    deviceTree = readFirmwareFile(bus, memory, { gpa, length: Math.min(length, SCRATCH) }, "etc/fdt");
  }
  const parts: LayoutParts = { type, bus, deviceTree, objects, setPorts: (space) => bus.setPorts(space) };
  return {
    type,
    bus,
    memory,
    pieces,
    pool: new DmaPool(memory, gpa, length),
    deviceTree,
    layout: layoutOf(parts),
  };
}

function layoutOf(parts: LayoutParts): MachineLayout {
  if (parts.type.startsWith("pc-i440fx-")) return layoutPc(parts);
  if (parts.type.startsWith("pc-q35-")) return layoutQ35(parts);
  if (parts.type === "versatilepb-machine" || parts.type === "versatileab-machine")
    return layoutVersatile(parts);
  return layoutFdt(parts);
}

/** Where buffers and rings go: the largest piece below 4 GiB, without a PC's first MiB; above if there is none below. */
function dmaPiece(pieces: readonly MemoryPiece[]): { gpa: number; length: number } {
  const between = (from: number, to: number) =>
    pieces
      .map(({ gpa, length }) => ({ gpa: Math.max(gpa, from), end: Math.min(gpa + length, to) }))
      .map(({ gpa, end }) => ({ gpa, length: end - gpa }))
      .sort((a, b) => b.length - a.length)
      .find(({ length }) => length >= SCRATCH);
  const piece = between(LOW_MEMORY, 2 ** 32) ?? between(2 ** 32, 2 ** 53);
  if (piece === undefined) throw new QemuError(`the machine has no ${SCRATCH} bytes of memory in one piece`);
  return piece;
}

const MMIO_MAGIC = 0x74726976;
const MMIO_DEVICE_ID = 8;

/** 0: no virtio registers, or a placeholder. */
function mmioDeviceId(bus: BusAccess, { base }: MmioPlace): number {
  return bus.read("memory", base, 4) === MMIO_MAGIC ? bus.read("memory", base + MMIO_DEVICE_ID, 4) : 0;
}

async function closeLaunched({ process, qmp, qtest, memory, folder }: Launched): Promise<void> {
  await process.close();
  qmp.close();
  qtest.close();
  memory.unmap();
  rmSync(folder, { recursive: true, force: true });
}
