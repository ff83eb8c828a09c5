import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { packageFolder } from "../../paths.ts";
import { plainly } from "../../reasons.ts";
import { messageOf } from "../../user-error.ts";
import type { Context } from "../command.ts";
import { SECTOR, type Disk, type Extent } from "../disk/disk.ts";
import { CommandError } from "../errors.ts";
import type { FileEntry, Files, Moved, Sink } from "./types.ts";
import { reasonOf } from "../../reasons.ts";
import type { Probe } from "./probe.ts";
import {
  CHANNEL,
  CHANNEL_BYTES,
  CHANNEL_DATA,
  CHANNEL_WORDS,
  RESULT,
  sectorOf,
  type FileReport,
  type FileWork,
  type FileWorkerData,
} from "./work.ts";

/** From sources as well as from the build a worker needs the build, and no options of Node that would have it find sources. */
const WORKER = join(packageFolder, "dist", "shell", "files", "worker.js");
/** How long a library may think without asking the disk or giving a piece of the file. */
const SILENCE = 20_000;

/** A file system on a disk, by a library in a thread of its own for each call. */
export class WorkerFiles implements Files {
  readonly type: "ext4" | "fat";
  readonly #disk: Disk;
  readonly #extent: Extent;
  readonly #noRead: string | undefined;
  readonly #noWrite: string | undefined;
  readonly #context: Pick<Context, "signal">;

  constructor(disk: Disk, extent: Extent, found: Probe, context: Pick<Context, "signal">) {
    this.type = found.type;
    this.#disk = disk;
    this.#extent = extent;
    this.#noRead = found.noRead;
    this.#noWrite = found.noWrite;
    this.#context = context;
  }

  async list(path: string): Promise<readonly FileEntry[]> {
    let entries: readonly FileEntry[] = [];
    await this.#work({ kind: "list", path }, (report) => {
      if (report.kind === "entries") entries = report.entries;
    });
    return entries;
  }

  async size(path: string): Promise<number> {
    return (await this.#work({ kind: "size", path })).bytes;
  }

  read(path: string, position: number, length: number, sink: Sink): Promise<Moved> {
    return this.#work({ kind: "read", path, position, length }, (report) => {
      if (report.kind === "piece") sink(report.bytes);
    });
  }

  write(path: string, position: number, source: Uint8Array, moved: (bytes: number) => void): Promise<Moved> {
    if (this.#disk.readOnly) throw new CommandError("the disk is read-only");
    if (this.#noWrite !== undefined) throw new CommandError(this.#noWrite);
    return this.#work({ kind: "write", path, position, source: source.slice() }, (report) => {
      if (report.kind === "wrote") moved(report.bytes);
    });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #work(work: FileWork, heard?: (report: FileReport) => void): Promise<Moved> {
    if (this.#noRead !== undefined) throw new CommandError(this.#noRead);
    const channel = new SharedArrayBuffer(CHANNEL_BYTES);
    const data: FileWorkerData = { type: this.type, channel, sectors: this.#extent.sectors, work };
    const worker = new Worker(WORKER, { workerData: data, execArgv: [], stdout: true, stderr: true });
    // What a library prints says nothing to anybody.
    worker.stdout.resume();
    worker.stderr.resume();
    const { signal } = this.#context;
    let started = performance.now();
    let watch: NodeJS.Timeout | undefined;
    let abort: (() => void) | undefined;
    try {
      const bytes = await new Promise<number>((resolve, reject) => {
        const late = (): void =>
          reject(new CommandError(`the ${this.type} library found no end in ${SILENCE / 1000} s`));
        watch = setTimeout(late, SILENCE);
        worker.on("message", (report: FileReport) => {
          watch?.refresh();
          // A library that is told of a failure looks for another copy, and for another: a disk that fails is enough.
          if (report.kind === "disk") this.#serve(channel).catch(reject);
          else if (report.kind === "mounted") started = performance.now();
          else if (report.kind === "done") resolve(report.value);
          else if (report.kind === "failed") reject(new CommandError(firstLine(report.message)));
          else {
            try {
              heard?.(report);
            } catch (error) {
              reject(error instanceof Error ? error : new Error(messageOf(error)));
            }
          }
        });
        worker.once("error", (error) => reject(new CommandError(firstLine(messageOf(error)))));
        worker.once("exit", () => reject(new CommandError(`the ${this.type} library ended`)));
        abort = () => reject(signal.reason instanceof Error ? signal.reason : new Error("aborted"));
        signal.addEventListener("abort", abort);
        if (signal.aborted) abort();
      });
      return { bytes, milliseconds: Math.round(performance.now() - started) };
    } finally {
      clearTimeout(watch);
      if (abort !== undefined) signal.removeEventListener("abort", abort);
      worker.removeAllListeners();
      await worker.terminate();
    }
  }

  async #serve(channel: SharedArrayBuffer): Promise<void> {
    const words = new Int32Array(channel, 0, CHANNEL_WORDS);
    const data = new Uint8Array(channel, CHANNEL_WORDS * 4, CHANNEL_DATA);
    const operation = words[CHANNEL.operation] ?? 0;
    const sector = sectorOf(words);
    const count = words[CHANNEL.count] ?? 0;
    if (operation === 2) await this.#disk.flush();
    else {
      if (count < 0 || sector + count > this.#extent.sectors || count * SECTOR > data.length)
        throw new CommandError(`blocks ${sector} to ${sector + count} are beyond the file system`);
      const bytes = new Uint8Array(count * SECTOR);
      if (operation === 1) bytes.set(data.subarray(0, bytes.length));
      if (operation === 1) await this.#disk.write(this.#extent.start + sector, bytes);
      else await this.#disk.read(this.#extent.start + sector, bytes);
      if (operation === 0) data.set(bytes);
    }
    finish(channel);
  }
}

/** Wakes the worker: it was done. */
function finish(channel: SharedArrayBuffer): void {
  const words = new Int32Array(channel, 0, CHANNEL_WORDS);
  Atomics.store(words, CHANNEL.result, RESULT.done);
  Atomics.notify(words, CHANNEL.result);
}

/** Of libext2fs: no block, and no inode, is free. */
const EXT_FULL: ReadonlySet<number> = new Set([2_133_571_400, 2_133_571_401]);

/** libext2fs' errors come as the name of its function, a code, and numbers that tell nobody anything. */
function firstLine(message: string): string {
  const [line = ""] = message.split("\n");
  const code = /^node_ext2fs_\w+ (\w+) \((\d+)\)/.exec(line);
  if (code === null) return plainly(line);
  if (code[1] !== "UNKNOWN") return reasonOf(code[1] ?? "");
  if (EXT_FULL.has(Number(code[2]))) return "the file system is full";
  return `libext2fs cannot read this file system (error ${code[2]}); e2fsck may know more`;
}
