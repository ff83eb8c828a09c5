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
    const modules = [...text.matchAll(/from "((?:virtio|@virtio\/[a-z0-9]+)(?:\/[^"]+)?)"/g)].map(
      ([, name = ""]) => name,
    );
    for (const name of modules) expect(sourceOf(name), name).toBeDefined();
  });
});

/** The source behind a package's subpath. */
function sourceOf(name: string): string | undefined {
  const [, pkg = "", rest] = /^(?:@virtio\/)?([a-z0-9]+)(?:\/(.*))?$/.exec(name) ?? [];
  const path = join(root, "packages", pkg, "src", `${rest ?? "index"}.ts`);
  return existsSync(path) ? path : undefined;
}
