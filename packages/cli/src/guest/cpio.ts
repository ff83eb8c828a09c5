/** Writes an archive in cpio's "newc" format, the one Linux unpacks into its first root file system. */
export class CpioWriter {
  readonly #parts: Uint8Array[] = [];
  readonly #folders = new Set<string>();
  #length = 0;
  #inode = 1;

  /** A folder, and those it lies in, unless they were written before. */
  folder(path: string): void {
    if (path === "" || path === "." || this.#folders.has(path)) return;
    this.folder(parentOf(path));
    this.#folders.add(path);
    this.#entry(path, 0o040755, new Uint8Array(0));
  }

  file(path: string, data: Uint8Array | string, permissions = 0o644): void {
    this.folder(parentOf(path));
    this.#entry(path, 0o100000 | permissions, typeof data === "string" ? Buffer.from(data) : data);
  }

  symlink(path: string, target: string): void {
    this.folder(parentOf(path));
    this.#entry(path, 0o120777, Buffer.from(target));
  }

  characterDevice(path: string, major: number, minor: number, permissions = 0o600): void {
    this.folder(parentOf(path));
    this.#entry(path, 0o020000 | permissions, new Uint8Array(0), major, minor);
  }

  /** The whole archive, with its trailer, padded to 512 bytes. The writer is spent. */
  finish(): Uint8Array {
    this.#entry("TRAILER!!!", 0, new Uint8Array(0));
    this.#pad(512);
    return Buffer.concat(this.#parts);
  }

  #entry(path: string, mode: number, data: Uint8Array, major = 0, minor = 0): void {
    const name = Buffer.from(`${path}\0`);
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    const fields = [this.#inode++, mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
    const header = fields.map((field) => field.toString(16).padStart(8, "0")).join("");
    this.#push(Buffer.from(`070701${header}`));
    this.#push(name);
    this.#pad(4);
    this.#push(data);
    this.#pad(4);
  }

  #push(bytes: Uint8Array): void {
    this.#parts.push(bytes);
    this.#length += bytes.length;
  }

  #pad(alignment: number): void {
    const missing = -this.#length & (alignment - 1);
    if (missing > 0) this.#push(new Uint8Array(missing));
  }
}

function parentOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? "" : path.slice(0, slash);
}
