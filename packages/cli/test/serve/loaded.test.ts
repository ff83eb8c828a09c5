import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

import { afterEach, beforeEach, expect, test } from "vitest";
import { command } from "../built.ts";

let folder: string;
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "virtio-loaded-"))));
afterEach(() => rmSync(folder, { recursive: true }));

/** A module to `--import` that notes the address of every module that is loaded after it. */
function recorder(): { readonly preload: string; readonly loaded: () => string } {
  const list = join(folder, "loaded");
  writeFileSync(list, "");
  const hooks = `import { appendFileSync } from "node:fs";
    export async function load(url, context, next) { appendFileSync(${JSON.stringify(list)}, url + "\\n"); return next(url, context); }`;
  const code = `import { register } from "node:module"; register(${JSON.stringify(asUrl(hooks))});`;
  return { preload: asUrl(code), loaded: () => readFileSync(list, "utf8") };
}

function asUrl(code: string): string {
  return `data:text/javascript,${encodeURIComponent(code)}`;
}

const SECTIONS = /\/spec\/sections\.js$/m;

test("the library loads no titles of sections, not even with its text log", () => {
  const { preload, loaded } = recorder();
  const ended = spawnSync(
    process.execPath,
    ["--import", preload, "--input-type=module", "-e", 'import "virtio";'],
    {
      encoding: "utf8",
      cwd: fileURLToPath(new URL("../..", import.meta.url)),
    },
  );
  expect(ended.stderr).toBe("");
  expect(loaded()).toMatch(/\/device\/text-log\.js$/m);
  expect(loaded()).not.toMatch(SECTIONS);
});

test.each([
  { title: "virtio serve with one disk loads no titles of sections, and no log", log: [], expected: false },
  { title: "with --log it does", log: ["--log", "virtio"], expected: true },
])("$title", async ({ log, expected }) => {
  const { preload, loaded } = recorder();
  const image = join(folder, "disk.img");
  writeFileSync(image, new Uint8Array(1 << 20));
  const drive = ["blk", "--socket", join(folder, "socket"), "--drive", `file=${image},format=raw`];
  const child = spawn(process.execPath, ["--import", preload, command, "serve", ...drive, ...log], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const messages = text(child.stderr);
  const ended = once(child, "exit");
  await Promise.race([
    ended,
    new Promise<void>((resolve) => {
      child.stderr.on("data", (bytes: Buffer) => bytes.toString().includes("serving at") && resolve());
    }),
  ]);
  child.kill("SIGTERM");
  await ended;
  expect(await messages).toMatch(/serving at/);
  expect(loaded()).toMatch(/\/devices\/blk\/device\.js$/m);
  expect(SECTIONS.test(loaded())).toBe(expected);
  expect(/\/device\/text-log\.js$/m.test(loaded())).toBe(expected);
});
