import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { bound, BOUNDS_FILE } from "../src/bound.ts";

const folder = mkdtempSync(join(tmpdir(), "virtio-bounds-"));
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

test("a measurement beyond its bound, or none, is an error; all are recorded", () => {
  const file = join(folder, "bounds.jsonl");
  vi.stubEnv(BOUNDS_FILE, file);
  bound({ what: "within", measured: 3, limit: 3, unit: "ms" });
  expect(() => bound({ what: "beyond", measured: 4, limit: 3, unit: "ms" })).toThrow(
    "beyond: 4 ms, at most 3 ms are allowed",
  );
  expect(() => bound({ what: "nothing", measured: NaN, limit: 3, unit: "ms" })).toThrow("nothing: NaN ms");
  const lines = readFileSync(file, "utf8").trim().split("\n");
  expect(lines.map((line) => (JSON.parse(line) as { what: string }).what)).toEqual([
    "within",
    "beyond",
    "nothing",
  ]);
});
