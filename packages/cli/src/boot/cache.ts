import { createHash } from "node:crypto";
import { readFileSync, readdirSync, rmSync, statSync, utimesSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { makePrivateFolder, writePrivateFile } from "@virtio/node/private-files";

import type { BuiltDevice } from "./build.ts";
import type { MachineDescription } from "./description.ts";

/** Saved states that are kept, the latest used ones: some 50 MB each. */
const kept = 4;

/** Saved states of booted guests, each for one kernel, command line, memory size and set of devices. */
export class StateCache {
  readonly #folder: string;
  readonly #path: string;

  constructor(home: string, key: string) {
    this.#folder = join(home, "states");
    this.#path = join(this.#folder, `${key}.state`);
  }

  read(): Uint8Array | undefined {
    try {
      const state = readFileSync(this.#path);
      const now = new Date();
      utimesSync(this.#path, now, now);
      return state;
    } catch {
      return undefined;
    }
  }

  /** Never fails: without the cache the next start is slower. */
  write(state: Uint8Array): void {
    try {
      makePrivateFolder(this.#folder);
      // Whole, for another start may be writing the same state.
      writePrivateFile(this.#path, state);
      this.#trim();
    } catch {
      this.remove();
    }
  }

  remove(): void {
    rmSync(this.#path, { force: true });
  }

  #trim(): void {
    const files = readdirSync(this.#folder).map((name) => {
      const path = join(this.#folder, name);
      return { path, time: statSync(path).mtimeMs };
    });
    files.sort((a, b) => b.time - a.time);
    for (const { path } of files.slice(kept)) rmSync(path, { force: true });
  }
}

/** What a saved state of a booted guest depends on. Contents of disks and directories are not in it. */
export function stateKey(
  digest: string,
  commandLine: string,
  machine: MachineDescription,
  built: readonly BuiltDevice[],
): string {
  const devices = built.map(({ description: { label, kind, plug, ring }, device }) => {
    const queues = device.queues.map((queue) => queue.maxSize);
    return [label, kind, plug, ring, device.features.toString(16), device.config?.length, queues];
  });
  const parts = [digest, commandLine, machine.memorySize, machine.legacyMmio, devices, codeVersion()];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
}

/** Changes with the code whose state is saved: the build's stamps in a clone, else the versions of the packages. */
function codeVersion(): unknown[] {
  const require = createRequire(import.meta.url);
  return ["virtio", "@virtio/v86", "@virtio/cli", "v86"].map((name) => {
    try {
      const folder = packageFolderOf(require, name);
      const version: unknown = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      const stamp = statSync(join(folder, "dist/.tsbuildinfo"), { throwIfNoEntry: false });
      return [name, isRecord(version) ? version["version"] : "", stamp?.mtimeMs ?? 0, stamp?.size ?? 0];
    } catch {
      return [name];
    }
  });
}

/** `exports` hides package.json, so it is looked for in the folders that Node would look in. */
function packageFolderOf(require: NodeJS.Require, name: string): string {
  for (const folder of require.resolve.paths(name) ?? []) {
    const path = join(folder, name, "package.json");
    if (statSync(path, { throwIfNoEntry: false })) return dirname(path);
  }
  throw new Error(`no package ${name}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
