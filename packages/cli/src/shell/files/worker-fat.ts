import * as FatFs from "js-fatfs";
import { readLe16 } from "virtio/memory/bytes";
import { SECTOR } from "../disk/disk.ts";
import { MAX_ENTRIES, PIECE } from "./work.ts";
import type { FileEntry } from "./types.ts";
import type { WorkerDisk } from "./worker-disk.ts";
import type { LibraryFiles } from "./worker.ts";

const REASONS: ReadonlyMap<number, string> = new Map([
  [FatFs.FR_DISK_ERR, "the disk failed"],
  [FatFs.FR_INT_ERR, "the file system is broken"],
  [FatFs.FR_NO_FILE, "no such file"],
  [FatFs.FR_NO_PATH, "no such directory"],
  [FatFs.FR_INVALID_NAME, "this is no name of a file"],
  [FatFs.FR_DENIED, "this cannot be done, or the file system is full"],
  [FatFs.FR_WRITE_PROTECTED, "the disk is read-only"],
  [FatFs.FR_NO_FILESYSTEM, "no FAT that can be read"],
  [FatFs.FR_NOT_ENOUGH_CORE, "not enough memory"],
]);

/** Bytes of a file at most: its size has 32 bits. */
const LARGEST = 0xffff_ffff;

/** FAT12, FAT16 and FAT32 by FatFs. */
export async function mountFat(disk: WorkerDisk): Promise<LibraryFiles> {
  const ff = await FatFs.create({ diskio: asDisk(disk) });
  const volume = ff.malloc(FatFs.sizeof_FATFS);
  check(ff.f_mount(volume, "", 1), "");
  return new FatFiles(ff);
}

class FatFiles implements LibraryFiles {
  readonly #ff: FatFs.FatFs;

  constructor(ff: FatFs.FatFs) {
    this.#ff = ff;
  }

  list(path: string): Promise<FileEntry[]> {
    const ff = this.#ff;
    const directory = ff.malloc(FatFs.sizeof_DIR);
    const info = ff.malloc(FatFs.sizeof_FILINFO);
    check(ff.f_opendir(directory, path), path);
    const entries: FileEntry[] = [];
    for (;;) {
      check(ff.f_readdir(directory, info), path);
      const name = ff.FILINFO_fname(info);
      if (name === "") break;
      const kind = (ff.FILINFO_fattrib(info) & FatFs.AM_DIR) === 0 ? "file" : "directory";
      if (entries.push({ name, kind, size: ff.FILINFO_fsize(info) >>> 0 }) > MAX_ENTRIES)
        throw new Error(`"${path}" has more than ${MAX_ENTRIES} entries`);
    }
    return Promise.resolve(entries);
  }

  size(path: string): Promise<number> {
    const ff = this.#ff;
    const info = ff.malloc(FatFs.sizeof_FILINFO);
    // The root has no entry of its own.
    if (/^\/*$/.test(path)) return Promise.resolve(0);
    check(ff.f_stat(path, info), path);
    return Promise.resolve(
      (ff.FILINFO_fattrib(info) & FatFs.AM_DIR) === 0 ? ff.FILINFO_fsize(info) >>> 0 : 0,
    );
  }

  read(path: string, position: number, length: number, piece: (bytes: Uint8Array) => void): Promise<number> {
    const file = this.#open(path, FatFs.FA_READ);
    const ff = this.#ff;
    const size = ff.f_size(file) >>> 0;
    const end = Math.min(size, position + length);
    const buffer = ff.malloc(PIECE);
    const count = ff.malloc(4);
    if (position > 0 && position < size) check(ff.f_lseek(file, position), path);
    let at = position;
    while (at < end) {
      check(ff.f_read(file, buffer, Math.min(PIECE, end - at), count), path);
      const got = ff.getValue(count, "i32");
      if (got <= 0) break;
      piece(ff.HEAPU8.slice(buffer, buffer + got));
      at += got;
    }
    check(ff.f_close(file), path);
    return Promise.resolve(Math.max(0, at - position));
  }

  write(path: string, position: number, source: Uint8Array, moved: (bytes: number) => void): Promise<number> {
    if (position + source.length > LARGEST) throw new Error(`"${path}": no file of a FAT goes beyond 4 GiB`);
    const file = this.#open(
      path,
      FatFs.FA_WRITE | (position === 0 ? FatFs.FA_CREATE_ALWAYS : FatFs.FA_OPEN_ALWAYS),
    );
    const ff = this.#ff;
    const buffer = ff.malloc(PIECE);
    const count = ff.malloc(4);
    const before = ff.f_size(file) >>> 0;
    if (position > 0) check(ff.f_lseek(file, position), path);
    // It goes as far as there is room, and calls that a success.
    if (ff.f_tell(file) >>> 0 !== position) {
      ff.f_lseek(file, before);
      ff.f_truncate(file);
      ff.f_close(file);
      throw new Error("the file system is full");
    }
    let done = 0;
    while (done < source.length) {
      const bytes = source.subarray(done, done + PIECE);
      ff.HEAPU8.set(bytes, buffer);
      check(ff.f_write(file, buffer, bytes.length, count), path);
      const written = ff.getValue(count, "i32");
      done += written;
      moved(done);
      if (written < bytes.length) {
        ff.f_close(file);
        throw new Error("the file system is full");
      }
    }
    check(ff.f_close(file), path);
    return Promise.resolve(done);
  }

  unmount(): Promise<void> {
    check(this.#ff.f_unmount(""), "");
    return Promise.resolve();
  }

  #open(path: string, mode: number): number {
    const file = this.#ff.malloc(FatFs.sizeof_FIL);
    check(this.#ff.f_open(file, path, mode), path);
    return file;
  }
}

function check(result: number, path: string): void {
  if (result === FatFs.FR_OK) return;
  const reason = REASONS.get(result) ?? `FatFs says ${result}`;
  throw new Error(path === "" ? reason : `"${path}": ${reason}`);
}

/** A failure is a number here, and never thrown through the library. */
function asDisk(disk: WorkerDisk): FatFs.DiskIO {
  const sectorSize = sectorSizeOf(disk);
  const attempt = (work: () => void): number => {
    try {
      work();
      return FatFs.RES_OK;
    } catch {
      return FatFs.RES_ERROR;
    }
  };
  return {
    initialize: () => 0,
    status: () => 0,
    read: (ff, _drive, buffer, sector, count) =>
      attempt(() => {
        const bytes = new Uint8Array(count * sectorSize);
        disk.read((sector >>> 0) * sectorSize, bytes);
        ff.HEAPU8.set(bytes, buffer);
      }),
    write: (ff, _drive, buffer, sector, count) =>
      attempt(() =>
        disk.write((sector >>> 0) * sectorSize, ff.HEAPU8.slice(buffer, buffer + count * sectorSize)),
      ),
    ioctl: (ff, _drive, command, buffer) => {
      switch (command) {
        case FatFs.CTRL_SYNC:
          return attempt(() => disk.flush());
        case FatFs.GET_SECTOR_COUNT:
          // FatFs has 32 bits for a sector's number, and a FAT has no more.
          ff.setValue(buffer, Math.min(Math.floor((disk.sectors * SECTOR) / sectorSize), 0xffff_ffff), "i32");
          return FatFs.RES_OK;
        case FatFs.GET_SECTOR_SIZE:
          ff.setValue(buffer, sectorSize, "i16");
          return FatFs.RES_OK;
        case FatFs.GET_BLOCK_SIZE:
          ff.setValue(buffer, 1, "i32");
          return FatFs.RES_OK;
        default:
          return FatFs.RES_PARERR;
      }
    },
  };
}

/** The file system's sectors, which may be larger than the disk's. */
function sectorSizeOf(disk: WorkerDisk): number {
  const bytes = new Uint8Array(SECTOR);
  disk.read(0, bytes);
  const size = readLe16(bytes, 11);
  return size > SECTOR && size <= FatFs.FF_MAX_SS && Number.isInteger(Math.log2(size)) ? size : SECTOR;
}
