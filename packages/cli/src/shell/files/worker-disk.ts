import { parentPort } from "node:worker_threads";
import { SECTOR } from "../disk/disk.ts";
import { CHANNEL, CHANNEL_DATA, CHANNEL_WORDS, RESULT, setSector, type FileReport } from "./work.ts";

const CHUNK_SECTORS = CHANNEL_DATA / SECTOR;
/** Chunks that are kept: 16 MiB. */
const MAX_CHUNKS = 256;
const OPERATION = { read: 0, write: 1, flush: 2 } as const;

interface Chunk {
  readonly bytes: Uint8Array;
  /** Sectors of it that the disk does not have yet: from the first to the one before the end. */
  dirtyFirst: number;
  dirtyEnd: number;
}

/**
 * The disk as a worker sees it: bytes, without promises. What was read lately is at hand, and what is written reaches the disk
 * when there is much of it, and with `flush`.
 */
export class WorkerDisk {
  readonly sectors: number;
  readonly #words: Int32Array;
  readonly #data: Uint8Array;
  /** By number, the one used last at the end. */
  readonly #chunks = new Map<number, Chunk>();
  /** Whether what is written reaches the disk. */
  readonly writes: boolean;

  /** Without `writes`, those that a library makes by itself go nowhere. */
  constructor(channel: SharedArrayBuffer, sectors: number, writes: boolean) {
    this.sectors = sectors;
    this.#words = new Int32Array(channel, 0, CHANNEL_WORDS);
    this.#data = new Uint8Array(channel, CHANNEL_WORDS * 4, CHANNEL_DATA);
    this.writes = writes;
  }

  /** Throws when the file system ends before. */
  read(offset: number, target: Uint8Array): void {
    this.#check(offset, target.length);
    for (let done = 0; done < target.length;) {
      const at = offset + done;
      const { bytes } = this.#chunk(Math.floor(at / CHANNEL_DATA));
      const inside = at % CHANNEL_DATA;
      const length = Math.min(target.length - done, bytes.length - inside);
      target.set(bytes.subarray(inside, inside + length), done);
      done += length;
    }
  }

  write(offset: number, source: Uint8Array): void {
    this.#check(offset, source.length);
    for (let done = 0; done < source.length;) {
      const at = offset + done;
      const chunk = this.#chunk(Math.floor(at / CHANNEL_DATA));
      const inside = at % CHANNEL_DATA;
      const length = Math.min(source.length - done, chunk.bytes.length - inside);
      chunk.bytes.set(source.subarray(done, done + length), inside);
      chunk.dirtyFirst = Math.min(chunk.dirtyFirst, Math.floor(inside / SECTOR));
      chunk.dirtyEnd = Math.max(chunk.dirtyEnd, Math.ceil((inside + length) / SECTOR));
      done += length;
    }
  }

  flush(): void {
    if (!this.writes) return;
    for (const [index, chunk] of this.#chunks) this.#clean(index, chunk);
    this.#ask(OPERATION.flush, 0, 0);
  }

  #check(offset: number, length: number): void {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > this.sectors * SECTOR)
      throw new Error(`the file system names byte ${offset}, beyond its end`);
  }

  #chunk(index: number): Chunk {
    const known = this.#chunks.get(index);
    if (known !== undefined) {
      this.#chunks.delete(index);
      this.#chunks.set(index, known);
      return known;
    }
    this.#makeRoom();
    const sector = index * CHUNK_SECTORS;
    const count = Math.min(CHUNK_SECTORS, this.sectors - sector);
    this.#ask(OPERATION.read, sector, count);
    const bytes = this.#data.slice(0, count * SECTOR);
    const chunk = { bytes, dirtyFirst: CHUNK_SECTORS, dirtyEnd: 0 };
    this.#chunks.set(index, chunk);
    return chunk;
  }

  #makeRoom(): void {
    for (const [index, chunk] of this.#chunks) {
      if (this.#chunks.size < MAX_CHUNKS) return;
      // What may not be written is only here, and must stay.
      if (!this.writes && chunk.dirtyEnd > 0) continue;
      this.#clean(index, chunk);
      this.#chunks.delete(index);
    }
  }

  #clean(index: number, chunk: Chunk): void {
    const { bytes, dirtyFirst: first, dirtyEnd: end } = chunk;
    if (end === 0) return;
    this.#data.set(bytes.subarray(first * SECTOR, end * SECTOR));
    this.#ask(OPERATION.write, index * CHUNK_SECTORS + first, end - first);
    chunk.dirtyFirst = CHUNK_SECTORS;
    chunk.dirtyEnd = 0;
  }

  #ask(operation: number, sector: number, count: number): void {
    const words = this.#words;
    words[CHANNEL.operation] = operation;
    setSector(words, sector);
    words[CHANNEL.count] = count;
    Atomics.store(words, CHANNEL.result, RESULT.pending);
    const report: FileReport = { kind: "disk" };
    parentPort?.postMessage(report);
    // The wake-up of the request before may come late, and be taken for this one's.
    while (Atomics.load(words, CHANNEL.result) === RESULT.pending)
      Atomics.wait(words, CHANNEL.result, RESULT.pending);
  }
}
