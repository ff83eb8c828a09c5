import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    include: ["packages/*/test/**/*.test.ts"],
    // A clock ends only what hangs: on a machine that is busy with something else everything takes its time.
    testTimeout: 1_800_000,
    hookTimeout: 1_800_000,
    expect: { poll: { timeout: 300_000 } },
    // Many tests wait for other processes; by default vitest leaves one processor free, which would be half of CI's.
    maxWorkers: 2,
  },
});
