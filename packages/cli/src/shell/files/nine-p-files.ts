import type { NinePDriver } from "virtio/drivers/9p/driver";
import { NinePError, READ_ONLY, WRITE_ONLY, type NinePFile } from "virtio/drivers/9p/file";
import { CommandError } from "../errors.ts";
import type { Context } from "../command.ts";
import { resolvePath } from "./nine-p-path.ts";
import type { FileEntry, Files, Moved, Sink } from "./types.ts";
import { reasonOfNumber } from "../../reasons.ts";
import { MAX_ENTRIES } from "./work.ts";

const PIECE = 1 << 20;
const TRUNCATE = 0o1000;
const TYPE = 0o170000;
const DIRECTORY = 0o040000;
const SYMLINK = 0o120000;
const REGULAR = 0o100000;

/** A directory that a virtio-9p device shares. */
export class NinePFiles implements Files {
  readonly type = "9p";
  readonly #root: NinePFile;
  readonly #context: Pick<Context, "wait">;

  private constructor(root: NinePFile, context: Pick<Context, "wait">) {
    this.#root = root;
    this.#context = context;
  }

  static async open(driver: NinePDriver, context: Pick<Context, "wait">): Promise<NinePFiles> {
    return new NinePFiles(await context.wait(driver.attach(), "attaching to the share"), context);
  }

  async list(path: string): Promise<readonly FileEntry[]> {
    return this.#with(path, async (directory) => {
      const { mode } = await this.#ask(directory.stat());
      if (kindOf(mode) !== "directory") throw new CommandError(`"${path}" is no directory`);
      const names: string[] = [];
      const opened = await this.#ask((await this.#ask(directory.walk())).open());
      try {
        const iterator = opened.entries()[Symbol.asyncIterator]();
        for (let next = await this.#ask(iterator.next()); next.done !== true;) {
          if (names.push(next.value.name) > MAX_ENTRIES)
            throw new CommandError(`"${path}" has more than ${MAX_ENTRIES} entries`);
          next = await this.#ask(iterator.next());
        }
      } finally {
        await this.#ask(opened.close());
      }
      const entries: FileEntry[] = [];
      for (const name of names) entries.push(await this.#entry(directory, name));
      return entries;
    });
  }

  size(path: string): Promise<number> {
    return this.#with(path, async (file) => {
      const { mode, size } = await this.#ask(file.stat());
      return kindOf(mode) === "directory" ? 0 : Number(size);
    });
  }

  read(path: string, position: number, length: number, sink: Sink): Promise<Moved> {
    const started = performance.now();
    return this.#with(path, async (file) => {
      const { mode } = await this.#ask(file.stat());
      if (kindOf(mode) !== "file") throw new CommandError(`"${path}" is no file`);
      await this.#ask(file.open(READ_ONLY));
      let at = position;
      for (const end = position + length; at < end;) {
        const piece = new Uint8Array(Math.min(PIECE, end - at));
        const got = await this.#ask(file.read(at, piece));
        if (got === 0) break;
        sink(piece.subarray(0, got));
        at += got;
      }
      return { bytes: at - position, milliseconds: Math.round(performance.now() - started) };
    });
  }

  async write(
    path: string,
    position: number,
    source: Uint8Array,
    moved: (bytes: number) => void,
  ): Promise<Moved> {
    const started = performance.now();
    const names = await this.#resolve(path);
    const name = names.pop();
    if (name === undefined) throw new CommandError(`"${path}" is no file`);
    const data = source.slice();
    const directory = await this.#ask(this.#root.walk(...names));
    const file = await this.#openForWriting(directory, name, position === 0);
    try {
      for (let done = 0; done < data.length; done += PIECE) {
        await this.#ask(file.write(position + done, data.subarray(done, done + PIECE)));
        moved(Math.min(data.length, done + PIECE));
      }
      await this.#ask(file.sync());
    } finally {
      await this.#ask(file.close());
      await this.#ask(directory.close());
    }
    return { bytes: data.length, milliseconds: Math.round(performance.now() - started) };
  }

  close(): Promise<void> {
    return this.#ask(this.#root.close());
  }

  async #openForWriting(directory: NinePFile, name: string, truncate: boolean): Promise<NinePFile> {
    const known = await this.#ask(directory.walk(name).catch(() => undefined));
    if (known !== undefined) return this.#ask(known.open(WRITE_ONLY | (truncate ? TRUNCATE : 0)));
    // The fid becomes that of the new file.
    return this.#ask(directory.create(name, WRITE_ONLY));
  }

  async #entry(directory: NinePFile, name: string): Promise<FileEntry> {
    // `..` of the root is the root.
    const file = await this.#ask(directory.walk(...(name === "." ? [] : [name])));
    try {
      const { mode, size } = await this.#ask(file.stat());
      return { name, kind: kindOf(mode), size: Number(size) };
    } finally {
      await this.#ask(file.close());
    }
  }

  async #with<T>(path: string, work: (file: NinePFile) => Promise<T>): Promise<T> {
    const file = await this.#ask(this.#root.walk(...(await this.#resolve(path))));
    try {
      return await work(file);
    } finally {
      await this.#ask(file.close());
    }
  }

  #resolve(path: string): Promise<string[]> {
    return resolvePath(this.#root, path, {
      ask: (promise) => this.#ask(promise),
      isLink: (mode) => kindOf(mode) === "symlink",
    });
  }

  async #ask<T>(promise: Promise<T>): Promise<T> {
    try {
      return await this.#context.wait(promise, "the share");
    } catch (error) {
      if (!(error instanceof NinePError)) throw error;
      throw new CommandError(reasonOfNumber(error.errno), { cause: error });
    }
  }
}

function kindOf(mode: number): FileEntry["kind"] {
  const type = mode & TYPE;
  if (type === DIRECTORY) return "directory";
  if (type === SYMLINK) return "symlink";
  return type === REGULAR ? "file" : "other";
}
