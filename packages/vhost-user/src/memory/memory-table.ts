import type { Gpa, GuestMemory } from "virtio/memory/guest-memory";
import { VirtioFault } from "virtio/fault";
import type { Descriptor } from "../native/descriptor.ts";
import { fileExtent } from "../native/memfd.ts";
import { PeerError } from "../protocol/errors.ts";
import { IOTLB_READ, IOTLB_WRITE, MAX_MEM_SLOTS } from "../protocol/numbers.ts";
import type { RegionDescription } from "../protocol/payloads.ts";
import type { DirtyLog } from "./dirty-log.ts";
import type { Iotlb } from "./iotlb.ts";
import { PeerFiles } from "./peer-file.ts";
import { MemoryRegion, NO_WINDOW, WINDOWS, type MappedWindow, type WindowSizes } from "./region.ts";
import { RegionFile } from "./region-file.ts";

export interface MemoryTableOptions {
  /** Where files of the front-end come in; default: also those that can be shrunk. */
  readonly files?: PeerFiles;
  /** How regions are cut; default `WINDOWS`. */
  readonly windows?: WindowSizes;
  /** Windows that are mapped at most; default `MAX_WINDOWS`. */
  readonly maxWindows?: number;
}

/**
 * 4 TiB of guest memory that devices have touched. Each window takes up to three of the 65530 mappings that Linux lets a process have,
 * and a guest's address space may be as large as a sparse file pretends.
 */
export const MAX_WINDOWS = 4096;

/** Rings are read through 32-bit views: an address and its place in the buffer must agree in their low bits. */
const ALIGNMENT = 8;

/**
 * The memory of a front-end's guest: regions that come and go while rings run. Nothing of them is mapped before it is touched, and
 * then a window of it. A view that was taken before its region went shows private zeroes.
 */
export class MemoryTable implements GuestMemory {
  /** Mappings stay where they are while requests are worked on: I/O may go straight into views of it. */
  readonly pinned = true;
  /** Where writes are noted, while the front-end asks for it. */
  log: DirtyLog | undefined;
  /** A page was written that was not noted before. */
  onLogged: (() => void) | undefined;
  /** An address has no translation. True: it was asked for, and the access can be tried again later. */
  onMiss: ((iova: number) => boolean) | undefined;
  /** Memory that is the guest's cannot be mapped: for whoever runs this process. Said once a region. */
  onUnmappable: ((error: Error) => void) | undefined;
  readonly #files: PeerFiles;
  readonly #windows: WindowSizes;
  readonly #maxWindows: number;
  /** By guest address. */
  #regions: readonly MemoryRegion[] = [];
  /** How often a region was added again. */
  readonly #more = new WeakMap<MemoryRegion, number>();
  readonly #unmappable = new WeakSet<MemoryRegion>();
  /** The last ones that were used: most accesses are to the same as the one before. */
  #last: MemoryRegion | undefined;
  #window: MappedWindow = NO_WINDOW;
  #before: MappedWindow = NO_WINDOW;
  #iotlb: Iotlb | undefined;
  #epoch = 0;
  /** The last look at translations ended at one without the permission. */
  #forbidden = false;
  /** Where the last look at translations led to. */
  #target = 0;

  constructor(options: MemoryTableOptions = {}) {
    this.#files = options.files ?? new PeerFiles(false);
    this.#windows = options.windows ?? WINDOWS;
    this.#maxWindows = options.maxWindows ?? MAX_WINDOWS;
  }

  get epoch(): number {
    return this.#epoch;
  }

  get regions(): readonly MemoryRegion[] {
    return this.#regions;
  }

  /** Bytes of guest memory that were touched, by windows. */
  get mappedBytes(): number {
    return this.#regions.reduce((sum, region) => sum + region.mappedBytes, 0);
  }

  /** Writes must be told again when a chain is used: the front-end may have read the page in between. */
  get logging(): boolean {
    return this.log !== undefined;
  }

  /** VIRTIO_F_ACCESS_PLATFORM: addresses are I/O virtual ones. */
  get iotlb(): Iotlb | undefined {
    return this.#iotlb;
  }

  set iotlb(iotlb: Iotlb | undefined) {
    if (iotlb === this.#iotlb) return;
    this.#iotlb = iotlb;
    this.#epoch++;
  }

  /** Translations changed: views by these addresses are stale. */
  translationsChanged(): void {
    this.#epoch++;
  }

  /**
   * Another table in place of this one. What is in both stays mapped. Descriptors stay the caller's. Throws a PeerError
   * and changes nothing when it cannot be.
   */
  replace(table: readonly { readonly region: RegionDescription; readonly descriptor: Descriptor }[]): void {
    checkOverlaps(table.map(({ region }) => region));
    const old = new Set(this.#regions);
    const next: MemoryRegion[] = [];
    const fresh: MemoryRegion[] = [];
    try {
      for (const { region, descriptor } of table) {
        const { identity } = fileExtent(descriptor.fd);
        let kept = [...old].find((other) => other.file.identity === identity && sameRegion(other, region));
        if (kept !== undefined) old.delete(kept);
        else fresh.push((kept = this.#open(region, descriptor, [...this.#regions, ...fresh])));
        next.push(kept);
      }
    } catch (error) {
      for (const region of fresh) region.close();
      throw error;
    }
    if (old.size === 0 && fresh.length === 0) return;
    this.#adopt(next);
    for (const region of old) region.close();
  }

  /**
   * One region more. Throws a PeerError and changes nothing when it cannot be. The same one may come again: QEMU 7.2 adds
   * and removes every region once for each pair of queues of a network device.
   */
  add(region: RegionDescription, descriptor: Descriptor): void {
    const { identity } = fileExtent(descriptor.fd);
    const same = this.#regions.find((other) => other.file.identity === identity && sameRegion(other, region));
    if (same !== undefined) {
      this.#more.set(same, (this.#more.get(same) ?? 0) + 1);
      return;
    }
    if (this.#regions.length >= MAX_MEM_SLOTS) throw new PeerError("no memory slot is left");
    checkOverlaps([...this.#regions, region]);
    this.#adopt([...this.#regions, this.#open(region, descriptor, this.#regions)]);
  }

  /** The region with these addresses and this size goes. Throws a PeerError when there is none. */
  remove({ guestAddress, userAddress, size }: RegionDescription): void {
    const gone = this.#regions.find(
      (region) =>
        region.guestAddress === guestAddress && region.userAddress === userAddress && region.size === size,
    );
    if (gone === undefined) throw new PeerError(`no memory region at ${guestAddress} to remove`);
    const more = this.#more.get(gone) ?? 0;
    if (more > 0) {
      this.#more.set(gone, more - 1);
      return;
    }
    this.#adopt(this.#regions.filter((region) => region !== gone));
    gone.close();
  }

  /** Nothing is mapped any more. */
  clear(): void {
    const old = this.#regions;
    this.#adopt([]);
    for (const region of old) region.close();
    this.log?.close();
    this.log = undefined;
    this.iotlb = undefined;
  }

  view(gpa: Gpa, length: number): Uint8Array {
    const address = this.#iotlb === undefined ? gpa : this.#translate(gpa, length);
    let window = this.#window;
    let start = address - window.gpa;
    if (start < 0 || start + length > window.length) {
      window = this.#touch(address) ?? NO_WINDOW;
      start = address - window.gpa;
      // An address without a translation is -1.
      if (start < 0 || start + length > window.length) throw this.#unbacked(gpa, length, address);
    }
    return new Uint8Array(window.buffer, window.offset + start, length);
  }

  /** What it says can be seen is mapped: `view` of it does not fail. */
  contiguous(gpa: Gpa, length: number, writable = false): number {
    if (this.#iotlb !== undefined)
      return this.#translatedRun(gpa, length, writable ? IOTLB_WRITE : IOTLB_READ);
    let window = this.#window;
    let start = gpa - window.gpa;
    if (start < 0 || start >= window.span) {
      const touched = this.#touch(gpa);
      if (touched === undefined) return 0;
      window = touched;
      start = gpa - window.gpa;
    }
    return Math.min(length, window.length - start);
  }

  wrote(gpa: Gpa, length: number): void {
    const { log } = this;
    if (log === undefined) return;
    const address = this.#iotlb === undefined ? gpa : this.#translate(gpa, length);
    if (address >= 0 && log.mark(address, length)) this.onLogged?.();
  }

  /** Whether what failed with this fault may be tried again when the front-end has answered. */
  awaits(fault: VirtioFault): boolean {
    const { value } = fault;
    if (this.#iotlb === undefined || value === undefined) return false;
    // An access that the translation forbids will not be allowed by asking again.
    if (this.#forbidden) return false;
    // What is missing may be further on than where the range starts. Where nothing is, two places are not one: that stays so.
    const missing = value + this.#translated(value, Number.MAX_SAFE_INTEGER, 0);
    if (this.#iotlb.find(missing) !== undefined) return false;
    return this.onMiss?.(missing) ?? false;
  }

  /** The guest address of a user address of the front-end, or undefined when it is in no region. */
  guestAddress(userAddress: number): Gpa | undefined {
    const region = this.#regionOfUser(userAddress);
    return region && userAddress - region.userAddress + region.guestAddress;
  }

  /** Throws a PeerError for what can be no memory. `others`: whose files are open already. */
  #open(region: RegionDescription, descriptor: Descriptor, others: readonly MemoryRegion[]): MemoryRegion {
    const { identity } = this.#files.check("memory region", descriptor, region.mmapOffset, region.size);
    if ((region.mmapOffset - region.guestAddress) % ALIGNMENT !== 0)
      throw new PeerError("memory region lies askew in its file");
    const open = others.find(({ file }) => file.identity === identity)?.file;
    return new MemoryRegion(region, open ?? new RegionFile(descriptor, identity), this.#windows);
  }

  #adopt(regions: readonly MemoryRegion[]): void {
    this.#regions = [...regions].sort((a, b) => a.guestAddress - b.guestAddress);
    this.#last = undefined;
    this.#window = NO_WINDOW;
    this.#before = NO_WINDOW;
    this.#epoch++;
  }

  /** The window that is an address's own, mapped. Undefined: it is no guest memory, or cannot be mapped. */
  #touch(gpa: Gpa): MappedWindow | undefined {
    const before = this.#before;
    const start = gpa - before.gpa;
    let window: MappedWindow | undefined = before;
    if (start < 0 || start >= before.span) {
      const region = this.#find(gpa);
      if (region === undefined) return undefined;
      window = region.window(gpa) ?? this.#map(region, gpa);
      if (window === undefined) return undefined;
    }
    this.#before = this.#window;
    return (this.#window = window);
  }

  /** The host may be out of memory, or of mappings: the access fails, and with it the device of that guest. */
  #map(region: MemoryRegion, gpa: Gpa): MappedWindow | undefined {
    try {
      const mapped = this.#regions.reduce((sum, { windowCount }) => sum + windowCount, 0);
      if (mapped >= this.#maxWindows) throw new Error(`${mapped} windows of it are mapped already`);
      return region.map(gpa);
    } catch (error) {
      if (!this.#unmappable.has(region)) {
        this.#unmappable.add(region);
        const reason = error instanceof Error ? error.message : String(error);
        const where = `0x${gpa.toString(16)}`;
        this.onUnmappable?.(
          new Error(`guest memory at ${where} cannot be mapped: ${reason}`, { cause: error }),
        );
      }
      return undefined;
    }
  }

  #unbacked(gpa: Gpa, length: number, address: number): VirtioFault {
    const region = this.#find(address);
    const what =
      region !== undefined && region.window(address) === undefined
        ? "cannot be mapped"
        : "are not guest memory";
    return new VirtioFault("memory.unbacked", `${length} bytes at this address ${what}`, { value: gpa });
  }

  #find(gpa: Gpa): MemoryRegion | undefined {
    const last = this.#last;
    if (last !== undefined && gpa >= last.guestAddress && gpa - last.guestAddress < last.size) return last;
    let low = 0;
    let high = this.#regions.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const region = this.#regions[middle];
      if (region === undefined || gpa < region.guestAddress) high = middle - 1;
      else if (gpa - region.guestAddress >= region.size) low = middle + 1;
      else return (this.#last = region);
    }
    return undefined;
  }

  #regionOfUser(userAddress: number): MemoryRegion | undefined {
    return this.#regions.find(
      (region) => userAddress >= region.userAddress && userAddress - region.userAddress < region.size,
    );
  }

  /** Guest address of an I/O virtual one, or -1 when not all of the range is translated to one run. */
  #translate(iova: number, length: number): number {
    return this.#translated(iova, length, 0) < length ? -1 : this.#target;
  }

  /** How far from `iova` on can be seen in one piece, at most `length`. */
  #translatedRun(iova: number, length: number, permissions: number): number {
    const run = this.#translated(iova, length, permissions);
    if (run <= 0) return 0;
    const window = this.#touch(this.#target);
    return window === undefined ? 0 : Math.min(run, window.length - (this.#target - window.gpa));
  }

  /**
   * How far from `iova` on translations with these permissions go on in one region, at most `length`. `#target` is the guest address
   * then that they start at.
   */
  #translated(iova: number, length: number, permissions: number): number {
    let run = 0;
    this.#forbidden = false;
    let region: MemoryRegion | undefined;
    let next = -1;
    while (run < length) {
      const entry = this.#iotlb?.find(iova + run);
      this.#forbidden = entry !== undefined && (entry.permissions & permissions) !== permissions;
      if (entry === undefined || this.#forbidden) break;
      const inside = iova + run - entry.iova;
      const user = entry.userAddress + inside;
      if (region === undefined) {
        region = this.#regionOfUser(user);
        if (region === undefined) break;
        this.#target = user - region.userAddress + region.guestAddress;
      } else if (user !== next) break;
      const left = Math.min(entry.size - inside, region.userAddress + region.size - user);
      if (left <= 0) break;
      run += left;
      next = user + left;
    }
    return Math.min(run, length);
  }
}

function sameRegion(a: RegionDescription, b: RegionDescription): boolean {
  return (
    a.guestAddress === b.guestAddress &&
    a.size === b.size &&
    a.userAddress === b.userAddress &&
    a.mmapOffset === b.mmapOffset
  );
}

/** Neither guest addresses nor user addresses may mean two places. */
function checkOverlaps(regions: readonly RegionDescription[]): void {
  for (const key of ["guestAddress", "userAddress"] as const) {
    let end = -1;
    for (const region of [...regions].sort((a, b) => a[key] - b[key])) {
      if (region[key] < end) throw new PeerError(`memory regions overlap at ${region[key]}`);
      end = region[key] + region.size;
    }
  }
}
