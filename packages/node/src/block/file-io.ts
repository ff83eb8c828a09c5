import { readSync, readvSync, writeSync, writevSync } from "node:fs";
import { allDone } from "virtio/backends/all-done";
import type { MaybePromise } from "virtio/device/device";
import { MAX_VECTORS } from "../native/io-vectors.ts";
import type { FileEngine } from "./file-engine.ts";
import type { OpenFile } from "./open-file.ts";

/**
 * How the data of a disk gets into a file and out of it. Behind the end of the file are zeroes. Lists of buffers are the caller's
 * again when the call returns; the buffers themselves when it is done.
 */
export interface FileIo {
  read(offset: number, target: Uint8Array): MaybePromise<void>;
  write(offset: number, source: Uint8Array): MaybePromise<void>;
  readv(offset: number, targets: readonly Uint8Array[]): MaybePromise<void>;
  writev(offset: number, sources: readonly Uint8Array[]): MaybePromise<void>;
}

/** Blocks its caller. */
export class SyncFileIo implements FileIo {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  read(offset: number, target: Uint8Array): void {
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

  write(offset: number, source: Uint8Array): void {
    for (let done = 0; done < source.length;)
      done += writeSync(this.#fd, source, done, source.length - done, offset + done);
  }

  readv(offset: number, targets: readonly Uint8Array[]): void {
    let at = offset;
    for (let i = 0; i < targets.length; i += MAX_VECTORS) {
      const batch = targets.slice(i, i + MAX_VECTORS);
      let got = readvSync(this.#fd, batch, at);
      for (const target of batch) {
        // Short at the end of the file, or because the system does not do as much in one call.
        if (got < target.length) this.read(at + got, target.subarray(got));
        got = Math.max(0, got - target.length);
        at += target.length;
      }
    }
  }

  writev(offset: number, sources: readonly Uint8Array[]): void {
    let at = offset;
    for (let i = 0; i < sources.length; i += MAX_VECTORS) {
      const batch = sources.slice(i, i + MAX_VECTORS);
      let put = writevSync(this.#fd, batch, at);
      for (const source of batch) {
        if (put < source.length) this.write(at + put, source.subarray(put));
        put = Math.max(0, put - source.length);
        at += source.length;
      }
    }
  }
}

/** By an engine, whatever is in the page cache: for O_DIRECT it is the base. */
export class EngineFileIo implements FileIo {
  readonly #file: OpenFile;
  readonly #engine: FileEngine;

  constructor(file: OpenFile, engine: FileEngine) {
    this.#file = file;
    this.#engine = engine;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    const fd = this.#file.hold();
    try {
      for (let done = 0; done < target.length;) {
        const rest = done === 0 ? target : target.subarray(done);
        const got = await this.#engine.read(fd, rest, offset + done);
        if (got === 0) return void rest.fill(0);
        done += got;
      }
    } finally {
      this.#file.release();
    }
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    const fd = this.#file.hold();
    try {
      for (let done = 0; done < source.length;) {
        const rest = done === 0 ? source : source.subarray(done);
        done += await this.#engine.write(fd, rest, offset + done);
      }
    } finally {
      this.#file.release();
    }
  }

  async readv(offset: number, targets: readonly Uint8Array[]): Promise<void> {
    let at = offset - (targets[0]?.length ?? 0);
    let last = targets[0]?.length ?? 0;
    await allDone(
      targets.map((target) => {
        at += last;
        last = target.length;
        return this.read(at, target);
      }),
    );
  }

  async writev(offset: number, sources: readonly Uint8Array[]): Promise<void> {
    let at = offset - (sources[0]?.length ?? 0);
    let last = sources[0]?.length ?? 0;
    await allDone(
      sources.map((source) => {
        at += last;
        last = source.length;
        return this.write(at, source);
      }),
    );
  }
}
