import { readvSync, writeSync, readSync, writevSync } from "node:fs";
import { constants } from "node:os";
import type { BlockCompletion } from "virtio/backends/block";
import { MAX_VECTORS } from "../native/io-vectors.ts";
import { NativeError } from "../native/native-error.ts";
import type { FileCompletion, FileEngine } from "./file-engine.ts";
import type { OpenFile } from "./open-file.ts";

/**
 * How the data of a disk gets into a file and out of it. True: it is done; false: the completion will hear of it. Behind the end of
 * the file are zeroes. Lists of buffers are the caller's again when the call returns; the buffers themselves when it is done.
 */
export interface FileIo {
  readv(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean;
  writev(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean;
  /** Runs a change of these bytes that goes another way, when no write is at the same blocks. Absent: nothing is in its way. */
  exclusively?(offset: number, length: number, work: () => Promise<void>): Promise<void>;
}

/** Blocks its caller. */
export class SyncFileIo implements FileIo {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  readv(offset: number, targets: readonly Uint8Array[]): true {
    const [only] = targets;
    if (targets.length === 1 && only !== undefined) {
      this.#read(offset, only);
      return true;
    }
    let at = offset;
    for (let i = 0; i < targets.length; i += MAX_VECTORS) {
      const batch = targets.slice(i, i + MAX_VECTORS);
      let got = readvSync(this.#fd, batch, at);
      for (const target of batch) {
        // Short at the end of the file, or because the system does not do as much in one call.
        if (got < target.length) this.#read(at + got, target.subarray(got));
        got = Math.max(0, got - target.length);
        at += target.length;
      }
    }
    return true;
  }

  writev(offset: number, sources: readonly Uint8Array[]): true {
    const [only] = sources;
    if (sources.length === 1 && only !== undefined) {
      this.#write(offset, only);
      return true;
    }
    let at = offset;
    for (let i = 0; i < sources.length; i += MAX_VECTORS) {
      const batch = sources.slice(i, i + MAX_VECTORS);
      let put = writevSync(this.#fd, batch, at);
      for (const source of batch) {
        if (put < source.length) this.#write(at + put, source.subarray(put));
        put = Math.max(0, put - source.length);
        at += source.length;
      }
    }
    return true;
  }

  #read(offset: number, target: Uint8Array): void {
    let done = 0;
    while (done < target.length) {
      const got = readSync(this.#fd, target, done, target.length - done, offset + done);
      if (got === 0) {
        target.fill(0, done);
        return;
      }
      done += got;
    }
  }

  #write(offset: number, source: Uint8Array): void {
    for (let done = 0; done < source.length;)
      done += writeSync(this.#fd, source, done, source.length - done, offset + done);
  }
}

/** By an engine, whatever is in the page cache: for O_DIRECT it is the base. */
export class EngineFileIo implements FileIo {
  readonly #file: OpenFile;
  readonly #engine: FileEngine;
  readonly #block: number;
  /** Those that are not in use. */
  readonly #transfers: Transfer[] = [];

  /** `block`: bytes that a read gives at least, but for the last of the file. A power of two. */
  constructor(file: OpenFile, engine: FileEngine, block: number) {
    this.#file = file;
    this.#engine = engine;
    this.#block = block;
  }

  readv(offset: number, targets: readonly Uint8Array[], completion: BlockCompletion): boolean {
    return this.#start(offset, targets, completion, false);
  }

  writev(offset: number, sources: readonly Uint8Array[], completion: BlockCompletion): boolean {
    return this.#start(offset, sources, completion, true);
  }

  #start(
    offset: number,
    buffers: readonly Uint8Array[],
    completion: BlockCompletion,
    write: boolean,
  ): boolean {
    if (!anyBytes(buffers)) return true;
    const fd = this.#file.hold();
    const transfer = this.#transfers.pop() ?? new Transfer(this.#engine, this.#block, this.#ended);
    transfer.start(fd, offset, buffers, completion, write);
    return false;
  }

  readonly #ended = (transfer: Transfer): void => {
    this.#transfers.push(transfer);
    this.#file.release();
  };
}

function anyBytes(buffers: readonly Uint8Array[]): boolean {
  for (const { length } of buffers) if (length > 0) return true;
  return false;
}

/** One list of buffers, in as many operations as the system makes of it. Used again for others. */
class Transfer implements FileCompletion {
  readonly #engine: FileEngine;
  readonly #blockMask: number;
  readonly #ended: (transfer: Transfer) => void;
  /** What is left of them. */
  readonly #buffers: Uint8Array[] = [];
  #fd = -1;
  #offset = 0;
  #write = false;
  #completion: BlockCompletion | undefined;

  constructor(engine: FileEngine, block: number, ended: (transfer: Transfer) => void) {
    this.#engine = engine;
    this.#blockMask = block - 1;
    this.#ended = ended;
  }

  start(
    fd: number,
    offset: number,
    buffers: readonly Uint8Array[],
    completion: BlockCompletion,
    write: boolean,
  ): void {
    for (const buffer of buffers) this.#buffers.push(buffer);
    this.#fd = fd;
    this.#offset = offset;
    this.#write = write;
    this.#completion = completion;
    this.#next();
  }

  settled(result: number): void {
    if (result < 0) return this.#end(new NativeError(this.#write ? "write" : "read", -result));
    // A write of nothing would go on for ever.
    if (result === 0 && this.#write) return this.#end(new NativeError("write", constants.errno.EIO));
    this.#drop(result);
    if (!this.#write && (result === 0 || (result & this.#blockMask) !== 0)) {
      // The end of the file. Past the page cache nothing could go on from within a block.
      for (const buffer of this.#buffers) buffer.fill(0);
      return this.#end(undefined);
    }
    if (anyBytes(this.#buffers)) this.#next();
    else this.#end(undefined);
  }

  #next(): void {
    const engine = this.#engine;
    if (this.#write) engine.writev(this.#fd, this.#buffers, this.#offset, this);
    else engine.readv(this.#fd, this.#buffers, this.#offset, this);
  }

  /** So many bytes were moved. */
  #drop(count: number): void {
    this.#offset += count;
    let whole = 0;
    let rest = count;
    for (const buffer of this.#buffers) {
      if (rest < buffer.length) {
        this.#buffers[whole] = buffer.subarray(rest);
        break;
      }
      rest -= buffer.length;
      whole++;
    }
    if (whole === this.#buffers.length) this.#buffers.length = 0;
    else this.#buffers.splice(0, whole);
  }

  #end(error: unknown): void {
    const completion = this.#completion;
    this.#completion = undefined;
    this.#buffers.length = 0;
    this.#ended(this);
    completion?.done(error);
  }
}
