import { defineConfig } from "vitest/config";

/** Real guests: up to a minute each, and two at a time, for most of what a guest does is done by one processor. */
export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    include: ["packages/*/test/guests/**/*.guest.ts"],
    testTimeout: 20 * 60_000,
    hookTimeout: 10 * 60_000,
    maxWorkers: 2,
  },
});
