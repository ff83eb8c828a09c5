import { basename, resolve } from "node:path";

import { UserError } from "../user-error.ts";

/** `--share DIR[:TAG]`: without a tag, the directory's name is one. */
export function parseShare(value: string): { readonly path: string; readonly tag: string } {
  const colon = value.lastIndexOf(":");
  const path = colon > 0 ? value.slice(0, colon) : value;
  const tag = colon > 0 ? value.slice(colon + 1) : basename(resolve(path));
  // The tag is a folder's name in the guest, and goes over the control port.
  if (!/^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,30}$/.test(tag) || tag === "." || tag === "..") {
    throw new UserError(
      `--share ${value}: "${tag}" cannot be a tag; say --share DIR:TAG with letters and digits`,
    );
  }
  return { path, tag };
}
