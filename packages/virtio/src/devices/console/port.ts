import type { CharacterBackend, CharacterPort } from "../../backends/character.ts";
import type { DeviceContext, RunningQueue } from "../../device/device.ts";
import { SegmentReader, SegmentWriter } from "../../memory/cursor.ts";
import { consolePortQueue } from "../../spec/console.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import { checkReceiveBuffer, checkTransmitBuffer } from "./rules.ts";

/** Bytes of emergency writes that wait for the backend. */
export const MAX_URGENT_BYTES = 4096;

/** Bytes that a backend is given at once, at most: a segment may have 4 GiB, and writing takes its time. */
const MAX_PIECE = 65_536;

/** What a port tells its device. */
export interface PortListener {
  hostOpenChanged(port: Port): void;
  sizeChanged(port: Port): void;
}

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/**
 * One port: its pair of queues on one side, its backend on the other. Bytes to the backend go straight from
 * guest memory, a segment or 64 KiB of it at a time; when it takes less, that buffer goes back into the ring until it is ready. Bytes to the
 * guest are never kept either: the backend is told how many were taken.
 */
export class Port implements CharacterPort {
  readonly id: number;
  /** A console port (hvc) and not a generic serial port. */
  readonly console: boolean;
  /** UTF-8. */
  readonly name: Uint8Array;
  readonly backend: CharacterBackend;
  readonly #listener: PortListener;
  /** The driver was sent a DEVICE_ADD. */
  announced = false;
  /** The driver sent a PORT_READY. */
  driverReady = false;
  /** The state of the host end that the driver was told last. */
  toldOpen = false;
  #size: TerminalSize | undefined;
  #hostOpen = false;
  #guestOpen = false;
  /** The backend was told that there is no room, and waits for `guestReady`. */
  #starved = false;
  /** The backend took less than it was given, and will call `ready`. */
  #blocked = false;
  #receiving = false;
  #busy = false;
  #again = false;
  /** Bytes of the next transmit buffer that the backend has already. */
  #taken = 0;
  /** Emergency writes that the backend did not take at once. */
  readonly #urgent: number[] = [];
  #context: DeviceContext | undefined;
  #reader: SegmentReader | undefined;
  #writer: SegmentWriter | undefined;

  constructor(
    id: number,
    console: boolean,
    name: Uint8Array,
    backend: CharacterBackend,
    listener: PortListener,
  ) {
    this.id = id;
    this.console = console;
    this.name = name;
    this.backend = backend;
    this.#listener = listener;
  }

  get hostOpen(): boolean {
    return this.#hostOpen;
  }

  get guestOpen(): boolean {
    return this.#guestOpen;
  }

  get size(): TerminalSize | undefined {
    return this.#size;
  }

  /** Bytes of the next transmit buffer that went to the backend before it had enough. */
  get taken(): number {
    return this.#taken;
  }

  /** Connects the backend; it may call back at once. */
  plug(): void {
    this.#hostOpen = this.backend.open ?? true;
    this.backend.attach(this);
  }

  unplug(): void {
    this.#discard();
    this.backend.attach(undefined);
    this.stop();
  }

  start(context: DeviceContext): void {
    this.#context = context;
    this.#reader = new SegmentReader(context.memory);
    this.#writer = new SegmentWriter(context.memory);
    this.transmit();
  }

  /** The driver's part is gone. */
  stop(): void {
    this.#context = undefined;
    this.#taken = 0;
    this.announced = this.driverReady = this.toldOpen = false;
    this.setGuestOpen(false);
  }

  /** After a reset of the transmitq (0), or as it was saved. */
  restoreTaken(bytes: number): void {
    this.#taken = bytes;
  }

  restoreSize(size: TerminalSize | undefined): void {
    this.#size = size;
  }

  setGuestOpen(open: boolean): void {
    if (open === this.#guestOpen) return;
    this.#guestOpen = open;
    this.backend.guestOpen?.(open);
    this.refilled();
  }

  /** The driver gave receive buffers. */
  refilled(): void {
    if (!this.#starved || !this.#guestOpen || this.#receiving) return;
    this.#starved = false;
    this.backend.guestReady?.();
  }

  receive(bytes: Uint8Array): number {
    if (this.#receiving) return 0;
    this.#receiving = true;
    try {
      const taken = this.#deliver(bytes);
      if (taken < bytes.length) this.#starved = true;
      return taken;
    } finally {
      this.#receiving = false;
    }
  }

  /** The driver may give more buffers while it is notified: goes on until there are none. */
  #deliver(bytes: Uint8Array): number {
    const context = this.#context;
    const writer = this.#writer;
    const index = consolePortQueue(this.id);
    let taken = 0;
    for (;;) {
      const queue = this.#guestOpen ? context?.queue(index) : undefined;
      if (context === undefined || queue === undefined || writer === undefined) return taken;
      const before = taken;
      while (taken < bytes.length) {
        const chain = queue.popAvailable();
        if (chain === undefined || !checkReceiveBuffer(chain, index, context)) break;
        const count = writer.start(chain.writable).copy(taken === 0 ? bytes : bytes.subarray(taken));
        queue.addUsed(chain, count);
        taken += count;
      }
      if (taken === before) return taken;
      queue.flush();
    }
  }

  ready(): void {
    this.#blocked = false;
    this.transmit();
  }

  setOpen(open: boolean): void {
    if (open === this.#hostOpen) return;
    this.#hostOpen = open;
    this.#blocked = false;
    this.#listener.hostOpenChanged(this);
    this.transmit();
  }

  resize(columns: number, rows: number): void {
    const size = { columns: clamp16(columns), rows: clamp16(rows) };
    if (this.#size?.columns === size.columns && this.#size.rows === size.rows) return;
    this.#size = size;
    this.#listener.sizeChanged(this);
  }

  /** One byte outside any queue ("If VIRTIO_CONSOLE_F_EMERG_WRITE is set …"). Lost when there is no room at all. */
  emergency(byte: number): void {
    if (this.#urgent.length >= MAX_URGENT_BYTES) return;
    this.#urgent.push(byte);
    this.transmit();
  }

  /** Moves what the driver offered to the backend, until the ring is empty or the backend has enough. */
  transmit(): void {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    try {
      do {
        this.#again = false;
        if (!this.#blocked) this.#pump();
      } while (this.#again);
    } finally {
      this.#busy = false;
    }
  }

  #pump(): void {
    if (this.#urgent.length > 0)
      this.#urgent.splice(
        0,
        this.#hostOpen ? this.#write(Uint8Array.from(this.#urgent)) : this.#urgent.length,
      );
    const context = this.#context;
    const index = consolePortQueue(this.id) + 1;
    const queue = context?.queue(index);
    if (context === undefined || queue === undefined) return;
    let used = false;
    while (!this.#blocked) {
      const chain = queue.popAvailable();
      if (chain === undefined || !checkTransmitBuffer(chain, index, context)) break;
      if (!this.#pass(chain, context, queue)) {
        queue.unpop(chain);
        break;
      }
      this.#taken = 0;
      queue.addUsed(chain, 0);
      used = true;
    }
    // Linux waits in put_chars until the buffer is used, and would be interrupted for nothing.
    if (used) queue.flushLazily();
  }

  /** Hands one buffer on, from where it was left off. False: not all of it, for the backend has enough or the time is used up. */
  #pass(chain: DescriptorChain, context: DeviceContext, queue: RunningQueue): boolean {
    const reader = this.#reader;
    if (reader === undefined) return false;
    reader.start(chain.readable);
    reader.skip(this.#taken);
    for (;;) {
      const piece = reader.next(MAX_PIECE);
      if (piece === undefined || !this.#hostOpen) return true;
      const taken = this.#write(piece);
      if (!context.live) return false;
      this.#taken += taken;
      if (taken < piece.length && this.#hostOpen) return false;
      if (!queue.worked(taken) && reader.remaining > 0) return false;
    }
  }

  /** Blocked from a short write on, unless `ready` was called during the write: then it is tried again right away. */
  #write(bytes: Uint8Array): number {
    this.#blocked = true;
    const taken = Math.max(0, Math.min(bytes.length, this.backend.write(bytes)));
    if (taken === bytes.length) this.#blocked = false;
    return taken;
  }

  /** Completes what the driver offered, unread: the port goes away, and the driver may wait for it. */
  #discard(): void {
    this.#hostOpen = false;
    this.#blocked = false;
    this.transmit();
  }
}

/** Takes every buffer of a transmitq that no port stands behind, so that no driver waits for ever. */
export function discardTransmitted(queue: RunningQueue): void {
  let used = false;
  for (let chain = queue.popAvailable(); chain !== undefined; chain = queue.popAvailable()) {
    queue.addUsed(chain, 0);
    used = true;
  }
  if (used) queue.flush();
}

function clamp16(value: number): number {
  return Math.max(0, Math.min(0xffff, Math.trunc(value)));
}
