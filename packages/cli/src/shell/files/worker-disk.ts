import { parentPort } from "node:worker_threads";
import { SECTOR } from "../disk/disk.ts";
import { CHANNEL, CHANNEL_DATA, CHANNEL_WORDS, RESULT, type FileReport } from "./work.ts";

const CHUNK_SECTORS = CHANNEL_DATA / SECTOR;
/** Chunks that are kept: 16 MiB. */
const MAX_CHUNKS = 256;
const OPERATION = { read: 0, write: 1, flush: 2 } as const;

/** The disk as a worker sees it: bytes, without promises, with what was read lately at hand. */
export class WorkerDisk {
  readonly sectors: number;
  readonly #words: Int32Array;
  readonly #data: Uint8Array;
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #writes: boolean;

  /** Without `writes`, those that a library makes by itself go nowhere. */
  constructor(channel: SharedArrayBuffer, sectors: number, writes: boolean) {
    this.sectors = sectors;
    this.#words = new Int32Array(channel, 0, CHANNEL_WORDS);
    this.#data = new Uint8Array(channel, CHANNEL_WORDS * 4, CHANNEL_DATA);
    this.#writes = writes;
  }

  /** Throws when the file system ends before. */
  read(offset: number, target: Uint8Array): void {
    this.#check(offset, target.length);
    for (let done = 0; done < target.length;) {
      const at = offset + done;
      const chunk = this.#chunk(Math.floor(at / CHANNEL_DATA));
      const inside = at % CHANNEL_DATA;
      const length = Math.min(target.length - done, chunk.length - inside);
      target.set(chunk.subarray(inside, inside + length), done);
      done += length;
    }
  }

  write(offset: number, source: Uint8Array): void {
    this.#check(offset, source.length);
    for (let done = 0; done < source.length;) {
      const at = offset + done;
      const index = Math.floor(at / CHANNEL_DATA);
      const inside = at % CHANNEL_DATA;
      const chunk = this.#chunk(index);
      const length = Math.min(source.length - done, chunk.length - inside);
      chunk.set(source.subarray(done, done + length), inside);
      if (this.#writes) this.#writeBack(index, chunk, inside, length);
      done += length;
    }
  }

  flush(): void {
    if (this.#writes) this.#ask(OPERATION.flush, 0, 0);
  }

  #check(offset: number, length: number): void {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > this.sectors * SECTOR)
      throw new Error(`the file system names byte ${offset}, beyond its end`);
  }

  #chunk(index: number): Uint8Array {
    const known = this.#chunks.get(index);
    if (known !== undefined) {
      this.#chunks.delete(index);
      this.#chunks.set(index, known);
      return known;
    }
    const sector = index * CHUNK_SECTORS;
    const count = Math.min(CHUNK_SECTORS, this.sectors - sector);
    this.#ask(OPERATION.read, sector, count);
    const chunk = this.#data.slice(0, count * SECTOR);
    // What may not be written is only here, and must stay.
    if (this.#writes)
      for (const oldest of this.#chunks.keys()) {
        if (this.#chunks.size < MAX_CHUNKS) break;
        this.#chunks.delete(oldest);
      }
    this.#chunks.set(index, chunk);
    return chunk;
  }

  #writeBack(index: number, chunk: Uint8Array, from: number, length: number): void {
    const first = Math.floor(from / SECTOR);
    const end = Math.ceil((from + length) / SECTOR);
    this.#data.set(chunk.subarray(first * SECTOR, end * SECTOR));
    this.#ask(OPERATION.write, index * CHUNK_SECTORS + first, end - first);
  }

  #ask(operation: number, sector: number, count: number): void {
    const words = this.#words;
    words[CHANNEL.operation] = operation;
    words[CHANNEL.sector] = sector;
    words[CHANNEL.count] = count;
    Atomics.store(words, CHANNEL.result, RESULT.pending);
    const report: FileReport = { kind: "disk" };
    parentPort?.postMessage(report);
    Atomics.wait(words, CHANNEL.result, RESULT.pending);
    if (Atomics.load(words, CHANNEL.result) !== RESULT.done) throw new Error("the disk failed");
  }
}
