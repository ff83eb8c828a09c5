import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

/** What the tests read of an entry of package-lock.json. */
interface Entry {
  readonly name?: string;
  readonly version?: string;
  readonly resolved?: string;
  readonly link?: boolean;
  readonly integrity?: string;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
  readonly libc?: readonly string[];
  readonly optional?: boolean;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

const root = fileURLToPath(new URL("../../../", import.meta.url));
const text = readFileSync(`${root}package-lock.json`, "utf8");
const lock = JSON.parse(text) as {
  readonly lockfileVersion: number;
  readonly packages: Readonly<Record<string, Entry>>;
};
const entries = Object.entries(lock.packages);

/** The entry that `name` means to the package at `path`, as Node looks for it: in the nearest node_modules above. */
function found(path: string, name: string): Entry | undefined {
  const parts = path.split("/");
  const folders = parts.map((_, index) => `${parts.slice(0, parts.length - index).join("/")}/`);
  return [...folders, ""].map((folder) => lock.packages[`${folder}node_modules/${name}`]).find(Boolean);
}

/** Platforms that this project is set up on, as npm compares them. */
const platforms = [
  { os: "linux", cpu: "x64", libc: "glibc" },
  { os: "linux", cpu: "x64", libc: "musl" },
  { os: "linux", cpu: "arm64", libc: "glibc" },
  { os: "linux", cpu: "arm64", libc: "musl" },
  { os: "darwin", cpu: "x64" },
  { os: "darwin", cpu: "arm64" },
  { os: "win32", cpu: "x64" },
  { os: "win32", cpu: "arm64" },
] as const;

/** Packages of which each platform needs a binding of its own. */
const native = ["esbuild", "koffi", "oxlint", "oxlint-tsgolint", "rollup"];

describe("package-lock.json, as `npm ci` takes it on every platform", () => {
  test.each(native)("%s has a binding for each platform", (name) => {
    const path = `node_modules/${name}`;
    const bindings = Object.keys(lock.packages[path]?.optionalDependencies ?? {}).map(
      (binding) => found(path, binding) ?? {},
    );
    const without = platforms.filter(
      (platform) =>
        !bindings.some(
          ({ os, cpu, libc }) =>
            os?.includes(platform.os) === true &&
            cpu?.includes(platform.cpu) === true &&
            (libc === undefined || ("libc" in platform && libc.includes(platform.libc))),
        ),
    );
    expect(without).toEqual([]);
  });

  test("has every package that another asks for, also those of other platforms", () => {
    const missing = entries.flatMap(([path, entry]) => {
      const peers = Object.keys(entry.peerDependencies ?? {}).filter(
        (name) => entry.peerDependenciesMeta?.[name]?.optional !== true,
      );
      const wanted = { ...entry.dependencies, ...entry.optionalDependencies };
      return [...Object.keys(wanted), ...peers].filter((name) => found(path, name) === undefined);
    });
    expect(missing).toEqual([]);
  });

  test("each package of a registry has the hash of its contents", () => {
    const outside = entries.filter(([path, { link }]) => path.includes("node_modules/") && link !== true);
    expect(outside.length).toBeGreaterThan(100);
    expect(outside.filter(([, { integrity }]) => integrity?.startsWith("sha512-") !== true)).toEqual([]);
  });

  test("names no registry and no other address: each user's own registry is asked", () => {
    expect(lock.lockfileVersion).toBe(3);
    expect(entries.flatMap(([, { resolved, link }]) => (link === true ? [] : (resolved ?? [])))).toEqual([]);
    // Addresses of funding pages belong to the packages' own metadata and are not asked for anything.
    const withoutFunding = JSON.stringify(
      JSON.parse(text, (key, value: unknown) => (key === "funding" ? undefined : value)),
    );
    expect(withoutFunding.match(/[a-z+]+:\/\/[^"]*/g) ?? []).toEqual([]);
  });

  test("a package's version is one version, not a range or a place", () => {
    const named = entries.filter(([path]) => path.includes("node_modules/"));
    const odd = named.filter(
      ([, { version, link }]) => link !== true && !/^\d+\.\d+\.\d+/.test(version ?? ""),
    );
    expect(odd.map(([path]) => path)).toEqual([]);
  });
});
