import { wholeOption } from "virtio/check-option";
import { constants } from "node:os";
import { addressOf } from "./address.ts";
import { libc, type Address, type Libc } from "./libc.ts";
import { MAP_POPULATE, MAP_SHARED, PROT_READ, PROT_WRITE } from "./linux.ts";
import { NativeError } from "./native-error.ts";

/** `enum io_uring_op`. */
export const IORING_OP_READV = 1;
export const IORING_OP_WRITEV = 2;
export const IORING_OP_FSYNC = 3;
export const IORING_OP_FALLOCATE = 17;
export const IORING_OP_READ = 22;
export const IORING_OP_WRITE = 23;
export const IORING_FSYNC_DATASYNC = 1;

/**
 * What this thread has to do in the kernel for a completion waits until it goes there, instead of interrupting it for each one, and a
 * flag says so: IORING_SETUP_COOP_TASKRUN and TASKRUN_FLAG (Linux 5.19), SINGLE_ISSUER (6.0). Not DEFER_TASKRUN: epoll does not hear
 * of completions then.
 */
const SETUP_FLAGS = (1 << 8) | (1 << 9) | (1 << 12);
const IORING_ENTER_GETEVENTS = 1;
/** In the flags of the submission ring: there is such work. */
const IORING_SQ_TASKRUN = 1 << 2;

const IORING_OFF_SQ_RING = 0;
const IORING_OFF_SQES = 0x1000_0000;
/** One mapping for both rings; what a submission points at may go once it was handed over (Linux 5.5). */
const IORING_FEATURES = (1 << 0) | (1 << 2);
const SQE_WORDS = 16;
const CQE_WORDS = 4;
const HALF = 0x1_0000_0000;
/** `struct io_uring_params` in 32-bit words, and what of it is read. */
const PARAMS_WORDS = 30;
const PARAMS = { sqEntries: 0, cqEntries: 1, flags: 2, features: 5, sq: 10, cq: 20 } as const;
/** `struct io_sqring_offsets` and `struct io_cqring_offsets`, in words. */
const SQ = { head: 0, tail: 1, mask: 2, flags: 4, array: 6 } as const;
const CQ = { head: 0, tail: 1, mask: 2, cqes: 5 } as const;

/** What Linux takes at most. */
const MAX_ENTRIES = 32_768;

/** An io_uring of this thread: requests are pushed, submitted together, and come back in any order. */
export class IoUring {
  /** Readable when something is done. */
  readonly fd: number;
  /** At most so many requests are under way: their completions always have room. */
  readonly capacity: number;
  readonly #libc: Libc;
  /** Address and length of what is mapped. */
  readonly #mappings: (readonly [Address, number])[] = [];
  #ring: Uint32Array;
  #results: Int32Array;
  #sqes: Uint32Array;
  readonly #entries: number;
  readonly #sqHead: number;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #sqFlags: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqes: number;
  #tail = 0;
  #pushed = 0;
  #inFlight = 0;

  /**
   * `entries`: requests that can be handed over at once, 1 to 32768. Throws a NativeError where the system has no io_uring (ENOSYS) or does not let this process have it (EPERM: the sysctl
   * `kernel.io_uring_disabled`, a container).
   */
  constructor(entries: number) {
    wholeOption("io_uring: entries", entries, 1, MAX_ENTRIES);
    const native = libc("io_uring");
    this.#libc = native;
    const params = new Uint32Array(new SharedArrayBuffer(4 * PARAMS_WORDS));
    params[PARAMS.flags] = SETUP_FLAGS;
    let fd = native.io_uring_setup(entries, addressOf(new Uint8Array(params.buffer)));
    if (fd < 0 && native.errno() === constants.errno.EINVAL) {
      params.fill(0);
      fd = native.io_uring_setup(entries, addressOf(new Uint8Array(params.buffer)));
    }
    this.fd = fd;
    if (fd < 0) throw new NativeError("io_uring_setup", native.errno());
    const word = (at: number): number => params[at] ?? 0;
    try {
      if ((word(PARAMS.features) & IORING_FEATURES) !== IORING_FEATURES)
        throw new NativeError("io_uring_setup", constants.errno.ENOSYS);
      this.#entries = word(PARAMS.sqEntries);
      this.capacity = word(PARAMS.cqEntries);
      const cqes = word(PARAMS.cq + CQ.cqes);
      const array = word(PARAMS.sq + SQ.array);
      const length = Math.max(array + 4 * this.#entries, cqes + 4 * CQE_WORDS * this.capacity);
      const ring = this.#map(IORING_OFF_SQ_RING, length);
      this.#ring = new Uint32Array(ring, 0, length >>> 2);
      this.#results = new Int32Array(ring, 0, length >>> 2);
      this.#sqes = new Uint32Array(this.#map(IORING_OFF_SQES, 4 * SQE_WORDS * this.#entries));
      this.#sqHead = word(PARAMS.sq + SQ.head) >>> 2;
      this.#sqTail = word(PARAMS.sq + SQ.tail) >>> 2;
      this.#sqMask = this.#ring[word(PARAMS.sq + SQ.mask) >>> 2] ?? 0;
      this.#sqFlags = word(PARAMS.sq + SQ.flags) >>> 2;
      this.#cqHead = word(PARAMS.cq + CQ.head) >>> 2;
      this.#cqTail = word(PARAMS.cq + CQ.tail) >>> 2;
      this.#cqMask = this.#ring[word(PARAMS.cq + CQ.mask) >>> 2] ?? 0;
      this.#cqes = cqes >>> 2;
      for (let i = 0; i < this.#entries; i++) this.#ring[(array >>> 2) + i] = i;
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /** Where the kernel puts it: io_uring lets nobody choose, so `Mapping` is no help. */
  #map(offset: number, length: number): ArrayBuffer {
    const native = this.#libc;
    const flags = MAP_SHARED | MAP_POPULATE;
    const at = native.mmap(0, length, PROT_READ | PROT_WRITE, flags, this.fd, offset);
    if (at === -1) throw new NativeError("mmap", native.errno());
    this.#mappings.push([at, length]);
    return native.view(at, length);
  }

  #release(): void {
    for (const [at, length] of this.#mappings) this.#libc.munmap(at, length);
    // Not Node's: in a worker it warns of descriptors that it has not opened.
    this.#libc.close(this.fd);
  }

  /** Requests pushed and not submitted. */
  get pushed(): number {
    return this.#pushed;
  }

  /** Requests pushed and not reaped. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /**
   * Prepares a request; `key`, 32 bits, comes back with its result. What `address` points at must stay until then. False:
   * there is no room, reap first.
   */
  push(
    operation: number,
    fd: number,
    address: Address,
    length: number,
    offset: number,
    flags: number,
    key: number,
  ): boolean {
    if (this.#inFlight >= this.capacity) return false;
    if ((this.#tail - Atomics.load(this.#ring, this.#sqHead)) >>> 0 >= this.#entries && !this.submit())
      return false;
    const sqes = this.#sqes;
    const at = (this.#tail & this.#sqMask) * SQE_WORDS;
    sqes.fill(0, at + 9, at + SQE_WORDS);
    sqes[at] = operation;
    sqes[at + 1] = fd;
    sqes[at + 2] = offset % HALF;
    sqes[at + 3] = offset / HALF;
    sqes[at + 4] = address % HALF;
    sqes[at + 5] = address / HALF;
    sqes[at + 6] = length;
    sqes[at + 7] = flags;
    sqes[at + 8] = key;
    this.#tail = (this.#tail + 1) >>> 0;
    this.#pushed++;
    this.#inFlight++;
    return true;
  }

  /** Hands over what was pushed, and has the system report what is done. False: the system cannot take more just now; call again after `reap`. */
  submit(): boolean {
    const work = (Atomics.load(this.#ring, this.#sqFlags) & IORING_SQ_TASKRUN) !== 0;
    if (this.#pushed === 0 && !work) return true;
    Atomics.store(this.#ring, this.#sqTail, this.#tail);
    const { EAGAIN, EBUSY, EINTR } = constants.errno;
    do {
      const taken = this.#libc.io_uring_enter(this.fd, this.#pushed, 0, IORING_ENTER_GETEVENTS);
      if (taken >= 0) {
        this.#pushed -= taken;
        continue;
      }
      const errno = this.#libc.errno();
      if (errno === EAGAIN || errno === EBUSY) return false;
      if (errno !== EINTR) throw new NativeError("io_uring_enter", errno);
    } while (this.#pushed > 0);
    return true;
  }

  /** Reports what is done: the request's key, and the result of its system call or -errno. Returns how many. */
  reap(done: (key: number, result: number) => void): number {
    const ring = this.#ring;
    let head = ring[this.#cqHead] ?? 0;
    let count = 0;
    for (
      let tail = Atomics.load(ring, this.#cqTail);
      head !== tail;
      tail = Atomics.load(ring, this.#cqTail)
    ) {
      const at = this.#cqes + (head & this.#cqMask) * CQE_WORDS;
      const key = ring[at] ?? 0;
      const result = this.#results[at + 2] ?? 0;
      head = (head + 1) >>> 0;
      Atomics.store(ring, this.#cqHead, head);
      this.#inFlight--;
      count++;
      done(key, result);
    }
    return count;
  }

  /** Only with nothing in flight. */
  close(): void {
    // A use after this must not be one of memory that is gone.
    this.#ring = this.#sqes = new Uint32Array(0);
    this.#results = new Int32Array(0);
    this.#release();
  }
}
