import { Worker } from "node:worker_threads";
import { fileURLToPath } from "node:url";
import { clause } from "@virtio/testkit/clause";
import { placeRing } from "@virtio/testkit/ring/place";
import { Arena } from "@virtio/testkit/ring/test-memory";
import { build } from "vite";
import { beforeAll, describe, expect, test } from "vitest";
import type { ThreadData } from "./two-threads.worker.ts";

/** Guest address of the shared memory. */
const GPA = 0x1_0000;
const CHAINS = 30_000;

/** The worker with all it imports as one module: Node 20 runs no TypeScript. */
let code = "";

beforeAll(async () => {
  const result = await build({
    configFile: false,
    logLevel: "error",
    build: {
      ssr: fileURLToPath(new URL("two-threads.worker.ts", import.meta.url)),
      write: false,
      minify: false,
    },
  });
  if (Array.isArray(result) || !("output" in result)) throw new Error("no single bundle");
  code = result.output[0].code;
});

/** Runs both sides until all chains came back. Rejects when either fails or sleeps for ever. */
async function run(packed: boolean, size: number, eventIdx: boolean): Promise<number> {
  const arena = new Arena(GPA + 64);
  const config = placeRing(arena, { packed, size, eventIdx });
  const data = arena.take(8 * size, 8);
  const shared = new SharedArrayBuffer(Math.ceil((arena.take(0) - GPA) / 8) * 8);
  const common = { shared, gpa: GPA, config, packed, data, chains: CHAINS };
  const url = new URL(`data:text/javascript,${encodeURIComponent(code)}`);
  const workers = (["driver", "device"] as const).map(
    (side) => new Worker(url, { workerData: { side, ...common } satisfies ThreadData }),
  );
  try {
    const done = workers.map(
      (worker) =>
        new Promise<number>((resolve, reject) => {
          worker.once("message", ({ sleeps }: { sleeps: number }) => resolve(sleeps));
          worker.once("error", reject);
        }),
    );
    const sleeps = await Promise.all(done);
    return sleeps.reduce((sum, number) => sum + number, 0);
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

describe("driver and device in two threads on shared memory", () => {
  test.each([
    [false, 16, false],
    [false, 16, true],
    [false, 2, true],
    [true, 16, false],
    [true, 16, true],
    [true, 3, true],
  ])(
    clause(
      [
        "drv.split.update-idx",
        "drv.split.notify",
        "drv.packed.update-flags",
        "drv.packed.notify",
        "dev.split.used",
        "dev.packed.desc",
      ],
      "no wake-up is lost and nothing is seen half written (packed: %s, size %i, EVENT_IDX %s)",
    ),
    async (packed, size, eventIdx) => {
      expect(await run(packed, size, eventIdx)).toBeGreaterThan(0);
    },
  );
});
