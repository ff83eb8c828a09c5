import { renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";

import { makePrivateFolder, writePrivateFile } from "@virtio/node/private-files";

import { UserError } from "../user-error.ts";
import {
  clearSignedText,
  findPackages,
  parseRelease,
  type IndexedFile,
  type IndexedPackage,
  type Release,
} from "./archive-index.ts";
import type { GuestArchitecture } from "./architectures.ts";
import { fetchFile, sha256 } from "./http-file.ts";
import { dependencyOf, type PackageSource } from "./package-source.ts";
import { pinnedPackages } from "./pins.ts";
import type { Progress } from "./progress.ts";
import { findSignatureCheck, verifiedText, type SignatureCheck } from "./signature.ts";

/** Bytes of the longest list of indexes; Debian's have 150 kB. */
const LARGEST_RELEASE = 4 << 20;
/** Bytes of the longest index of packages, compressed or not; those of `main` have 50 MB. */
const LARGEST_INDEX = 256 << 20;
/** Bytes of the largest package; a kernel with its modules has 100 MB. */
const LARGEST_PACKAGE = 512 << 20;

/** A mirror that the user names. */
export interface MirrorOptions {
  /** The folder with `dists` and `pool`. */
  readonly url: string;
  /** Public keys of the archive; absent: Debian's, where they are installed. */
  readonly keyring?: string;
  /** Milliseconds of silence after which the server counts as lost. */
  readonly patience?: number;
  /** What is trusted where no signature can be checked. */
  readonly pins?: Readonly<Record<string, string>>;
  /** For tests: as if this were the answer of `findSignatureCheck`. */
  readonly check?: SignatureCheck | string;
}

/**
 * The packages of a Debian mirror, fetched without apt:
 *
 *     InRelease --signature--> hash of Packages --> Packages --> hash of a package --> package
 *
 * Without gpgv, or without the archive's keys, only packages are taken whose hashes are in this project (pins.ts).
 */
export class MirrorArchive implements PackageSource {
  readonly #folder: string;
  readonly #architecture: GuestArchitecture;
  readonly #options: MirrorOptions;
  readonly #check: SignatureCheck | string;
  readonly #url: string;
  #packages: ReadonlyMap<string, IndexedPackage> = new Map();

  /** `folder` gets the folder `packages`. Throws a UserError when the address is none, or the keyring is not there. */
  constructor(folder: string, architecture: GuestArchitecture, options: MirrorOptions) {
    this.#folder = folder;
    this.#architecture = architecture;
    this.#options = options;
    this.#url = mirrorUrl(options.url);
    this.#check = options.check ?? findSignatureCheck(options.keyring);
  }

  async update(suite: string): Promise<void> {
    const base = `${this.#url}/dists/${suite}`;
    const release = await this.#release(base, suite);
    const index = await this.#index(base, release);
    this.#packages = findPackages(index, (name) => /^linux-image-|^busybox-static$/.test(name));
  }

  async resolve(metaPackage: string, pattern: RegExp): Promise<string> {
    const name = dependencyOf(this.#package(metaPackage).depends, pattern);
    if (name === undefined) throw new UserError(`${this.#url}: ${metaPackage} depends on no kernel`);
    return Promise.resolve(name);
  }

  async download(packages: readonly string[], progress: Progress): Promise<string[]> {
    const wanted = packages.map((name) => this.#package(name));
    for (const file of wanted) this.#checkPinned(file);
    const total = wanted.reduce((sum, { size }) => sum + size, 0);
    const work = join(this.#folder, `packages.new-${process.pid}`);
    const folder = join(this.#folder, "packages");
    makePrivateFolder(work);
    try {
      let before = 0;
      const names: string[] = [];
      for (const file of wanted) {
        const onBytes = (count: number): void => progress.fraction((before + count) / total);
        const bytes = await this.#fetch(`${this.#url}/${file.path}`, file, LARGEST_PACKAGE, onBytes);
        const name = `${file.name}_${encodeURIComponent(file.version)}_${this.#architecture}.deb`;
        writePrivateFile(join(work, name), bytes);
        names.push(name);
        before += file.size;
      }
      rmSync(folder, { recursive: true, force: true });
      renameSync(work, folder);
      return names.map((name) => join(folder, name));
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }

  async #release(base: string, suite: string): Promise<Release> {
    const address = `${base}/InRelease`;
    const bytes = await fetchFile(address, { largest: LARGEST_RELEASE, patience: this.#patience });
    if (bytes === undefined)
      throw new UserError(
        `${address} does not exist: --mirror names the folder of a Debian archive with "dists" in it, that has ${suite}`,
      );
    const text =
      typeof this.#check === "string"
        ? clearSignedText(Buffer.from(bytes).toString("utf8"))
        : await verifiedText(bytes, this.#check);
    const release = parseRelease(text ?? "");
    if (!release.names.includes(suite))
      throw new UserError(`${address} is the index of "${release.names.join(", ")}", not of ${suite}`);
    if (release.validUntil !== undefined && release.validUntil < Date.now())
      throw new UserError(
        `${address} is out of date: it was valid until ${new Date(release.validUntil).toISOString()}`,
      );
    return release;
  }

  async #index(base: string, release: Release): Promise<string> {
    const folder = `main/binary-${this.#architecture}`;
    for (const suffix of [".gz", ".xz", ""]) {
      const file = release.files.get(`${folder}/Packages${suffix}`);
      if (file === undefined) continue;
      const path = release.byHash ? `${folder}/by-hash/SHA256/${file.sha256}` : file.path;
      const bytes = await this.#fetch(`${base}/${path}`, file, LARGEST_INDEX);
      return decompress(bytes, suffix);
    }
    throw new UserError(`${base} has no packages for ${this.#architecture}`);
  }

  async #fetch(
    address: string,
    file: IndexedFile,
    largest: number,
    onBytes?: (count: number) => void,
  ): Promise<Uint8Array> {
    if (file.size > largest)
      throw new UserError(`${address} has ${file.size} bytes, and at most ${largest} are read`);
    const bytes = await fetchFile(address, {
      largest: file.size,
      patience: this.#patience,
      ...(onBytes === undefined ? {} : { onBytes }),
    });
    if (bytes === undefined)
      throw new UserError(
        `${address} does not exist, though the mirror's index names it; it may be being updated: try later`,
      );
    if (bytes.length !== file.size)
      throw new UserError(`${address} has ${bytes.length} bytes instead of ${file.size}: it is cut off`);
    const found = sha256(bytes);
    if (found !== file.sha256)
      throw new UserError(
        `${address} is not what the index names: SHA-256 ${found} instead of ${file.sha256}`,
      );
    return bytes;
  }

  #checkPinned({ name, version, sha256: hash }: IndexedPackage): void {
    if (typeof this.#check !== "string") return;
    const pins = this.#options.pins ?? pinnedPackages[this.#architecture];
    const pin = pins[`${name} ${version}`];
    if (pin === hash) return;
    const what =
      pin === undefined
        ? `the hash of ${name} ${version} is not among those known here`
        : `${name} is not the known one`;
    throw new UserError(
      `The mirror's signature cannot be checked: ${this.#check}. Then only known packages are taken, and ${what}.\n` +
        "Install what is missing, or pass --kernel FILE and --initrd FILE.",
    );
  }

  #package(name: string): IndexedPackage {
    const found = this.#packages.get(name);
    if (found === undefined) throw new UserError(`${this.#url} has no ${name} for ${this.#architecture}`);
    return found;
  }

  get #patience(): number {
    return this.#options.patience ?? 30_000;
  }
}

/** The address without slashes at its end. Throws a UserError when it is none that a mirror can have. */
export function mirrorUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== "" || url.search !== "")
    throw new UserError(
      `--mirror "${text}": an address such as http://HOST/debian is needed, without a password`,
    );
  return url.href.replace(/\/+$/, "");
}

async function decompress(bytes: Uint8Array, suffix: string): Promise<string> {
  if (suffix === "") return Buffer.from(bytes).toString("utf8");
  if (suffix === ".gz") return gunzipSync(bytes, { maxOutputLength: LARGEST_INDEX }).toString("utf8");
  const { decompressXz, xzSize } = await import("@virtio/v86/decompress/xz");
  return Buffer.from(decompressXz(bytes, xzSize(bytes, LARGEST_INDEX))).toString("utf8");
}
