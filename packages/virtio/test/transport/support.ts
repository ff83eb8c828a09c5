import { patientScheduler } from "@virtio/testkit/patient-scheduler";
import type { AccessSize, PciSlot } from "virtio/bus/types";
import type { VirtioDevice } from "virtio/device/device";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { DeviceInstance } from "virtio/device/instance";
import type { InstanceOptions } from "virtio/device/options";
import { SegmentReader, SegmentWriter } from "virtio/memory/cursor";
import { RegionMemory } from "virtio/memory/region-memory";
import { VirtioPciFunction } from "virtio/transport/pci/function";
import type { VirtioPciOptions } from "virtio/transport/pci/options";

export interface EchoDevice extends VirtioDevice {
  readonly bytes: Uint8Array;
  /** Bytes that the driver wrote into configuration space: offset and values. */
  readonly configWrites: { offset: number; bytes: number[] }[];
}

interface EchoOptions {
  readonly id?: number;
  readonly queues?: number;
  readonly configLength?: number;
  readonly maxSize?: number;
  /** Completes after this many microtasks. Default: at once. */
  readonly delay?: number;
  readonly reset?: () => void | Promise<void>;
}

/** A device whose requests come back: what is readable is copied to what is writable. */
export function echoDevice(options: EchoOptions = {}): EchoDevice {
  const { id = 4, queues = 2, configLength = 24, maxSize = 64, delay = 0 } = options;
  const bytes = Uint8Array.from({ length: configLength }, (_, i) => i + 1);
  const configWrites: { offset: number; bytes: number[] }[] = [];
  const serve: VirtioDevice["queues"][number]["serve"] = (chain, { memory }) => {
    const data = new Uint8Array(chain.readableLength);
    new SegmentReader(memory).start(chain.readable).copy(data);
    const copy = (): number => new SegmentWriter(memory).start(chain.writable).copy(data);
    return delay === 0 ? copy() : wait(delay).then(copy);
  };
  const device: EchoDevice = {
    id,
    name: "echo",
    features: 0b11n,
    bytes,
    configWrites,
    queues: Array.from({ length: queues }, (_, i) => ({ name: `queue${i}`, maxSize, serve })),
    config: {
      length: configLength,
      read: (offset, target) => target.set(bytes.subarray(offset, offset + target.length)),
      write: (offset, source) => {
        bytes.set(source, offset);
        configWrites.push({ offset, bytes: Array.from(source) });
      },
    },
    ...(options.reset === undefined ? {} : { reset: options.reset }),
  };
  return device;
}

async function wait(turns: number): Promise<void> {
  for (let i = 0; i < turns; i++) await Promise.resolve();
}

/** A capability of type vendor-specific, as a reader that knows only the spec's listing sees it. */
export interface Cap {
  readonly at: number;
  readonly length: number;
  readonly type: number;
  readonly bar: number;
  readonly id: number;
  readonly offset: number;
  readonly size: number;
}

/** A PCI function on a slot that writes down what happens, with registers reached past BAR decoding. */
export class PciRig {
  readonly ram: Uint8Array = new Uint8Array(0x100000);
  readonly instance: DeviceInstance;
  readonly fn: VirtioPciFunction;
  /** Level of the INTx pin. */
  pin = false;
  readonly messages: { address: number; data: number }[] = [];
  readonly mapped: (number | undefined)[] = [];

  constructor(
    device: VirtioDevice,
    options: VirtioPciOptions = {},
    core: Partial<InstanceOptions> & { features?: bigint } = {},
  ) {
    const memory = new RegionMemory([{ gpa: 0, bytes: this.ram }]);
    this.instance = new DeviceInstance(device, {
      label: "rig",
      scheduler: patientScheduler,
      memory,
      features: DEFAULT_CORE_FEATURES,
      ...core,
    });
    this.fn = new VirtioPciFunction(this.instance, options);
    const slot: PciSlot = {
      mapBar: (bar, base) => void (this.mapped[bar.index] = base),
      setInterrupt: (asserted) => void (this.pin = asserted),
      sendMsi: (address, data) => void this.messages.push({ address, data }),
    };
    this.fn.attach(slot);
  }

  readBar(bar: number, offset: number, size: AccessSize): number {
    return this.fn.bars.find(({ index }) => index === bar)?.handler.read(offset, size) ?? NaN;
  }

  writeBar(bar: number, offset: number, size: AccessSize, value: number): void {
    this.fn.bars.find(({ index }) => index === bar)?.handler.write(offset, size, value);
  }

  /** All vendor-specific capabilities, in order. */
  caps(): Cap[] {
    const caps: Cap[] = [];
    const read = (at: number, size: AccessSize): number => this.fn.readConfig(at, size);
    for (let at = read(0x34, 1), n = 0; at !== 0 && n < 48; at = read(at + 1, 1), n++) {
      if (read(at, 1) !== 9) continue;
      caps.push({
        at,
        length: read(at + 2, 1),
        type: read(at + 3, 1),
        bar: read(at + 4, 1),
        id: read(at + 5, 1),
        offset: read(at + 8, 4),
        size: read(at + 12, 4),
      });
    }
    return caps;
  }

  cap(type: number): Cap {
    const cap = this.caps().find((candidate) => candidate.type === type);
    if (cap === undefined) throw new Error(`no capability of type ${type}`);
    return cap;
  }

  /** Capability offset of MSI-X. */
  msixCap(): number {
    for (let at = this.fn.readConfig(0x34, 1); at !== 0; at = this.fn.readConfig(at + 1, 1)) {
      if (this.fn.readConfig(at, 1) === 0x11) return at;
    }
    throw new Error("no MSI-X");
  }

  /** A register of the common configuration by its offset. */
  common(offset: number, size: AccessSize): number {
    const { bar, offset: base } = this.cap(1);
    return this.readBar(bar, base + offset, size);
  }

  setCommon(offset: number, size: AccessSize, value: number): void {
    const { bar, offset: base } = this.cap(1);
    this.writeBar(bar, base + offset, size, value);
  }

  /** Enables MSI-X with an unmasked message for each vector: its data is 0x40 + vector. */
  enableMsix(vectors: number): void {
    const at = this.msixCap();
    for (let vector = 0; vector < vectors; vector++) {
      this.writeBar(1, vector * 16, 4, 0xfee00000);
      this.writeBar(1, vector * 16 + 8, 4, 0x40 + vector);
      this.writeBar(1, vector * 16 + 12, 4, 0);
    }
    this.fn.writeConfig(4, 2, 4);
    this.fn.writeConfig(at + 2, 2, 0x8000);
  }

  /** Resets and negotiates `features`; the device is then ready for its virtqueues. */
  negotiate(features: bigint): void {
    this.setCommon(0x14, 1, 0);
    this.setCommon(0x14, 1, 1);
    this.setCommon(0x14, 1, 3);
    for (const select of [0, 1]) {
      this.setCommon(0x08, 4, select);
      this.setCommon(0x0c, 4, Number((features >> BigInt(32 * select)) & 0xffffffffn));
    }
    this.setCommon(0x14, 1, 11);
  }

  /** Puts a split virtqueue at `base` and enables it. */
  enableQueue(index: number, size: number, base: number): void {
    this.setCommon(0x16, 2, index);
    this.setCommon(0x18, 2, size);
    this.setCommon(0x20, 4, base);
    this.setCommon(0x28, 4, base + 0x1000);
    this.setCommon(0x30, 4, base + 0x2000);
    this.setCommon(0x1c, 2, 1);
  }

  /** Makes one buffer available in the split virtqueue at `base`: 4 readable bytes and 4 writable ones. */
  offer(base: number, data: number): void {
    const view = new DataView(this.ram.buffer);
    const index = view.getUint16(base + 0x1002, true);
    const size = 8;
    const buffer = base + 0x3000;
    view.setUint32(buffer, data, true);
    const descriptor = (i: number, address: number, flags: number, next: number): void => {
      view.setUint32(base + 16 * i, address, true);
      view.setUint32(base + 16 * i + 8, 4, true);
      view.setUint16(base + 16 * i + 12, flags, true);
      view.setUint16(base + 16 * i + 14, next, true);
    };
    descriptor(0, buffer, 1, 1);
    descriptor(1, buffer + 4, 2, 0);
    view.setUint16(base + 0x1004 + 2 * (index % size), 0, true);
    view.setUint16(base + 0x1002, index + 1, true);
  }

  usedIndex(base: number): number {
    return new DataView(this.ram.buffer).getUint16(base + 0x2002, true);
  }
}
