import { Errno } from "virtio/backends/errno";
import { encodeUtf8 } from "virtio/memory/utf8";
import * as linux from "../native/linux.ts";
import type { HostFiles } from "./host-files.ts";
import { MAX_DEPTH } from "./node-table.ts";

const UP = linux.O_PATH | linux.O_DIRECTORY;
/** `..` so many times is one path that Linux takes. */
const STEPS = 1024;
const PATH = encodeUtf8(`${"../".repeat(STEPS - 1)}..\0`);
const TOP = encodeUtf8("/\0");
/** A directory of the host that lies deeper is not looked for. */
const MAX_HEIGHT = 4 * MAX_DEPTH;

/**
 * How deep a directory lies below the root of a share, by what is above it and not by any path. One call climbs a thousand steps, so
 * that `..` costs a guest little however deep it is.
 */
export class Ascent {
  readonly #files: HostFiles;

  constructor(files: HostFiles) {
    this.#files = files;
  }

  /** Directories between `fd` and the root; undefined: it does not lie below. `guess`: how many it was. */
  depthOf(fd: number, guess: number): number | undefined {
    const { root } = this.#files.table;
    if (guess >= 0 && this.#isAbove(fd, guess, (stat) => root.is(stat))) return guess;
    const top = this.#topOfHost();
    const height = this.#height(fd, top);
    const rootHeight = this.#height(root.fd, top);
    if (height === undefined || rootHeight === undefined || height < rootHeight) return undefined;
    const depth = height - rootHeight;
    return this.#isAbove(fd, depth, (stat) => root.is(stat)) ? depth : undefined;
  }

  /** Directories up to the host's own root, which is above itself: so its first place is found by halving. */
  #height(fd: number, top: number): number | undefined {
    const isTop = (steps: number): boolean => this.#isAbove(fd, steps, (stat) => stat.id === top);
    let high = 1;
    while (!isTop(high)) {
      high *= 2;
      if (high > MAX_HEIGHT) return undefined;
    }
    let low = 0;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (isTop(middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #topOfHost(): number {
    const { libc, stat } = this.#files;
    const fd = this.#files.openAt(linux.AT_FDCWD, TOP, UP, 0);
    try {
      return stat.load(fd).id;
    } finally {
      libc.close(fd);
    }
  }

  /** Whether what lies so many steps above is what is looked for. */
  #isAbove(fd: number, steps: number, matches: (stat: HostFiles["stat"]) => boolean): boolean {
    const { libc, stat } = this.#files;
    let at = fd;
    try {
      for (let left = steps; left > 0;) {
        const now = Math.min(left, STEPS);
        const next = this.#files.openAt(at, PATH.subarray(3 * (STEPS - now)), UP, 0, fd);
        if (at !== fd) libc.close(at);
        at = next;
        left -= now;
      }
      return matches(stat.load(at));
    } catch (error) {
      if (error instanceof Errno) return false;
      throw error;
    } finally {
      if (at !== fd) libc.close(at);
    }
  }
}
