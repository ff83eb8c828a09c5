import type { FileHandle, FileNode, FileSystem } from "./file-system.ts";

/** Names of one path; a chain of places that is longer has been changed while it was followed. */
export const MAX_PATH_NAMES = 4096;

/** Names from the root to one place where the node is now; undefined: none leads to it. */
export function locate<N extends FileNode, H extends FileHandle>(
  fs: FileSystem<N, H>,
  node: N,
): string[] | undefined {
  const names: string[] = [];
  let at = node;
  fs.retain(at);
  try {
    while (at.id !== fs.root.id) {
      const place = names.length < MAX_PATH_NAMES ? fs.place(at) : undefined;
      if (place === undefined) return undefined;
      names.push(place.name);
      fs.release(at);
      at = place.directory;
    }
  } finally {
    fs.release(at);
  }
  return names.reverse();
}
