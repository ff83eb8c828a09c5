/** A copy of the library and the testkit with all mutants in it, so that the tree itself is never touched. */
import { cpSync, mkdtempSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../setup.mjs";
import { plantMutants } from "./sites.mjs";

/** What the tests of the library need of the tree. */
const COPIED = [
  "package.json",
  "tsconfig.base.json",
  "tsconfig.test.json",
  "README.md",
  "docs",
  "examples",
  "packages/virtio",
  "packages/testkit",
];

const CONFIGURATION = (tests) => `import { defineConfig } from "vitest/config";
export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    include: ${JSON.stringify(tests.map((folder) => `${folder}/**/*.test.ts`))},
    setupFiles: ["mutant.setup.mjs"],
    testTimeout: 30_000,
    maxWorkers: 1,
    experimental: { fsModuleCache: true },
  },
});
`;

/** In a test's process: which mutant is awake, and, when asked, which ones the test file came by. */
const SETUP = `import { afterAll, expect } from "vitest";
import { appendFileSync } from "node:fs";
globalThis.__mutantAwake = Number(process.env.MUTANT ?? -1);
const report = process.env.MUTANTS_SEEN;
if (report !== undefined) {
  const seen = (globalThis.__mutantsSeen ??= new Uint8Array(1 << 16));
  afterAll(() => {
    const ids = Array.from(seen.keys()).filter((id) => seen[id] === 1);
    appendFileSync(report, JSON.stringify({ file: expect.getState().testPath, seen: ids }) + "\\n");
  });
}
`;

/**
 * @param files sources to plant mutants in, relative to the root
 * @param tests folders of tests that run
 * @returns the folder of the copy, and the mutants
 */
export function copyWithMutants(files, tests) {
  const tree = mkdtempSync(join(tmpdir(), "virtio-mutants-"));
  for (const name of COPIED) cpSync(join(root, name), join(tree, name), { recursive: true });
  linkModules(tree);
  writeFileSync(join(tree, "vitest.config.ts"), CONFIGURATION(tests));
  writeFileSync(join(tree, "mutant.setup.mjs"), SETUP);
  const mutants = [];
  for (const file of files) {
    const planted = plantMutants(file, readFileSync(join(root, file), "utf8"), mutants.length);
    writeFileSync(join(tree, file), planted.text);
    mutants.push(...planted.mutants);
  }
  return { tree, mutants };
}

/** Workspaces are links out of node_modules, which must lead into the copy. */
function linkModules(tree) {
  const modules = join(tree, "node_modules");
  const own = join(root, "node_modules");
  cpSync(own, modules, {
    recursive: true,
    filter: (path) => path === own || path === join(own, "@virtio"),
  });
  for (const name of readdirSync(own))
    if (name !== "virtio" && name !== "@virtio") symlinkSync(join(own, name), join(modules, name));
  symlinkSync(join(tree, "packages/virtio"), join(modules, "virtio"));
  symlinkSync(join(tree, "packages/testkit"), join(modules, "@virtio/testkit"));
}
