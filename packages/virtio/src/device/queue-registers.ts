import { VIRTQ_MAX_SIZE } from "../spec/virtqueue.ts";
import type { QueueStart, QueueState } from "../virtqueue/types.ts";

export type QueueArea = "descriptorArea" | "driverArea" | "deviceArea";

/**
 * What a running queue does with its chains: serves them, leaves them in the ring, or gives them back unserved ("process
 * the ring without causing any side effects").
 */
export type QueueMode = "serve" | "hold" | "discard";

/** What the registers of a virtqueue do to the device they belong to. */
export interface QueueRegistersHost {
  /** The driver enabled the queue: check its registers and make the ring. */
  enableQueue(queue: QueueRegisters): void;
  /** The driver took the queue back. */
  disableQueue(queue: QueueRegisters): void;
  /** Requests of a ring that was taken back are still being worked on. */
  queueBusy(queue: QueueRegisters): boolean;
  /** The transport takes the queue back when what is being worked on is done. */
  stopQueue(queue: QueueRegisters): Promise<QueueState | undefined>;
  modeChanged(queue: QueueRegisters): void;
  look(queue: QueueRegisters): boolean;
  rest(queue: QueueRegisters): boolean;
}

const HALF = 0x1_0000_0000;
const AREAS: readonly QueueArea[] = ["descriptorArea", "driverArea", "deviceArea"];
const ALL_ONES = 0xffff_ffffn;
/** Where an area has its low 32 bits; the high ones follow. */
const WORD: Readonly<Record<QueueArea, number>> = { descriptorArea: 0, driverArea: 2, deviceArea: 4 };

/** Registers of a virtqueue as a saved device has them: all 64 bits of each address. */
export interface QueueRegisterValues {
  readonly size: number;
  readonly descriptorArea: bigint;
  readonly driverArea: bigint;
  readonly deviceArea: bigint;
  readonly enabled: boolean;
}

/** One virtqueue as its registers describe it; the running ring is made from them when the driver enables it. */
export class QueueRegisters {
  readonly index: number;
  /** Largest Queue Size offered. A transport sets it when it is not the device's to say. */
  maxSize: number;
  /** Queue Size as the driver set it; checked when the queue is enabled. */
  size: number;
  /** Set by a transport before it enables a ring that ran before: where to go on. Goes with a reset of the registers. */
  start: QueueStart | undefined;
  /**
   * Set by a transport whose rings may be smaller than the device type was told: drivers go by limits of the device type
   * (`seg_max`) and exceed the Queue Size. Default: no chain is longer than the Queue Size.
   */
  longestChain = 0;
  #mode: QueueMode = "serve";
  readonly #host: QueueRegistersHost;
  /** The three addresses in halves, as the driver wrote them. */
  readonly #words = new Uint32Array(6);
  #enabled = false;

  constructor(index: number, maxSize: number, host: QueueRegistersHost) {
    this.index = index;
    this.maxSize = Math.min(maxSize, VIRTQ_MAX_SIZE);
    this.size = this.maxSize;
    this.#host = host;
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Guest-physical. An address of 2^53 and more is not exact, but still 2^53 or more, where no ring can be. */
  get descriptorArea(): number {
    return this.#address("descriptorArea");
  }

  set descriptorArea(address: number) {
    this.#place("descriptorArea", address);
  }

  get driverArea(): number {
    return this.#address("driverArea");
  }

  set driverArea(address: number) {
    this.#place("driverArea", address);
  }

  get deviceArea(): number {
    return this.#address("deviceArea");
  }

  set deviceArea(address: number) {
    this.#place("deviceArea", address);
  }

  /** Sets 32 bits of a 64-bit area address; all of them are kept, whatever they say. */
  setArea(area: QueueArea, half: "low" | "high", value: number): void {
    this.#words[WORD[area] + (half === "low" ? 0 : 1)] = value;
  }

  /** 32 bits of a 64-bit area address, unsigned. */
  readArea(area: QueueArea, half: "low" | "high"): number {
    return this.#words[WORD[area] + (half === "low" ? 0 : 1)] ?? 0;
  }

  /** What queue_reset and QueueReset read after a reset was asked for: true until no request can touch memory any more. */
  get resetting(): boolean {
    return this.#host.queueBusy(this);
  }

  /** queue_enable, QueueReady 1, a legacy page number that is not 0. */
  enable(): void {
    if (this.#enabled) return;
    this.#enabled = true;
    this.#host.enableQueue(this);
  }

  /** QueueReady 0, legacy page number 0. The registers stay. */
  disable(): void {
    if (!this.#enabled) return;
    this.#enabled = false;
    this.#host.disableQueue(this);
  }

  /** For a transport that can enable and disable rings that run. A device reset does not change it. */
  get mode(): QueueMode {
    return this.#mode;
  }

  set mode(mode: QueueMode) {
    if (mode === this.#mode) return;
    this.#mode = mode;
    this.#host.modeChanged(this);
  }

  /**
   * For a transport that looks at a running ring instead of waiting for available buffer notifications: serves what is
   * there, and asks for none until `rest`. False: nothing was there.
   */
  look(): boolean {
    return this.#host.look(this);
  }

  /** After `look`: asks for notifications, and serves what came before that. False: nothing did. */
  rest(): boolean {
    return this.#host.rest(this);
  }

  /**
   * Takes no more chains, waits for those that are being worked on, publishes them, and lets the ring go; the device
   * itself goes on. Resolves with where the ring stands, to be its `start` later, or with undefined when it did not run.
   */
  async stop(): Promise<QueueState | undefined> {
    if (!this.#enabled) return undefined;
    const state = await this.#host.stopQueue(this);
    this.disable();
    return state;
  }

  /** "The device MUST reset any state of a virtqueue to the default state" (Virtqueue Reset). */
  reset(): void {
    this.disable();
    this.clear();
  }

  /** Registers as after a device reset; the ring is the caller's affair. */
  clear(): void {
    this.#enabled = false;
    this.start = undefined;
    this.size = this.maxSize;
    this.#words.fill(0);
  }

  /** What `adopt` takes. */
  values(): QueueRegisterValues {
    return {
      size: this.size,
      descriptorArea: this.#exact("descriptorArea"),
      driverArea: this.#exact("driverArea"),
      deviceArea: this.#exact("deviceArea"),
      enabled: this.#enabled,
    };
  }

  /** Takes over saved registers that were checked. */
  adopt(saved: QueueRegisterValues): void {
    this.size = saved.size;
    for (const area of AREAS) {
      this.setArea(area, "low", Number(saved[area] & ALL_ONES));
      this.setArea(area, "high", Number(saved[area] >> 32n));
    }
    this.#enabled = saved.enabled;
  }

  #address(area: QueueArea): number {
    return this.readArea(area, "high") * HALF + this.readArea(area, "low");
  }

  #place(area: QueueArea, address: number): void {
    this.setArea(area, "low", address % HALF);
    this.setArea(area, "high", Math.floor(address / HALF));
  }

  #exact(area: QueueArea): bigint {
    return (BigInt(this.readArea(area, "high")) << 32n) | BigInt(this.readArea(area, "low"));
  }
}
