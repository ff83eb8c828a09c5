import { existsSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { makePrivateFolder, writePrivateFile } from "@virtio/node/private-files";

import { messageOf, UserError } from "../user-error.ts";
import { findProgram, runCommand, type CommandResult } from "./command.ts";
import { dependencyOf, type PackageSource } from "./package-source.ts";
import type { Progress } from "./progress.ts";
import { archiveKeyrings } from "./signature.ts";
import { deriveSources, formatDeb822, parseDeb822, parseOneLine, type AptSource } from "./sources.ts";

const [archiveKeyring = ""] = archiveKeyrings;

/**
 * apt with lists, cache and package state of its own, for one architecture of one Debian release. It leaves the system's
 * packages and indexes alone and needs no root; proxies, credentials, mirrors and keys are the system's.
 */
export class PrivateApt implements PackageSource {
  readonly #folder: string;
  readonly #architecture: string;

  constructor(folder: string, architecture: string) {
    this.#folder = folder;
    this.#architecture = architecture;
  }

  /** Makes the private root and fetches the package indexes of `suite`. */
  async update(suite: string): Promise<void> {
    const sources = await systemSources(suite);
    for (const path of ["state/lists/partial", "cache/archives/partial", "etc"]) {
      makePrivateFolder(join(this.#folder, path));
    }
    writePrivateFile(join(this.#folder, "status"), "");
    writePrivateFile(join(this.#folder, "etc/debian.sources"), formatDeb822(sources, this.#architecture));
    writePrivateFile(this.#configFile, this.#configuration());
    // A mirror may lack one of the archives, or be in the middle of a sync: what matters is whether the packages are known.
    const result = await this.#get(["update"]);
    if (result.status !== 0 && !(await this.#knows("base-files"))) {
      throw new UserError(
        `apt-get update failed for Debian ${suite}:\n${errorLines(result)}\n${ownKernelHint}`,
      );
    }
  }

  /** The package that a meta package depends on whose name matches. */
  async resolve(metaPackage: string, pattern: RegExp): Promise<string> {
    const result = await this.#cache(["show", "--no-all-versions", metaPackage]);
    const depends = /^Depends: (.*)$/m.exec(result.stdout)?.[1] ?? "";
    const name = dependencyOf(depends, pattern);
    if (name !== undefined) return name;
    throw new UserError(`apt knows no package for ${metaPackage} (${this.#architecture}).\n${ownKernelHint}`);
  }

  /** A package and all that it depends on: what an installation on an empty system would install. */
  async closure(name: string): Promise<string[]> {
    const result = await this.#get(["--simulate", "--no-install-recommends", "install", name]);
    const names = [...result.stdout.matchAll(/^Inst (\S+)/gm)].map(([, found = ""]) => found);
    if (result.status !== 0 || names.length === 0) {
      throw new UserError(`apt does not know how to install ${name}:\n${errorLines(result)}`);
    }
    return names;
  }

  /** Downloads the packages, with apt's own check of their hashes, and gives the path of each, in order. */
  async download(packages: readonly string[], progress: Progress): Promise<string[]> {
    const folder = join(this.#folder, "packages");
    rmSync(folder, { recursive: true, force: true });
    makePrivateFolder(folder);
    const result = await this.#get(["-o", "APT::Status-Fd=3", "download", ...packages], folder, (line) => {
      const percent = /^dlstatus:[^:]*:([\d.]+):/.exec(line)?.[1];
      if (percent !== undefined) progress.fraction(Number(percent) / 100);
    });
    const files = readdirSync(folder);
    return packages.map((name) => {
      const file = files.find((candidate) => candidate.startsWith(`${name}_`) && candidate.endsWith(".deb"));
      if (result.status !== 0 || file === undefined) {
        throw new UserError(`apt-get download ${name} failed:\n${errorLines(result)}\n${ownKernelHint}`);
      }
      return join(folder, file);
    });
  }

  async #knows(name: string): Promise<boolean> {
    return (await this.#cache(["show", name])).stdout !== "";
  }

  async #get(
    argv: readonly string[],
    cwd?: string,
    onStatus?: (line: string) => void,
  ): Promise<CommandResult> {
    const options = {
      ...(cwd === undefined ? {} : { cwd }),
      ...(onStatus === undefined ? {} : { onStatus }),
    };
    return runCommand("apt-get", ["-c", this.#configFile, ...argv], options);
  }

  async #cache(argv: readonly string[]): Promise<CommandResult> {
    return runCommand("apt-cache", ["-c", this.#configFile, ...argv]);
  }

  get #configFile(): string {
    return join(this.#folder, "apt.conf");
  }

  #configuration(): string {
    const path = (name: string): string => `"${join(this.#folder, name)}"`;
    // Hooks of the system would run for our update; `-c` is read after the system's own files and can clear them.
    return `#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
Dir::State ${path("state")};
Dir::State::status ${path("status")};
Dir::Cache ${path("cache")};
Dir::Etc::sourcelist ${path("etc/debian.sources")};
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "${this.#architecture}";
APT::Architectures { "${this.#architecture}"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Quiet "1";
`;
  }
}

export const ownKernelHint: string =
  "Any Debian mirror serves: virtio setup --mirror URL (or VIRTIO_MIRROR=URL) fetches from it without apt.\n" +
  "With a kernel of your own nothing is fetched: pass --kernel FILE and --initrd FILE.";

/** The sources of `suite`, from those the system has. */
async function systemSources(suite: string): Promise<AptSource[]> {
  if (findProgram("apt-get") === undefined || findProgram("dpkg-deb") === undefined) {
    throw new UserError(
      `The guest kernel comes from Debian's packages, and this system has no apt-get and dpkg-deb.\n${ownKernelHint}`,
    );
  }
  const derived = deriveSources([...(await configuredSources()), ...(await indexedSources())], suite);
  if (derived.length > 0) return derived;
  if (!existsSync(archiveKeyring)) {
    throw new UserError(
      "apt's configuration names no Debian archive, as on Ubuntu and its like, and the keys of Debian's are missing: " +
        `run \`apt-get install debian-archive-keyring\` and start again.\n${ownKernelHint}`,
    );
  }
  const options = new Map([["signed-by", ` ${archiveKeyring}`]]);
  return [{ uri: "http://deb.debian.org/debian", suite, components: ["main"], options }];
}

/** What sources.list and sources.list.d say. */
async function configuredSources(): Promise<AptSource[]> {
  const shell = ["shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"];
  const { stdout } = await runCommand("apt-config", shell);
  const value = (name: string): string => new RegExp(`^${name}='(.*)'$`, "m").exec(stdout)?.[1] ?? "";
  const parts = value("PARTS");
  const files = [value("LIST")];
  if (parts && existsSync(parts))
    files.push(
      ...readdirSync(parts)
        .sort()
        .map((name) => join(parts, name)),
    );
  const sources: AptSource[] = [];
  for (const file of files) {
    try {
      if (file.endsWith(".sources")) sources.push(...parseDeb822(readFileSync(file, "utf8")));
      else if (file.endsWith(".list")) sources.push(...parseOneLine(readFileSync(file, "utf8")));
    } catch (error) {
      if (existsSync(file)) throw new UserError(`cannot read ${file}: ${messageOf(error)}`);
    }
  }
  return sources;
}

/** What apt has indexes of: it knows the server behind a source whose address is not written as one. */
async function indexedSources(): Promise<AptSource[]> {
  const format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)";
  const { stdout } = await runCommand("apt-get", [
    "indextargets",
    "--format",
    format,
    "Created-By: Packages",
  ]);
  return stdout.split("\n").flatMap((line) => {
    const [uri, suite, component, key] = line.split("|");
    if (!uri || !suite || !component) return [];
    const signedBy = key && !key.startsWith("$(") ? key : undefined;
    const options = new Map(signedBy === undefined ? [] : [["signed-by", ` ${signedBy}`] as const]);
    return [{ uri, suite, components: [component], options }];
  });
}

function errorLines(result: CommandResult): string {
  const lines = result.stderr.split("\n").filter((line) => /^[EW]: /.test(line));
  return (lines.length > 0 ? lines : result.stderr.split("\n").slice(-10)).join("\n");
}
