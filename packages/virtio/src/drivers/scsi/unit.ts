import type { CancelSignal } from "../../driver/virtqueue.ts";
import { VIRTIO_SCSI_S_BUSY, VIRTIO_SCSI_S_OK } from "../../spec/scsi.ts";
import { nextTurn } from "../../driver/turn.ts";
import type { ScsiAddress } from "./address.ts";
import {
  INQUIRY_LENGTH,
  READ_CAPACITY,
  READ_CAPACITY_10_LENGTH,
  READ_CAPACITY_16_LENGTH,
  SYNCHRONIZE_ALL,
  TEST_UNIT_READY,
  inquiry,
  parseInquiry,
  readBe16,
  readBe32,
  readBe64,
  readCapacity16,
  transfer,
  type ScsiInquiry,
} from "./cdb.ts";
import { SCSI_BUSY, SCSI_TASK_SET_FULL, SENSE_UNIT_ATTENTION, ScsiError } from "./error.ts";
import type { ScsiCommandOptions, ScsiRequests, ScsiResult } from "./requests.ts";

/** What READ CAPACITY says. */
export interface ScsiCapacity {
  /** Number of blocks. */
  readonly blocks: number;
  /** Bytes of one. */
  readonly blockSize: number;
}

/** How often a command is tried again after a unit attention, which comes once for each thing that happened. */
const ATTENTIONS = 8;
/** How often while the unit is busy, with a turn of the event loop in between. */
const BUSY_RETRIES = 1000;
const VPD_LENGTH = 255;
const VPD_SERIAL = 0x80;

/** A logical unit of a SCSI host device: a disk, a disc, or something else that takes commands. */
export class ScsiUnit implements ScsiAddress {
  readonly target: number;
  readonly lun: number;
  readonly inquiry: ScsiInquiry;
  readonly #requests: ScsiRequests;
  #capacity: ScsiCapacity | undefined;
  #changes = 0;

  constructor(requests: ScsiRequests, { target, lun }: ScsiAddress, found: ScsiInquiry) {
    this.#requests = requests;
    this.target = target;
    this.lun = lun;
    this.inquiry = found;
  }

  /** Asks a unit what it is. Rejects with a ScsiError when nobody answers. */
  static async inquire(
    requests: ScsiRequests,
    address: ScsiAddress,
    signal?: CancelSignal,
  ): Promise<ScsiInquiry> {
    const dataIn = new Uint8Array(INQUIRY_LENGTH);
    const options = withSignal({ dataIn }, signal);
    const { received } = await persist(() => requests.command(address, inquiry(INQUIRY_LENGTH), options));
    return parseInquiry(dataIn.subarray(0, received));
  }

  /** One command, sent once. Rejects with a ScsiError, which has the sense data, when it does not end in GOOD. */
  command(cdb: Uint8Array, options: ScsiCommandOptions = {}): Promise<ScsiResult> {
    return this.#requests.command(this, cdb, options);
  }

  /** Rejects with a ScsiError while the unit cannot be read: there is no disc in it. */
  async testReady(signal?: CancelSignal): Promise<void> {
    await this.#retry(TEST_UNIT_READY, withSignal({}, signal));
  }

  /** A page of vital product data, without its header of 4 bytes. */
  async productData(page: number, signal?: CancelSignal): Promise<Uint8Array> {
    const dataIn = new Uint8Array(VPD_LENGTH);
    const { received } = await this.#retry(inquiry(VPD_LENGTH, page), withSignal({ dataIn }, signal));
    return dataIn.subarray(4, Math.max(4, Math.min(received, 4 + readBe16(dataIn, 2))));
  }

  /** The serial number. Rejects with a ScsiError when the unit has none. */
  async serial(signal?: CancelSignal): Promise<string> {
    return String.fromCharCode(...(await this.productData(VPD_SERIAL, signal))).trim();
  }

  /** Asked once, and again after a change of the unit's parameters. */
  async capacity(signal?: CancelSignal): Promise<ScsiCapacity> {
    if (this.#capacity !== undefined) return this.#capacity;
    const changes = this.#changes;
    const capacity = await this.#readCapacity(signal);
    // What was forgotten meanwhile may be older than the change.
    if (changes === this.#changes) this.#capacity = capacity;
    return capacity;
  }

  /** The capacity is to be asked for again. */
  forgetCapacity(): void {
    this.#capacity = undefined;
    this.#changes++;
  }

  /** Fills `target`, a whole number of blocks, from block `lba` on. */
  async read(lba: number, target: Uint8Array, signal?: CancelSignal): Promise<void> {
    await this.#pieces(lba, target, signal, (cdb, dataIn) =>
      this.#retry(cdb, withSignal({ dataIn }, signal)),
    );
  }

  /** Writes whole blocks. They are durable after the next `flush`, or at once when the unit has no volatile cache. */
  async write(lba: number, source: Uint8Array, signal?: CancelSignal): Promise<void> {
    const send = (cdb: Uint8Array, dataOut: Uint8Array): Promise<ScsiResult> =>
      this.#retry(cdb, withSignal({ dataOut }, signal));
    await this.#pieces(lba, source, signal, send, true);
  }

  /** What was written before is durable when this resolves. */
  async flush(signal?: CancelSignal): Promise<void> {
    await this.#retry(SYNCHRONIZE_ALL, withSignal({}, signal));
  }

  async #readCapacity(signal: CancelSignal | undefined): Promise<ScsiCapacity> {
    const short = new Uint8Array(READ_CAPACITY_10_LENGTH);
    await this.#whole(READ_CAPACITY, short, signal);
    let last = readBe32(short, 0);
    let blockSize = readBe32(short, 4);
    if (last === 0xffff_ffff) {
      const long = new Uint8Array(READ_CAPACITY_16_LENGTH);
      await this.#whole(readCapacity16(), long, signal);
      last = readBe64(long, 0);
      blockSize = readBe32(long, 8);
    }
    if (blockSize === 0 || blockSize > this.#requests.dataSize || !Number.isSafeInteger(last + 1))
      throw new Error(`scsi: unusable capacity, last block ${last}, ${blockSize} bytes a block`);
    return { blocks: last + 1, blockSize };
  }

  /** A command whose answer must be complete. */
  async #whole(cdb: Uint8Array, dataIn: Uint8Array, signal: CancelSignal | undefined): Promise<void> {
    const { received } = await this.#retry(cdb, withSignal({ dataIn }, signal));
    if (received !== dataIn.length)
      throw new Error(`scsi: ${received} bytes came of an answer of ${dataIn.length}`);
  }

  /** Runs the pieces of a long transfer side by side, and waits for all of them even when one fails. */
  async #pieces(
    lba: number,
    data: Uint8Array,
    signal: CancelSignal | undefined,
    move: (cdb: Uint8Array, piece: Uint8Array) => Promise<ScsiResult>,
    write: boolean = false,
  ): Promise<void> {
    const { blocks, blockSize } = await this.capacity(signal);
    const count = data.length / blockSize;
    if (!Number.isInteger(count))
      throw new RangeError(`scsi: ${data.length} bytes are no whole number of blocks of ${blockSize}`);
    if (!Number.isSafeInteger(lba) || lba < 0 || lba + count > blocks)
      throw new RangeError(`scsi: ${count} blocks at ${lba} do not fit ${blocks}`);
    const step = Math.max(1, Math.floor(this.#requests.dataSize / blockSize));
    const starts = Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
    const results = await Promise.allSettled(
      starts.map(async (start) => {
        const end = Math.min(count, start + step);
        const piece = data.subarray(start * blockSize, end * blockSize);
        const { residual } = await move(transfer(write, lba + start, end - start), piece);
        if (residual !== 0) throw new Error(`scsi: ${residual} bytes at block ${lba + start} were not moved`);
      }),
    );
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  #retry(cdb: Uint8Array, options: ScsiCommandOptions): Promise<ScsiResult> {
    return persist(() => this.command(cdb, options));
  }
}

/** Sends a command again when a unit attention or a busy unit kept it from being done. */
export async function persist(send: () => Promise<ScsiResult>): Promise<ScsiResult> {
  let attentions = 0;
  let busy = 0;
  for (;;) {
    try {
      return await send();
    } catch (error) {
      if (isAttention(error) && attentions++ < ATTENTIONS) continue;
      if (!isBusy(error) || busy++ >= BUSY_RETRIES) throw error;
      await nextTurn();
    }
  }
}

function withSignal(options: ScsiCommandOptions, signal: CancelSignal | undefined): ScsiCommandOptions {
  return signal === undefined ? options : { ...options, signal };
}

function isAttention(error: unknown): boolean {
  return (
    error instanceof ScsiError &&
    error.response === VIRTIO_SCSI_S_OK &&
    error.sense?.key === SENSE_UNIT_ATTENTION
  );
}

function isBusy(error: unknown): boolean {
  if (!(error instanceof ScsiError)) return false;
  const { response, status } = error;
  if (response !== VIRTIO_SCSI_S_OK) return response === VIRTIO_SCSI_S_BUSY;
  return status === SCSI_BUSY || status === SCSI_TASK_SET_FULL;
}
