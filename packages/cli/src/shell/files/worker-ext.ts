import ext2fs, { type Disk, type Mounted } from "ext2fs";
import { readLe32 } from "virtio/memory/bytes";
import { hideFromReader, SUPERBLOCK } from "./ext-features.ts";
import { MAX_ENTRIES, PIECE } from "./work.ts";
import type { FileEntry } from "./types.ts";
import type { WorkerDisk } from "./worker-disk.ts";
import type { LibraryFiles } from "./worker.ts";

const TYPE = 0o170000;
const KINDS: ReadonlyMap<number, FileEntry["kind"]> = new Map([
  [0o100000, "file"],
  [0o040000, "directory"],
  [0o120000, "symlink"],
]);
/** The library has 32 bits for places in files. */
const LARGEST = 2 ** 31 - 1;

const INCOMPAT_AT = 96;
/** Where a superblock has the high half of its number of blocks, when it says that it has one. */
const BLOCKS_HIGH_AT = 336;
const INCOMPAT_64BIT = 0x80;

/** ext2, ext3 and ext4 by libext2fs. */
export async function mountExt(disk: WorkerDisk): Promise<LibraryFiles> {
  const superblock = new Uint8Array(SUPERBLOCK.bytes);
  disk.read(SUPERBLOCK.at, superblock);
  // The library asks for blocks by 32 bits: it would take others for those beyond.
  const wide = (readLe32(superblock, INCOMPAT_AT) & INCOMPAT_64BIT) !== 0;
  if (wide && readLe32(superblock, BLOCKS_HIGH_AT) !== 0)
    throw new Error("a file system of more than 2^32 blocks cannot be read");
  hideFromReader(superblock);
  const mounted = await ext2fs.mount(asDisk(disk, disk.writes ? undefined : superblock));
  return new ExtFiles(mounted);
}

class ExtFiles implements LibraryFiles {
  readonly #mounted: Mounted;

  constructor(mounted: Mounted) {
    this.#mounted = mounted;
  }

  async list(given: string): Promise<FileEntry[]> {
    const path = plain(given);
    const fs = this.#mounted.promises;
    const directory = await this.#stat(path);
    if (kindOf(directory.mode) !== "directory") throw new Error(`"${given}" is no directory`);
    const up = await this.#stat(path.slice(0, path.lastIndexOf("/")));
    const entries: FileEntry[] = [
      { name: ".", kind: "directory", size: directory.size },
      { name: "..", kind: "directory", size: up.size },
    ];
    const names = await fs.readdir(path === "" ? "/" : path);
    if (names.length > MAX_ENTRIES) throw new Error(`"${path}" has ${names.length} entries`);
    for (const name of names) {
      try {
        const { mode, size } = await fs.lstat(`${path}/${name}`);
        entries.push({ name, kind: kindOf(mode), size });
      } catch {
        // An entry that leads nowhere is still one.
        entries.push({ name, kind: "other", size: 0 });
      }
    }
    return entries;
  }

  async size(path: string): Promise<number> {
    const { mode, size } = await this.#stat(plain(path));
    return kindOf(mode) === "directory" ? 0 : size;
  }

  async read(
    given: string,
    position: number,
    length: number,
    piece: (bytes: Uint8Array) => void,
  ): Promise<number> {
    const fs = this.#mounted.promises;
    const path = plain(given);
    const { mode, size } = await this.#stat(path);
    if (kindOf(mode) !== "file") throw new Error(`"${given}" is no file`);
    const end = Math.min(size, position + length);
    if (end > LARGEST) throw new Error(`"${path}": what is beyond 2 GiB cannot be read`);
    const file = await fs.open(path, "r");
    let at = position;
    while (at < end) {
      const buffer = Buffer.alloc(Math.min(PIECE, end - at));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) break;
      piece(new Uint8Array(buffer.subarray(0, bytesRead)));
      at += bytesRead;
    }
    await fs.close(file.fd);
    return Math.max(0, at - position);
  }

  async write(
    path: string,
    position: number,
    source: Uint8Array,
    moved: (bytes: number) => void,
  ): Promise<number> {
    if (position + source.length > LARGEST)
      throw new Error(`"${path}": what is beyond 2 GiB cannot be written`);
    const fs = this.#mounted.promises;
    const file = await fs.open(plain(path), position === 0 ? "w" : "r+", 0o644);
    let done = 0;
    try {
      while (done < source.length) {
        const buffer = Buffer.from(source.subarray(done, done + PIECE));
        const { bytesWritten } = await file.write(buffer, 0, buffer.length, position + done);
        if (bytesWritten === 0) throw new Error("the file system is full");
        done += bytesWritten;
        moved(done);
      }
    } finally {
      await fs.close(file.fd);
    }
    return done;
  }

  unmount(): Promise<void> {
    return ext2fs.umount(this.#mounted);
  }

  async #stat(path: string): Promise<{ readonly mode: number; readonly size: number }> {
    return this.#mounted.promises.stat(path === "" ? "/" : path);
  }
}

/** `/a/b`, and the root as nothing: the library takes no other spelling everywhere. */
function plain(path: string): string {
  const names: string[] = [];
  for (const name of path.split("/")) {
    if (name === "..") names.pop();
    else if (name !== "" && name !== ".") names.push(name);
  }
  return names.map((name) => `/${name}`).join("");
}

function kindOf(mode: number): FileEntry["kind"] {
  return KINDS.get(mode & TYPE) ?? "other";
}

/** `superblock`: what the library shall see instead of the disk's. */
function asDisk(disk: WorkerDisk, superblock: Uint8Array | undefined): Disk {
  return {
    read: (buffer, at, length, offset) => {
      disk.read(offset, buffer.subarray(at, at + length));
      if (superblock !== undefined) {
        const from = Math.max(offset, SUPERBLOCK.at);
        const to = Math.min(offset + length, SUPERBLOCK.at + SUPERBLOCK.bytes);
        const seen = superblock.subarray(from - SUPERBLOCK.at, Math.max(from, to) - SUPERBLOCK.at);
        if (from < to) buffer.set(seen, at + from - offset);
      }
      return Promise.resolve({ bytesRead: length, buffer });
    },
    write: (buffer, at, length, offset) => {
      disk.write(offset, buffer.subarray(at, at + length));
      return Promise.resolve({ bytesWritten: length, buffer });
    },
    discard: () => Promise.resolve(),
    flush: () => {
      disk.flush();
      return Promise.resolve();
    },
  };
}
