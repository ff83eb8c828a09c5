import type { FileNode, FileSystem } from "../../backends/file-system.ts";
import { MAX_PATH_NAMES } from "../../backends/locate.ts";
import { utf8Length } from "../../memory/utf8.ts";
import { MAX_PATH_BYTES } from "./limits.ts";

/** A directory or file on the way from the root, as the last name of its path. */
interface Link {
  /** Undefined: the root. */
  readonly above: Link | undefined;
  readonly name: string;
  readonly depth: number;
  /** Of the whole path in UTF-8, with one for each name. */
  readonly bytes: number;
}

const ROOT: Link = { above: undefined, name: "", depth: 0, bytes: 0 };

/**
 * Finds where the files of a session are, for its saved state. Each directory is asked for once, whatever number of fids lie below
 * it, and all paths together are bounded.
 */
export class PathFinder {
  readonly #fs: FileSystem;
  /** By `FileNode.id`; null: there is no way to it. */
  readonly #links = new Map<number, Link | null>();
  readonly #held: FileNode[] = [];
  #room = MAX_PATH_BYTES;

  constructor(fs: FileSystem) {
    this.#fs = fs;
    this.#links.set(fs.root.id, ROOT);
  }

  /** Undefined: the node has no name, or the paths so far have used up what they may take together. */
  find(node: FileNode): string[] | undefined {
    const link = this.#link(node);
    if (link === null || link.bytes > this.#room) return undefined;
    this.#room -= link.bytes;
    const path = new Array<string>(link.depth);
    for (let at = link; at.above !== undefined; at = at.above) path[at.depth - 1] = at.name;
    return path;
  }

  /** A path that is known already. */
  take(path: readonly string[] | undefined): readonly string[] | undefined {
    const bytes = (path ?? []).reduce((sum, name) => sum + utf8Length(name) + 1, 0);
    if (bytes > this.#room) return undefined;
    this.#room -= bytes;
    return path;
  }

  /** Gives back the directories that were met. */
  end(): void {
    for (const node of this.#held) this.#fs.release(node);
    this.#held.length = 0;
  }

  #link(node: FileNode): Link | null {
    const climbed: { readonly id: number; readonly name: string }[] = [];
    let at = node;
    let link = this.#links.get(at.id);
    while (link === undefined) {
      const place = climbed.length < MAX_PATH_NAMES ? this.#fs.place(at) : undefined;
      climbed.push({ id: at.id, name: place?.name ?? "" });
      if (place === undefined) {
        link = null;
        break;
      }
      this.#held.push(place.directory);
      at = place.directory;
      link = this.#links.get(at.id);
    }
    for (let step = climbed.pop(); step !== undefined; step = climbed.pop()) {
      link = link === null || link.depth >= MAX_PATH_NAMES ? null : below(link, step.name);
      this.#links.set(step.id, link);
    }
    return link;
  }
}

function below(above: Link, name: string): Link {
  return { above, name, depth: above.depth + 1, bytes: above.bytes + utf8Length(name) + 1 };
}
