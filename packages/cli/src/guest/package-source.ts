import type { Progress } from "./progress.ts";

/** Where Debian packages of one architecture come from. Whatever it gives has been verified. */
export interface PackageSource {
  /** Reads what there is in the release `suite`; to be called first. */
  update(suite: string): Promise<void>;
  /** The name of the package that a meta package depends on whose name matches. */
  resolve(metaPackage: string, pattern: RegExp): Promise<string>;
  /** Downloads packages; gives the path of each, in order. */
  download(packages: readonly string[], progress: Progress): Promise<string[]>;
}

/** The name that meets `pattern` among those of a `Depends` field. */
export function dependencyOf(depends: string, pattern: RegExp): string | undefined {
  const names = depends.split(",").map((entry) => entry.trim().split(/[\s:]/)[0] ?? "");
  return names.find((name) => pattern.test(name));
}
