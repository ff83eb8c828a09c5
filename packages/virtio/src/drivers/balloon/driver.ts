import { flagOptions, wholeOptions } from "../../check-option.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import { nextTurn } from "../../driver/turn.ts";
import { Turns } from "../../driver/turns.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal, DriverVirtqueue } from "../../driver/virtqueue.ts";
import { readLe32, writeLe32 } from "../../memory/bytes.ts";
import type { Gpa, Segment } from "../../memory/guest-memory.ts";
import {
  VIRTIO_BALLOON_CONFIG as CONFIG,
  VIRTIO_BALLOON_DEFLATEQ,
  VIRTIO_BALLOON_FREE_PAGE_VQ,
  VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_F_PAGE_REPORTING,
  VIRTIO_BALLOON_F_STATS_VQ,
  VIRTIO_BALLOON_INFLATEQ,
  VIRTIO_BALLOON_PAGE_BYTES as PAGE,
  VIRTIO_BALLOON_REPORTING_VQ,
  VIRTIO_BALLOON_STATSQ,
} from "../../spec/balloon.ts";
import { featureBits, hasFeature } from "../../spec/core.ts";
import { VIRTIO_ID_BALLOON } from "../../spec/ids.ts";
import { FreePageHinting, type HintSource } from "./hinting.ts";
import { PAGES_A_REQUEST, PageLists, takePages } from "./pages.ts";
import { StatisticsSender, type BalloonStatistics, type StatisticsSource } from "./statistics.ts";

export interface BalloonDriverOptions extends DriverOpenOptions {
  /** Go where the device wants the balloon, without being told. Default true. */
  readonly follow?: boolean;
  /** Pages that may be in the balloon, 0 or more. Default 65536, which is 256 MiB. */
  readonly maxPages?: number;
  /** What the device is told about memory, when it asks. Default nothing. */
  readonly statistics?: StatisticsSource;
  /** What free pages are filled with, as 32 bits, and so found again after they come back. Default: nothing. */
  readonly poison?: number;
  /** Memory that need not be migrated. Default none. */
  readonly hints?: HintSource;
}

const ALWAYS: bigint = featureBits(
  VIRTIO_BALLOON_F_MUST_TELL_HOST,
  VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
  VIRTIO_BALLOON_F_PAGE_REPORTING,
);
const TYPE = { id: VIRTIO_ID_BALLOON, name: "memory balloon" };
/** Queues that come with a feature, in the order of their indices. */
const OPTIONAL = [
  { feature: VIRTIO_BALLOON_F_STATS_VQ, index: VIRTIO_BALLOON_STATSQ },
  { feature: VIRTIO_BALLOON_F_FREE_PAGE_HINT, index: VIRTIO_BALLOON_FREE_PAGE_VQ },
  { feature: VIRTIO_BALLOON_F_PAGE_REPORTING, index: VIRTIO_BALLOON_REPORTING_VQ },
];
/** Pieces of memory in one report. */
const PIECES_A_REPORT = 32;

/**
 * Driver of a memory balloon ("Traditional Memory Balloon Device"). Its pages come out of the DMA memory of the
 * transport; all counts are in pages of 4096 bytes.
 */
export class BalloonDriver {
  readonly session: DriverSession;
  /** Called when `target` or `actual` changed. */
  onChange: (() => void) | undefined;
  readonly #follow: boolean;
  readonly #maxPages: number;
  readonly #poison: number | undefined;
  readonly #inflate: DriverVirtqueue;
  readonly #deflate: DriverVirtqueue;
  readonly #reporting: DriverVirtqueue | undefined;
  readonly #lists: PageLists;
  readonly #statistics: StatisticsSender | undefined;
  readonly #hinting: FreePageHinting | undefined;
  /** In the balloon, the last one first to come back. */
  readonly #pages: Gpa[] = [];
  /** Not acknowledged yet. */
  #offered: readonly Gpa[] = [];
  readonly #turns = new Turns();
  #following = false;
  #closed: Promise<void> | undefined;
  /** The direction that `adjust` went last. */
  #grows = true;
  /** The device spoke again meanwhile. */
  #again = false;

  private constructor(session: DriverSession, options: BalloonDriverOptions, first: BalloonStatistics) {
    this.session = session;
    this.#follow = options.follow ?? true;
    this.#maxPages = options.maxPages ?? 65_536;
    this.#poison = session.has(VIRTIO_BALLOON_F_PAGE_POISON) ? options.poison : undefined;
    const { memory } = session;
    this.#inflate = session.addQueue(VIRTIO_BALLOON_INFLATEQ, 16);
    this.#deflate = session.addQueue(VIRTIO_BALLOON_DEFLATEQ, 16);
    const { statistics, hints } = options;
    if (session.has(VIRTIO_BALLOON_F_STATS_VQ) && statistics !== undefined) {
      const queue = session.addQueue(queueIndex(session, VIRTIO_BALLOON_F_STATS_VQ), 16);
      this.#statistics = new StatisticsSender(queue, memory, statistics, first);
    }
    if (session.has(VIRTIO_BALLOON_F_FREE_PAGE_HINT) && hints !== undefined) {
      const queue = session.addQueue(queueIndex(session, VIRTIO_BALLOON_F_FREE_PAGE_HINT), 16);
      this.#hinting = new FreePageHinting(session, queue, hints);
    }
    if (session.has(VIRTIO_BALLOON_F_PAGE_REPORTING))
      this.#reporting = session.addQueue(queueIndex(session, VIRTIO_BALLOON_F_PAGE_REPORTING), 64);
    this.#lists = new PageLists(memory);
    // "The driver MUST populate the poison_val configuration data before setting the DRIVER_OK bit."
    if (this.#poison !== undefined) writeField(session, CONFIG.poison_val, this.#poison);
    session.onConfigChange = () => this.#changed();
    session.ready();
    this.#changed();
  }

  /** Takes the device over. Throws when it is not a memory balloon, or refuses. */
  static open(transport: DriverTransport, options: BalloonDriverOptions = {}): Promise<BalloonDriver> {
    // What is not used is not accepted: "The driver SHOULD clear the VIRTIO_BALLOON_F_PAGE_POISON flag if […]".
    let wanted = ALWAYS;
    if (options.statistics !== undefined) wanted |= featureBits(VIRTIO_BALLOON_F_STATS_VQ);
    if (options.poison !== undefined) wanted |= featureBits(VIRTIO_BALLOON_F_PAGE_POISON);
    if (options.hints !== undefined) wanted |= featureBits(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    // "If the driver is expecting the pages to retain some initialized value, it MUST NOT accept […]"
    const dependencies =
      options.poison === undefined
        ? []
        : [{ feature: VIRTIO_BALLOON_F_PAGE_REPORTING, needs: [[VIRTIO_BALLOON_F_PAGE_POISON]] }];
    const { ring, signal } = options;
    return DriverSession.start(
      transport,
      {
        type: TYPE,
        config: CONFIG.free_page_hint_cmd_id,
        wanted,
        dependencies,
        ring,
        signal,
        check: () => checkOptions(options),
      },
      async (session) => new BalloonDriver(session, options, (await options.statistics?.()) ?? {}),
    );
  }

  /** Pages that the device wants in the balloon. */
  get target(): number {
    return readLe32(this.session.readConfig(CONFIG.num_pages, 4), 0);
  }

  /** Pages in the balloon. */
  get actual(): number {
    return this.#pages.length;
  }

  /**
   * Puts `count` more pages into the balloon and resolves with how many there was memory for. Rejects with a RangeError
   * when the device does not want that many.
   */
  inflate(count: number, signal?: CancelSignal): Promise<number> {
    return this.#inTurn(async () => {
      if (this.actual + count > this.target)
        throw new RangeError(
          `balloon: ${this.actual} and ${count} pages are more than the ${this.target} wanted`,
        );
      return this.#grow(count);
    }, signal);
  }

  /**
   * Takes `count` pages back. Below what the device wants it rejects with a RangeError, unless
   * VIRTIO_BALLOON_F_DEFLATE_ON_OOM was negotiated; the balloon then follows the device no more until it next speaks.
   */
  deflate(count: number, signal?: CancelSignal): Promise<void> {
    return this.#inTurn(async () => {
      if (count > this.actual) throw new RangeError(`balloon: there are ${this.actual} pages, not ${count}`);
      if (this.actual - count < this.target && !this.session.has(VIRTIO_BALLOON_F_DEFLATE_ON_OOM))
        throw new RangeError(`balloon: the device wants ${this.target} of the ${this.actual} pages to stay`);
      await this.#shrink(count);
    }, signal);
  }

  /** Goes where the device wants the balloon, as far as memory and `maxPages` allow. Resolves with `actual`. */
  adjust(signal?: CancelSignal): Promise<number> {
    return this.#inTurn(async () => {
      for (;;) {
        const target = Math.min(this.target, this.#maxPages);
        const step = Math.min(Math.abs(target - this.actual), PAGES_A_REQUEST);
        if (step === 0) break;
        const grows = target > this.actual;
        if (grows !== this.#grows) {
          // A device that changes its mind with every step leaves others their turns.
          this.#grows = grows;
          await nextTurn();
          continue;
        }
        if (target < this.actual) await this.#shrink(step);
        else if ((await this.#grow(step)) < step) break;
      }
      return this.actual;
    }, signal);
  }

  /**
   * Tells the device of memory that is free; it may be used again when this resolves, and what was in it is lost, or it
   * is filled with the poison. Rejects without VIRTIO_BALLOON_F_PAGE_REPORTING.
   */
  async report(free: readonly Segment[], signal?: CancelSignal): Promise<void> {
    const queue = this.#reporting;
    if (queue === undefined) throw new Error("balloon: VIRTIO_BALLOON_F_PAGE_REPORTING was not negotiated");
    // "[…] MUST initialize all free pages with poison_val before reporting them."
    for (const { gpa, length } of free) this.#fill(gpa, length);
    const step = Math.min(PIECES_A_REPORT, queue.size);
    for (let at = 0; at < free.length; at += step) await queue.request([], free.slice(at, at + step), signal);
  }

  /** Resets the device, which empties the balloon, and gives all memory back. */
  async close(signal?: CancelSignal): Promise<void> {
    this.#closed ??= this.#close();
    void this.session.close(signal).catch(() => undefined);
    await this.#closed;
  }

  async #close(): Promise<void> {
    await this.session.close();
    await this.#turns.take(() => Promise.resolve());
    this.#free([...this.#pages.splice(0), ...this.#offered]);
    this.#statistics?.end();
    this.#hinting?.end();
  }

  /** The number of pages that there was memory for. */
  async #grow(count: number): Promise<number> {
    const { memory } = this.session.transport;
    let grown = 0;
    while (grown < count) {
      const room = Math.min(count - grown, PAGES_A_REQUEST, this.#maxPages - this.actual);
      const pages = takePages(memory, room);
      if (pages.length === 0) break;
      // They are the device's from here on, even if it never answers: only a reset gets them back.
      this.#offered = pages;
      await this.#lists.send(this.#inflate, pages);
      this.#offered = [];
      this.#pages.push(...pages);
      grown += pages.length;
      this.#tell();
    }
    return grown;
  }

  async #shrink(count: number): Promise<void> {
    for (let left = count; left > 0;) {
      const pages = this.#pages.slice(-Math.min(left, PAGES_A_REQUEST));
      // Used again only when the device has said so, whether or not it must be told.
      await this.#lists.send(this.#deflate, pages);
      this.#pages.length -= pages.length;
      this.#free(pages);
      left -= pages.length;
      this.#tell();
    }
  }

  #free(pages: readonly Gpa[]): void {
    for (const page of pages) {
      // "The driver MUST initialize the deflated pages with poison_val when they are reused"
      this.#fill(page, PAGE);
      this.session.transport.memory.free(page, PAGE);
    }
  }

  #fill(gpa: Gpa, length: number): void {
    if (this.#poison === undefined) return;
    const bytes = this.session.transport.memory.view(gpa, length);
    for (let at = 0; at < length; at++) bytes[at] = this.#poison >>> (8 * (at & 3));
  }

  /** "The driver MUST update actual after changing the number of pages in the balloon." */
  #tell(): void {
    if (this.session.failure !== undefined) return;
    writeField(this.session, CONFIG.actual, this.actual);
    this.onChange?.();
  }

  #changed(): void {
    this.onChange?.();
    this.#hinting?.follow();
    this.#again = true;
    if (this.#follow && !this.#following) void this.#followDevice();
  }

  async #followDevice(): Promise<void> {
    this.#following = true;
    try {
      while (this.#again) {
        this.#again = false;
        await this.adjust();
        if (this.#again) await nextTurn();
      }
    } catch (error) {
      this.session.fail(error);
    }
    this.#following = false;
  }

  /** What changes the balloon happens one after the other, and only while there is a device. */
  #inTurn<T>(work: () => Promise<T>, signal: CancelSignal | undefined): Promise<T> {
    return this.#turns.take(() => {
      const { failure } = this.session;
      return failure === undefined ? work() : Promise.reject(failure);
    }, signal);
  }
}

/**
 * Where the queue of a feature is. Devices disagree about queues that do not exist: by the spec's list they leave a gap,
 * in QEMU and Linux those after them move up. Where the last one is tells which of the two it is.
 */
/** Throws a RangeError or TypeError that names the option. */
function checkOptions(options: BalloonDriverOptions): void {
  flagOptions("balloon", options, ["follow"]);
  wholeOptions("balloon", options, { maxPages: [0, Number.MAX_SAFE_INTEGER], poison: [0, 0xffff_ffff] });
  if (options.statistics !== undefined && typeof options.statistics !== "function")
    throw new TypeError("balloon: statistics must be a function");
}

function queueIndex(session: DriverSession, feature: number): number {
  const { transport } = session;
  const offered = transport.readDeviceFeatures();
  const there = OPTIONAL.filter((each) => hasFeature(offered, each.feature));
  const at = there.findIndex((each) => each.feature === feature);
  const gaps = transport.queueMaxSize(there.at(-1)?.index ?? 0) !== 0;
  return gaps ? (there[at]?.index ?? 0) : VIRTIO_BALLOON_STATSQ + at;
}

function writeField(session: DriverSession, at: number, value: number): void {
  const bytes = new Uint8Array(4);
  writeLe32(bytes, 0, value);
  session.writeConfig(at, bytes);
}
