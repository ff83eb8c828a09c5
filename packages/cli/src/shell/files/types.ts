/** What a directory lists. */
export interface FileEntry {
  readonly name: string;
  readonly kind: "file" | "directory" | "symlink" | "other";
  /** Bytes. */
  readonly size: number;
}

export type FileSystemType = "ext4" | "fat" | "9p";

/** Where the pieces of a file go, in order. */
export type Sink = (piece: Uint8Array) => void;

/** A file system while a command works on it. Every method rejects with an Error whose message is for people. */
export interface Files {
  readonly type: FileSystemType;
  list(path: string): Promise<readonly FileEntry[]>;
  /** Of a directory 0. */
  size(path: string): Promise<number>;
  /** At most `length` bytes from `position` on; gives the milliseconds that it took, and the bytes. */
  read(path: string, position: number, length: number, sink: Sink): Promise<Moved>;
  /**
   * Makes the file when there is none; at position 0 it has only the new bytes afterwards. `moved` is told how many are
   * written so far.
   */
  write(path: string, position: number, source: Uint8Array, moved: (bytes: number) => void): Promise<Moved>;
  close(): Promise<void>;
}

export interface Moved {
  readonly bytes: number;
  readonly milliseconds: number;
}
