import { defineConfig } from "vitest/config";

/** Hostile peers, guests and files, each held to a bound: one at a time, for what they cost is measured. */
export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    include: ["packages/*/test/hostile/**/*.hostile.ts"],
    testTimeout: 5 * 60_000,
    hookTimeout: 5 * 60_000,
    fileParallelism: false,
  },
});
