import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("../../../", import.meta.url));

function pages(directory: string): string[] {
  return readdirSync(join(root, directory), { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return path === join("docs", "api") ? [] : pages(path);
    return entry.name.endsWith(".md") ? [path] : [];
  });
}

const all = ["README.md", "ARCHITECTURE.md", ...pages("docs")];

describe("the manual", () => {
  test.each(all)("%s: every link leads to a file", (page) => {
    const text = readFileSync(join(root, page), "utf8").replaceAll(/```.*?```/gs, "");
    const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = ""]) => target);
    const missing = links
      .filter((target) => !/^[a-z]+:/.test(target))
      .map((target) => target.replace(/#.*$/, ""))
      .filter((target) => target !== "" && !existsSync(join(root, dirname(page), target)));
    expect(missing).toEqual([]);
  });

  test("the index names every page", () => {
    const index = readFileSync(join(root, "docs/README.md"), "utf8");
    for (const page of pages("docs"))
      if (page !== join("docs", "README.md")) expect(index).toContain(`(${page.slice("docs/".length)})`);
  });

  test.each(all)("%s: every import is an export of a package", (page) => {
    const text = readFileSync(join(root, page), "utf8");
    const modules = [...text.matchAll(/(?:from|import\() ?"((?:virtio|@virtio\/[a-z0-9-]+)(?:\/[^"]+)?)"/g)];
    for (const [, name = ""] of modules) expect(isExported(name), `${page}: ${name}`).toBe(true);
  });

  test.each(all)(
    "%s: every module that is named is an export of a package, or a folder of the sources",
    (page) => {
      const text = readFileSync(join(root, page), "utf8").replaceAll(/```.*?```/gs, "");
      const named = [...text.matchAll(/`((?:virtio|@virtio\/[a-z0-9-]+)\/[a-z0-9/-]+)`/g)].map(
        ([, name = ""]) => name,
      );
      const wrong = named.filter((name) => !isExported(name) && !/^virtio\/src(\/|$)/.test(name));
      expect(wrong).toEqual([]);
    },
  );

  test("the reference of exports reads the packages that docs/README.md says it does, and no others", () => {
    const { entryPoints } = JSON.parse(readFileSync(join(root, "typedoc.json"), "utf8")) as {
      entryPoints: string[];
    };
    const index = readFileSync(join(root, "docs/README.md"), "utf8");
    expect(entryPoints.filter((folder) => !existsSync(join(root, folder)))).toEqual([]);
    const [, sentence = ""] = /`npx typedoc` writes the reference of what (.*?) export to/s.exec(index) ?? [];
    const said = [...sentence.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name);
    expect(said).toEqual(entryPoints.map((folder) => manifestIn(join(root, folder, "..")).name));
  });
});

describe("isExported, which looks at package.json", () => {
  test.each([
    ["virtio/devices/blk/device", true],
    ["@virtio/vhost-user", true],
    ["@virtio/vhost-user/nowhere", false],
    ["@virtio/nothing", false],
    // A source that no user can import.
    ["@virtio/v86/cpu", false],
    ["virtio/package.json", true],
  ])("%s: %s", (name, exported) => expect(isExported(name)).toBe(exported));
});

interface Manifest {
  readonly name: string;
  readonly exports: Readonly<Record<string, unknown>>;
}

function manifestIn(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest;
}

/** Whether users can import this name: a subpath of `exports` that is there for more than our own tests. */
function isExported(name: string): boolean {
  const [, pkg = "", rest] = /^(?:@virtio\/)?([a-z0-9-]+)(?:\/(.*))?$/.exec(name) ?? [];
  const folder = join(root, "packages", pkg);
  if (!existsSync(join(folder, "package.json"))) return false;
  const subpath = rest === undefined ? "." : `./${rest}`;
  const { exports } = manifestIn(folder);
  const patterns = Object.entries(exports).filter(([key]) => {
    const [before = "", after] = key.split("*");
    return after === undefined ? key === subpath : subpath.startsWith(before) && subpath.endsWith(after);
  });
  return patterns.some(
    ([key, target]) => typeof target === "string" || isBuilt(folder, target, key, subpath),
  );
}

/** The build is what users get; a condition `source` alone is for tests in this clone. */
function isBuilt(folder: string, target: unknown, key: string, subpath: string): boolean {
  const record = typeof target === "object" && target !== null ? (target as Record<string, string>) : {};
  const { default: built, source } = record;
  if (built === undefined || source === undefined) return false;
  const star = key.includes("*")
    ? subpath.slice(key.indexOf("*"), subpath.length - (key.length - key.indexOf("*") - 1))
    : "";
  return existsSync(join(folder, source.replace("*", star)));
}
