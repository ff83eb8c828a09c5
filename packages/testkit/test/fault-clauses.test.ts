import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadClauses } from "@virtio/testkit/oracles";
import { expect, test } from "vitest";

const packages = fileURLToPath(new URL("../../", import.meta.url));
const known = new Set(loadClauses().map(({ id }) => id));

/** What a fault or a hint in our sources names as the rule that was broken. */
function named(text: string): string[] {
  return [...text.matchAll(/\b(?:VirtioFault|hint)\(\s*(?:[\w.]+,\s*)?"([^"\s]+)"/g)].map(
    ([, id = ""]) => id,
  );
}

test("each fault and hint names a clause of the specification, or says that the rule is our own", () => {
  const strange: string[] = [];
  let count = 0;
  for (const name of readdirSync(packages)) {
    for (const path of sources(join(packages, name, "src"))) {
      for (const id of named(readFileSync(path, "utf8"))) {
        count++;
        const fine = known.has(id) || /^own\.[a-z0-9-]+$/.test(id);
        if (!fine && id !== "memory.unbacked" && id !== "host.bug") strange.push(`${path}: ${id}`);
      }
    }
  }
  expect(count).toBeGreaterThan(50);
  expect(strange).toEqual([]);
});

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(folder, name));
}
