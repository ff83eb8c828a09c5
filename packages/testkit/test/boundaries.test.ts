import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

/** The boundary checker is only worth something while it finds what it is there for. */

const root = fileURLToPath(new URL("../../../", import.meta.url));
let tree = "";

beforeAll(() => {
  tree = mkdtempSync(join(tmpdir(), "virtio-boundaries-"));
  for (const file of [".dependency-cruiser.cjs", "tsconfig.base.json", "package.json"])
    copyFileSync(join(root, file), join(tree, file));
  mkdirSync(join(tree, "node_modules/@virtio"), { recursive: true });
  for (const name of ["virtio", "node", "v86", "testkit", "cli", "playground"]) {
    mkdirSync(join(tree, "packages", name, "src"), { recursive: true });
    copyFileSync(join(root, "packages", name, "package.json"), join(tree, "packages", name, "package.json"));
    const link = name === "virtio" ? "node_modules/virtio" : `node_modules/@virtio/${name}`;
    symlinkSync(join(tree, "packages", name), join(tree, link));
  }
  // What the crossing files import; it imports nothing itself.
  for (const name of [
    "virtio/src/spec/a",
    "virtio/src/memory/a",
    "virtio/src/device/a",
    "virtio/src/bus/a",
    "virtio/src/fault",
  ])
    write(`packages/${name}.ts`, "export const a = 1;\n");
  for (const name of [
    "virtio/src/devices/one/a",
    "virtio/src/drivers/one/a",
    "virtio/src/transport/a",
    "node/src/a",
    "testkit/src/a",
  ])
    write(`packages/${name}.ts`, "export const a = 1;\n");
});

afterAll(() => rmSync(tree, { recursive: true, force: true }));

function write(path: string, text: string): void {
  mkdirSync(dirname(join(tree, path)), { recursive: true });
  writeFileSync(join(tree, path), text);
}

type Crossing = readonly [what: string, path: string, imports: readonly string[], rules: readonly string[]];

/** Files that cross a boundary, and the rules that they break. */
const CROSSINGS: readonly Crossing[] = [
  [
    "what is allowed",
    "packages/virtio/src/device/b.ts",
    ["../spec/a.ts", "../memory/a.ts", "../fault.ts"],
    [],
  ],
  ["a room above", "packages/virtio/src/memory/b.ts", ["../device/a.ts"], ["virtio-memory"]],
  [
    "a device type in a transport",
    "packages/virtio/src/transport/b.ts",
    ["../devices/one/a.ts"],
    ["virtio-transport"],
  ],
  ["another device type", "packages/virtio/src/devices/two/b.ts", ["../one/a.ts"], ["virtio-devices-apart"]],
  ["another driver", "packages/virtio/src/drivers/two/b.ts", ["../one/a.ts"], ["virtio-drivers-apart"]],
  [
    "VIRTIO on the bus",
    "packages/virtio/src/bus/b.ts",
    ["../spec/a.ts", "../fault.ts"],
    ["bus-knows-no-fault", "virtio-bus"],
  ],
  ["Node in the library", "packages/virtio/src/spec/b.ts", ["node:fs"], ["virtio-no-node"]],
  ["Node in the machine", "packages/v86/src/b.ts", ["node:fs"], ["v86-no-node"]],
  ["a package above, through its exports", "packages/node/src/b.ts", ["@virtio/testkit/a"], ["node-below"]],
  [
    "another package in the library",
    "packages/virtio/src/spec/b.ts",
    ["@virtio/node/a"],
    ["virtio-imports-nothing"],
  ],
  ["a module that is not there", "packages/cli/src/b.ts", ["virtio/spec/nowhere"], ["resolvable"]],
];

/** The rules that each file breaks, by path. */
function broken(): Map<string, string[]> {
  const command = join(root, "node_modules/dependency-cruiser/bin/dependency-cruise.mjs");
  const args = [command, "--config", ".dependency-cruiser.cjs", "-T", "json", "packages"];
  const run = spawnSync(process.execPath, args, { cwd: tree, encoding: "utf8" });
  const { summary } = JSON.parse(run.stdout) as {
    summary: { violations: { from: string; rule: { name: string } }[] };
  };
  const rules = new Map<string, string[]>();
  for (const { from, rule } of summary.violations) rules.set(from, [...(rules.get(from) ?? []), rule.name]);
  return rules;
}

test("the checker finds each crossing of a boundary, and nothing else", () => {
  CROSSINGS.forEach(([, path, imports], file) =>
    write(
      path.replace("b.ts", `b${file}.ts`),
      imports.map((name, i) => `import { a as a${i} } from "${name}";\nexport { a${i} };\n`).join(""),
    ),
  );
  const found = broken();
  CROSSINGS.forEach(([what, path, , rules], file) => {
    const own = found.get(path.replace("b.ts", `b${file}.ts`)) ?? [];
    expect([...new Set(own)].sort(), what).toEqual(rules);
  });
  expect([...found.keys()].every((path) => /\/b\d+\.ts$/.test(path))).toBe(true);
});
