import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    include: ["packages/*/test/**/*.test.ts"],
    testTimeout: 30_000,
    // Many tests wait for other processes; by default vitest leaves one processor free, which would be half of CI's.
    maxWorkers: 2,
  },
});
