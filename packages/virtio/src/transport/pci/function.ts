import { StandardPciFunction } from "../../bus/pci/function.ts";
import { MsixTable } from "../../bus/pci/msix.ts";
import type { AccessSize, PciBar, PciFunction, PciSlot } from "../../bus/types.ts";
import type { DeviceInstance } from "../../device/instance.ts";
import { VIRTIO_PCI_LEGACY_CONFIG_MSIX } from "../../spec/pci.ts";
import { ConfigGeneration } from "../config-generation.ts";
import { PCI_FEATURES, checkOffered } from "../features.ts";
import { Negotiated } from "../negotiated.ts";
import { addConfigAccess, addSharedMemory, addStructures, addVendorData } from "./capabilities.ts";
import { CommonConfig } from "./common-config.ts";
import { PciInterrupts } from "./interrupts.ts";
import { LEGACY_BAR, MODERN_BAR, MSIX_BAR, modernLayout, powerOfTwo } from "./layout.ts";
import { LegacyHeader } from "./legacy-header.ts";
import { ModernRegisters } from "./modern-registers.ts";
import { identity, msixVectors, type VirtioPciOptions } from "./options.ts";
import { placeSharedMemory } from "./shared-memory.ts";
import { isTransportState, type PciTransportState } from "./state.ts";

const SMALLEST_LEGACY_BAR = 32;

/** What the register files of both interfaces share. */
interface TransportParts {
  readonly instance: DeviceInstance;
  readonly fn: StandardPciFunction;
  readonly interrupts: PciInterrupts;
  readonly negotiated: Negotiated;
  readonly generation: ConfigGeneration;
}

/**
 * A virtio device as a PCI function. Plug it into a host (`PciHost`, or whatever an emulator has) with `attach`; the
 * host then sees configuration space and BARs. BARs are those of QEMU: 0 legacy registers, 1 MSI-X, 2 shared memory,
 * 4 the virtio structures.
 */
export class VirtioPciFunction implements PciFunction {
  readonly instance: DeviceInstance;
  readonly #fn: StandardPciFunction;
  readonly #interrupts: PciInterrupts;
  readonly #common: CommonConfig | undefined;
  readonly #legacy: LegacyHeader | undefined;
  readonly #negotiated = new Negotiated();
  readonly #generation: ConfigGeneration;

  /** Throws a RangeError on options that cannot be, and on features that PCI may not offer. */
  constructor(instance: DeviceInstance, options: VirtioPciOptions = {}) {
    checkOffered(instance.id, instance.offered, PCI_FEATURES, "PCI");
    this.instance = instance;
    const mode = options.mode ?? "modern";
    const vectors = msixVectors(instance, options);
    const fn = new StandardPciFunction(identity(instance, options));
    this.#fn = fn;
    this.#interrupts = new PciInterrupts(fn, instance.queueCount);
    this.#generation = new ConfigGeneration(instance);
    if (mode !== "modern") this.#legacy = this.#addLegacy();
    if (mode !== "legacy") this.#common = this.#addModern(options);
    if (vectors > 0) addMsix(fn, vectors, options.minimumBarSize ?? 0);
    instance.notifier = this.#interrupts;
    instance.queueClause = "drv.pci.common-cfg";
    instance.onReset = () => this.#reset();
  }

  get bars(): readonly PciBar[] {
    return this.#fn.bars;
  }

  readConfig(offset: number, size: AccessSize): number {
    return this.#fn.readConfig(offset, size);
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    this.#fn.writeConfig(offset, size, value);
  }

  attach(slot: PciSlot): void {
    this.#fn.attach(slot);
  }

  /** Bus reset: the device too. */
  reset(): void {
    this.instance.writeStatus(0);
    this.#reset();
    this.#fn.reset();
  }

  /** Registers of the transport alone; the device's are `instance.save()`. Plain data with Uint8Array. */
  save(): PciTransportState {
    return {
      version: 1,
      fn: this.#fn.save(),
      isr: this.#interrupts.isr,
      configVector: this.#interrupts.configVector,
      queueVectors: this.#interrupts.saveVectors(),
      generation: this.#generation.value,
      common: this.#common?.save(),
      legacy: this.#legacy?.save(),
    };
  }

  /** Call it after `instance.restore`. The state is untrusted: it is taken whole, or an Error is thrown. */
  restore(state: unknown): void {
    const fits =
      isTransportState(state) &&
      this.#fn.accepts(state.fn) &&
      state.queueVectors.length === this.instance.queueCount &&
      (state.common === undefined) === (this.#common === undefined) &&
      (state.legacy === undefined) === (this.#legacy === undefined);
    if (!fits) throw new Error("this is no saved state of such a virtio PCI function");
    if (state.common !== undefined) this.#common?.restore(state.common);
    if (state.legacy !== undefined) this.#legacy?.restore(state.legacy);
    this.#generation.restore(state.generation);
    this.#negotiated.update(this.instance);
    this.#interrupts.restore(state.isr, state.configVector, state.queueVectors);
    this.#fn.restore(state.fn, this.#interrupts.isr !== 0);
  }

  #parts(): TransportParts {
    return {
      instance: this.instance,
      fn: this.#fn,
      interrupts: this.#interrupts,
      negotiated: this.#negotiated,
      generation: this.#generation,
    };
  }

  #addLegacy(): LegacyHeader {
    const header = new LegacyHeader(this.#parts());
    const length = VIRTIO_PCI_LEGACY_CONFIG_MSIX + this.instance.configLength;
    const size = powerOfTwo(Math.max(SMALLEST_LEGACY_BAR, length));
    this.#fn.addBar({ index: LEGACY_BAR, kind: "io", size, handler: header });
    return header;
  }

  #addModern(options: VirtioPciOptions): CommonConfig {
    const fn = this.#fn;
    const kind = options.modernBar ?? "memory64";
    const minimumSize = options.minimumBarSize ?? 0;
    const notifConfigData = options.notifConfigData ?? ((queue: number) => queue);
    const layout = modernLayout(kind, this.instance.configLength, this.instance.queueCount, minimumSize);
    const oneNotifyAddress = layout.notifyMultiplier === 0;
    const common = new CommonConfig({ ...this.#parts(), oneNotifyAddress, notifConfigData });
    const handler = new ModernRegisters(layout, { ...this.#parts(), common, notifConfigData });
    fn.addBar({ index: MODERN_BAR, kind, size: layout.size, handler });
    addStructures(fn, layout);
    addConfigAccess(fn);
    if (options.sharedMemory !== undefined && options.sharedMemory.length > 0) {
      const { bar, placed } = placeSharedMemory(options.sharedMemory, minimumSize);
      fn.addBar(bar);
      for (const region of placed) addSharedMemory(fn, region.id, region.offset, region.length);
    }
    for (const vendor of options.vendorData ?? []) addVendorData(fn, vendor);
    return common;
  }

  #reset(): void {
    this.#interrupts.reset();
    this.#common?.reset();
    this.#legacy?.reset();
    this.#negotiated.update(this.instance);
  }
}

function addMsix(fn: StandardPciFunction, vectors: number, minimumSize: number): void {
  const table = new MsixTable(vectors);
  const size = Math.max(table.barSize, powerOfTwo(minimumSize));
  fn.addBar({ index: MSIX_BAR, kind: "memory32", size, handler: table });
  fn.addMsix(table, MSIX_BAR);
}

/** A PCI function for a device; see `VirtioPciOptions`. */
export function virtioPciFunction(
  instance: DeviceInstance,
  options: VirtioPciOptions = {},
): VirtioPciFunction {
  return new VirtioPciFunction(instance, options);
}
