import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { beforeAll, describe, expect, test } from "vitest";
import { findProgram, needs } from "@virtio/testkit/needs";
import { until } from "@virtio/testkit/until";
import { QemuProcess } from "../src/process.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const folder = temporaryFolder();
const program = join(folder, "dist", "owner.js");

beforeAll(async () => {
  // Node 20 runs no TypeScript.
  await build({
    configFile: false,
    logLevel: "error",
    build: {
      ssr: fileURLToPath(new URL("owner.process.ts", import.meta.url)),
      outDir: join(folder, "dist"),
      minify: false,
      rollupOptions: { output: { entryFileNames: "owner.js" } },
    },
  });
  writeFileSync(join(folder, "package.json"), '{"type":"module"}');
});

/** Not gone, nor ended and waiting for somebody to ask how. */
function isRunning(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, "latin1").includes(") Z ");
  } catch {
    return false;
  }
}

describe("a child", () => {
  test.skipIf(findProgram("setpriv") === undefined).each(["SIGKILL", "SIGINT", "SIGTERM"] as const)(
    needs("setpriv", "util-linux", "ends with the process that started it: %s"),
    async (signal) => {
      const owner = spawn(process.execPath, [program], { stdio: ["ignore", "pipe", "inherit"] });
      const [text] = (await once(owner.stdout, "data")) as [Buffer];
      const pid = Number(text.toString());
      expect(isRunning(pid)).toBe(true);
      owner.kill(signal);
      await once(owner, "exit");
      await until(() => !isRunning(pid), `the end of process ${pid}`);
    },
  );

  test("that ends by itself says how, and its last words", async () => {
    const child = new QemuProcess(
      "sh",
      ["-c", "echo qemu: module x >&2; echo one; echo two >&2; exit 3"],
      [],
    );
    expect(await child.ended).toBe("exit status 3");
    expect(child.lastWords()).toBe("two");
    expect(child.error().message).toBe("QEMU has ended (exit status 3): two");
    await child.close();
    expect(child.lastWords()).toBe("");
  });

  test("that does not end when it is asked to is ended", async () => {
    const child = new QemuProcess("sleep", ["1000"], []);
    await child.close();
    expect(child.how).toBe("SIGKILL");
  });
});
