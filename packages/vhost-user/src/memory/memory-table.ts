import type { Gpa, GuestMemory } from "virtio/memory/guest-memory";
import { VirtioFault } from "virtio/fault";
import type { Descriptor } from "../native/descriptor.ts";
import { Mapping } from "@virtio/node/native/mapping";
import { fileExtent } from "../native/memfd.ts";
import { PeerError } from "../protocol/errors.ts";
import { IOTLB_READ, IOTLB_WRITE, MAX_MEM_SLOTS } from "../protocol/numbers.ts";
import type { RegionDescription } from "../protocol/payloads.ts";
import type { DirtyLog } from "./dirty-log.ts";
import type { Iotlb } from "./iotlb.ts";

/** A region that is mapped. */
export interface MappedRegion extends RegionDescription {
  readonly mapping: Mapping;
  /** Device and inode of its file. */
  readonly file: string;
}

/** Rings are read through 32-bit views: an address and its place in the buffer must agree in their low bits. */
const ALIGNMENT = 8;

/**
 * The memory of a front-end's guest: regions that come and go while rings run. Only what is mapped can be viewed. A view
 * that was taken before its region went shows private zeroes.
 *
 * A peer that can shrink its file ends this process with a SIGBUS when a lost page is touched; nothing that JavaScript
 * does can prevent that. QEMU's memfd back-end seals its files against it; `sealedOnly` refuses files without that seal.
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
  readonly #sealedOnly: boolean;
  /** By guest address. */
  #regions: readonly MappedRegion[] = [];
  /** How often a region was added again. */
  readonly #more = new WeakMap<MappedRegion, number>();
  #last: MappedRegion | undefined;
  #iotlb: Iotlb | undefined;
  #epoch = 0;
  /** The last look at translations ended at one without the permission. */
  #forbidden = false;

  constructor(options: { readonly sealedOnly?: boolean } = {}) {
    this.#sealedOnly = options.sealedOnly ?? false;
  }

  get epoch(): number {
    return this.#epoch;
  }

  get regions(): readonly MappedRegion[] {
    return this.#regions;
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
    const mapped: MappedRegion[] = [];
    const fresh: MappedRegion[] = [];
    try {
      for (const { region, descriptor } of table) {
        const { identity } = fileExtent(descriptor.fd);
        let kept = [...old].find((other) => other.file === identity && sameRegion(other, region));
        if (kept !== undefined) old.delete(kept);
        else fresh.push((kept = this.#map(region, descriptor)));
        mapped.push(kept);
      }
    } catch (error) {
      for (const { mapping } of fresh) mapping.unmap();
      throw error;
    }
    if (old.size === 0 && fresh.length === 0) return;
    this.#adopt(mapped);
    for (const { mapping } of old) mapping.unmap();
  }

  /**
   * One region more. Throws a PeerError and changes nothing when it cannot be. The same one may come again: QEMU 7.2 adds
   * and removes every region once for each pair of queues of a network device.
   */
  add(region: RegionDescription, descriptor: Descriptor): void {
    const { identity } = fileExtent(descriptor.fd);
    const same = this.#regions.find((other) => other.file === identity && sameRegion(other, region));
    if (same !== undefined) {
      this.#more.set(same, (this.#more.get(same) ?? 0) + 1);
      return;
    }
    if (this.#regions.length >= MAX_MEM_SLOTS) throw new PeerError("no memory slot is left");
    checkOverlaps([...this.#regions, region]);
    this.#adopt([...this.#regions, this.#map(region, descriptor)]);
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
    gone.mapping.unmap();
  }

  /** Nothing is mapped any more. */
  clear(): void {
    const old = this.#regions;
    this.#adopt([]);
    for (const { mapping } of old) mapping.unmap();
    this.log?.close();
    this.log = undefined;
    this.iotlb = undefined;
  }

  view(gpa: Gpa, length: number): Uint8Array {
    const address = this.#iotlb === undefined ? gpa : this.#translate(gpa, length);
    const region = this.#find(address);
    if (region !== undefined) {
      const start = address - region.guestAddress;
      if (start + length <= region.size)
        return new Uint8Array(region.mapping.buffer, region.mapping.offset + start, length);
    }
    throw new VirtioFault("memory.unbacked", `${length} bytes at this address are not guest memory`, {
      value: gpa,
    });
  }

  contiguous(gpa: Gpa, length: number, writable = false): number {
    if (this.#iotlb !== undefined)
      return this.#translatedRun(gpa, length, writable ? IOTLB_WRITE : IOTLB_READ);
    const region = this.#find(gpa);
    return region === undefined ? 0 : Math.min(length, region.guestAddress + region.size - gpa);
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
    // What is missing may be further on than where the range starts.
    const run = this.#translatedRun(value, Number.MAX_SAFE_INTEGER, 0);
    return this.onMiss?.(value + run) ?? false;
  }

  /** The guest address of a user address of the front-end, or undefined when it is in no region. */
  guestAddress(userAddress: number): Gpa | undefined {
    const region = this.#regionOfUser(userAddress);
    return region && userAddress - region.userAddress + region.guestAddress;
  }

  #map(region: RegionDescription, descriptor: Descriptor): MappedRegion {
    const { size, identity, sealed } = fileExtent(descriptor.fd);
    if (region.mmapOffset + region.size > size)
      throw new PeerError(
        `memory region ends ${region.mmapOffset + region.size - size} bytes beyond its file`,
      );
    if (this.#sealedOnly && !sealed) throw new PeerError("memory region's file can be shrunk");
    if ((region.mmapOffset - region.guestAddress) % ALIGNMENT !== 0)
      throw new PeerError(`memory region at ${region.guestAddress} is not aligned with its file`);
    try {
      return {
        ...region,
        mapping: Mapping.map(descriptor.fd, region.mmapOffset, region.size),
        file: identity,
      };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new PeerError(`memory region of ${region.size} bytes cannot be mapped: ${reason}`);
    }
  }

  #adopt(regions: readonly MappedRegion[]): void {
    this.#regions = [...regions].sort((a, b) => a.guestAddress - b.guestAddress);
    this.#last = undefined;
    this.#epoch++;
  }

  #find(gpa: Gpa): MappedRegion | undefined {
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

  #regionOfUser(userAddress: number): MappedRegion | undefined {
    return this.#regions.find(
      (region) => userAddress >= region.userAddress && userAddress - region.userAddress < region.size,
    );
  }

  /** Guest address of an I/O virtual one, or -1 when not all of the range is translated to one run. */
  #translate(iova: number, length: number): number {
    if (this.#translatedRun(iova, length, 0) < length) return -1;
    const entry = this.#iotlb?.find(iova);
    if (entry === undefined) return -1;
    return this.guestAddress(entry.userAddress + (iova - entry.iova)) ?? -1;
  }

  /** How far from `iova` on translations with these permissions go on in one region, at most `length`. */
  #translatedRun(iova: number, length: number, permissions: number): number {
    let run = 0;
    this.#forbidden = false;
    let region: MappedRegion | undefined;
    let next = -1;
    while (run < length) {
      const entry = this.#iotlb?.find(iova + run);
      this.#forbidden = entry !== undefined && (entry.permissions & permissions) !== permissions;
      if (entry === undefined || this.#forbidden) break;
      const inside = iova + run - entry.iova;
      const user = entry.userAddress + inside;
      region ??= this.#regionOfUser(user);
      if (region === undefined || (next >= 0 && user !== next)) break;
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
