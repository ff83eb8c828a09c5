import type { MaybePromise } from "../../device/device.ts";
import { Errno } from "../../backends/errno.ts";
import { type FileNode, type FileSystem, S_IFDIR } from "../../backends/file-system.ts";
import { now } from "./fids.ts";

/**
 * A walk through the tree, name by name, and what it holds: a reference of the node it has come to, and one of the directory in
 * which that was found. A loop and no recursion, for the driver says how many names there are.
 */
export class Way {
  readonly #fs: FileSystem;
  node: FileNode;
  /** Undefined: at the start, or behind `..`. */
  directory: FileNode | undefined;
  /** Of the node, in `directory`. */
  name: string;
  steps = 0;

  constructor(fs: FileSystem, node: FileNode, directory?: FileNode, name = "") {
    this.#fs = fs;
    this.node = node;
    this.directory = directory;
    this.name = name;
    fs.retain(node);
    if (directory !== undefined) fs.retain(directory);
  }

  /** Calls `step` with each node on the way. When a name fails, that is the error, and the way ends where it got to. */
  follow(names: readonly string[], step: (node: FileNode) => void): MaybePromise<void> {
    if (this.#fs.asynchronous) return this.#followLater(names, step);
    for (const name of names) {
      this.#took(name, now(this.#next(name)));
      step(this.node);
    }
  }

  /** Gives back what is held. */
  leave(): void {
    this.#fs.release(this.node);
    if (this.directory !== undefined) this.#fs.release(this.directory);
  }

  async #followLater(names: readonly string[], step: (node: FileNode) => void): Promise<void> {
    for (const name of names) {
      this.#took(name, await this.#next(name));
      step(this.node);
    }
  }

  #next(name: string): MaybePromise<FileNode> {
    if (this.node.kind !== S_IFDIR) throw Errno.of("ENOTDIR");
    return name === ".." ? this.#fs.parent(this.node) : this.#fs.lookup(this.node, name);
  }

  #took(name: string, node: FileNode): void {
    const { node: before, directory } = this;
    const up = name === "..";
    if (directory !== undefined) this.#fs.release(directory);
    if (up) this.#fs.release(before);
    this.directory = up ? undefined : before;
    this.name = up ? "" : name;
    this.node = node;
    this.steps++;
  }
}

/** The way from the root to the end of `names`, which the caller leaves or takes over. */
export function walkPath(fs: FileSystem, names: readonly string[]): MaybePromise<Way> {
  const way = new Way(fs, fs.root);
  const failed = (error: unknown): never => {
    way.leave();
    throw error;
  };
  let followed: MaybePromise<void>;
  try {
    followed = way.follow(names, () => {});
  } catch (error) {
    return failed(error);
  }
  return followed instanceof Promise ? followed.then(() => way, failed) : way;
}
