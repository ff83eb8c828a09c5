/** Texts of a Debian archive: the signed list of its indexes, and the index of packages. */

/** A file of an archive as an index names it. */
export interface IndexedFile {
  /** Relative to the folder of the index that names it. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** In hexadecimal. */
  readonly sha256: string;
}

/** What a `Release` file says. */
export interface Release {
  readonly names: readonly string[];
  /** Milliseconds since 1970; absent: for ever. */
  readonly validUntil?: number;
  readonly byHash: boolean;
  readonly files: ReadonlyMap<string, IndexedFile>;
}

/** A package of an index. */
export interface IndexedPackage extends IndexedFile {
  readonly name: string;
  readonly version: string;
  readonly depends: string;
}

const hash = /^[0-9a-f]{64}$/;

/** The signed text of a clear-signed file, as it is in the file: whether the signature is good is not looked at. */
export function clearSignedText(file: string): string | undefined {
  const match =
    /^-----BEGIN PGP SIGNED MESSAGE-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^]*?)\r?\n-----BEGIN PGP SIGNATURE-----/m.exec(
      file,
    );
  return match?.[1]?.replaceAll(/^- /gm, "");
}

/** Fields of one stanza, by their names in small letters. Continued lines keep their line feeds. */
function fieldsOf(stanza: string): Map<string, string> {
  const fields = new Map<string, string>();
  let current = "";
  for (const line of stanza.split(/\r?\n/)) {
    if (/^[ \t]/.test(line)) {
      fields.set(current, `${fields.get(current) ?? ""}\n${line.trim()}`);
      continue;
    }
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    current = line.slice(0, colon).toLowerCase();
    fields.set(current, line.slice(colon + 1).trim());
  }
  return fields;
}

export function parseRelease(text: string): Release {
  const fields = fieldsOf(text);
  const files = new Map<string, IndexedFile>();
  for (const line of (fields.get("sha256") ?? "").split("\n")) {
    const [sha256 = "", size = "", path = ""] = line.trim().split(/\s+/);
    if (hash.test(sha256) && /^\d{1,12}$/.test(size) && isInside(path))
      files.set(path, { path, size: Number(size), sha256 });
  }
  const until = Date.parse(fields.get("valid-until") ?? "");
  return {
    names: [fields.get("suite"), fields.get("codename")].filter((name) => name !== undefined),
    byHash: fields.get("acquire-by-hash") === "yes",
    files,
    ...(Number.isNaN(until) ? {} : { validUntil: until }),
  };
}

/** The packages of an index whose names are asked for, the newest version of each. */
export function findPackages(index: string, wanted: (name: string) => boolean): Map<string, IndexedPackage> {
  const found = new Map<string, IndexedPackage>();
  for (const stanza of index.split(/\r?\n\r?\n/)) {
    const name = /^Package: (\S+)$/m.exec(stanza)?.[1];
    if (name === undefined || !wanted(name)) continue;
    const fields = fieldsOf(stanza);
    const [version = "", path = "", size = "", sha256 = ""] = ["version", "filename", "size", "sha256"].map(
      (field) => fields.get(field),
    );
    if (!isInside(path) || !/^\d{1,12}$/.test(size) || !hash.test(sha256)) continue;
    const other = found.get(name);
    if (other !== undefined && compareVersions(other.version, version) >= 0) continue;
    found.set(name, {
      name,
      version,
      path,
      size: Number(size),
      sha256,
      depends: fields.get("depends") ?? "",
    });
  }
  return found;
}

/** A path that does not leave the folder it is relative to. */
function isInside(path: string): boolean {
  return path !== "" && !path.startsWith("/") && !path.split("/").includes("..") && !/[\\?#%\0]/.test(path);
}

/** Below, equal to or above 0 as `a` is older than, as old as or newer than `b` (Debian Policy, "Version"). */
export function compareVersions(a: string, b: string): number {
  const [x, y] = [a, b].map((version) => {
    const [, epoch = "0", rest = ""] = /^(?:(\d+):)?(.*)$/.exec(version) ?? [];
    const dash = rest.lastIndexOf("-");
    return [epoch, dash < 0 ? rest : rest.slice(0, dash), dash < 0 ? "" : rest.slice(dash + 1)];
  });
  for (const part of [0, 1, 2]) {
    const order = comparePart(x?.[part] ?? "", y?.[part] ?? "");
    if (order !== 0) return order;
  }
  return 0;
}

/** Pieces without digits and numbers take turns. */
function comparePart(a: string, b: string): number {
  const pieces = (text: string): string[] => text.split(/(\d+)/);
  const [x, y] = [pieces(a), pieces(b)];
  for (let index = 0; index < Math.max(x.length, y.length); index++) {
    const [left = "", right = ""] = [x[index], y[index]];
    const order = index % 2 === 1 ? Number(left || 0) - Number(right || 0) : compareWords(left, right);
    if (order !== 0) return order;
  }
  return 0;
}

/** "~" sorts before the end, letters before everything else. */
function compareWords(a: string, b: string): number {
  const weight = (char: string | undefined): number =>
    char === "~"
      ? -1
      : char === undefined
        ? 0
        : /[A-Za-z]/.test(char)
          ? char.charCodeAt(0)
          : char.charCodeAt(0) + 256;
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const order = weight(a[index]) - weight(b[index]);
    if (order !== 0) return order;
  }
  return 0;
}
