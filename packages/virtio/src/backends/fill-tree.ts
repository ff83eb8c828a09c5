import { encodeUtf8 } from "../memory/utf8.ts";
import { O_CREAT, O_EXCL, O_WRONLY, type FileNode, type FileSystem, type Owner } from "./file-system.ts";
import type { MaybePromise } from "../device/device.ts";

/** A file by its text or its bytes, a directory by what is in it, or either with more said. */
export type TreeEntry = string | Uint8Array | TreeFile | TreeSymlink | TreeDirectory;

export interface TreeFile extends Partial<Owner> {
  readonly file: string | Uint8Array;
  /** Permission bits. Default 0o644. */
  readonly mode?: number;
}

export interface TreeSymlink extends Partial<Owner> {
  readonly symlink: string;
}

export interface TreeDirectory extends Partial<Owner> {
  readonly directory: Readonly<Record<string, TreeEntry>>;
  /** Permission bits. Default 0o755. */
  readonly mode?: number;
}

/**
 * Makes what the description says below `directory` (default: the root): `{ "hello.txt": "hello", bin: { directory: { … } } }`.
 * For synchronous file systems only.
 */
export function fillTree(
  fs: FileSystem,
  tree: Readonly<Record<string, TreeEntry>>,
  directory: FileNode = fs.root,
): void {
  for (const [name, entry] of Object.entries(tree)) {
    const plain = typeof entry === "string" || entry instanceof Uint8Array ? { file: entry } : entry;
    const owner = { uid: plain.uid ?? 0, gid: plain.gid ?? 0 };
    if ("symlink" in plain) {
      fs.release(now(fs.makeSymlink(directory, name, plain.symlink, owner)));
    } else if ("directory" in plain) {
      const node = now(fs.makeDirectory(directory, name, plain.mode ?? 0o755, owner));
      fillTree(fs, plain.directory, node);
      fs.release(node);
    } else {
      const bytes = typeof plain.file === "string" ? encodeUtf8(plain.file) : plain.file;
      fillFile(fs, directory, name, bytes, plain.mode ?? 0o644, owner);
    }
  }
}

function fillFile(
  fs: FileSystem,
  directory: FileNode,
  name: string,
  bytes: Uint8Array,
  mode: number,
  owner: Owner,
): void {
  const { node, handle } = now(fs.create(directory, name, O_WRONLY | O_CREAT | O_EXCL, mode, owner));
  for (let done = 0; done < bytes.length;) done += now(fs.write(handle, done, bytes.subarray(done)));
  now(fs.close(handle));
  fs.release(node);
}

function now<T>(value: MaybePromise<T>): T {
  if (value instanceof Promise) throw new Error("fillTree needs a synchronous file system");
  return value;
}
