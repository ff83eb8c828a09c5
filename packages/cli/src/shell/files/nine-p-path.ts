import type { NinePFile } from "virtio/drivers/9p/file";
import { CommandError } from "../errors.ts";
import { reasonOf } from "../../reasons.ts";

/** Symbolic links within one path, as Linux has it. */
const MAX_LINKS = 40;
/** Bytes of a path with the links in it, as PATH_MAX has it. */
const MAX_PATH = 4096;

/** What the directory of a share is asked while a path is looked at. */
export interface Lookup {
  /** What the server answers, with its errors as they are told to people. */
  ask<T>(promise: Promise<T>): Promise<T>;
  isLink(mode: number): boolean;
}

/**
 * The names from the root of a share to the file that a path means, without symbolic links: 9P leaves it to the client to
 * follow them. An absolute one begins at the root of the share, and `..` never leads above it. The last name need
 * not exist.
 */
export async function resolvePath(root: NinePFile, path: string, lookup: Lookup): Promise<string[]> {
  const rest = namesOf(path).reverse();
  const names: string[] = [];
  let links = 0;
  for (let name = rest.pop(); name !== undefined; name = rest.pop()) {
    if (name === "..") {
      names.pop();
      continue;
    }
    const target = await linkTarget(root, [...names, name], rest.length === 0, lookup);
    if (target === undefined) {
      names.push(name);
      continue;
    }
    if (++links > MAX_LINKS) throw new CommandError(reasonOf("ELOOP"));
    if (target.startsWith("/")) names.length = 0;
    rest.push(...namesOf(target).reverse());
    if (rest.join("/").length > MAX_PATH) throw new CommandError(reasonOf("ENAMETOOLONG"));
  }
  return names;
}

/** Where a symbolic link leads; undefined: it is none, or there is nothing. */
async function linkTarget(
  root: NinePFile,
  names: readonly string[],
  last: boolean,
  lookup: Lookup,
): Promise<string | undefined> {
  const walked = root.walk(...names);
  // Whether a file that is not there may be made is for the caller to say.
  const file = await lookup.ask(last ? walked.catch(() => undefined) : walked);
  if (file === undefined) return undefined;
  try {
    const { mode } = await lookup.ask(file.stat());
    return lookup.isLink(mode) ? await lookup.ask(file.readLink()) : undefined;
  } finally {
    await lookup.ask(file.close());
  }
}

function namesOf(path: string): string[] {
  return path.split("/").filter((name) => name !== "" && name !== ".");
}
