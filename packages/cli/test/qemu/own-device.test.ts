import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { afterEach, expect, test } from "vitest";

const root = dirname(dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url))))));
const folder = mkdtempSync(join(tmpdir(), "virtio-test-"));
let child: ChildProcess | undefined;

afterEach(() => {
  child?.kill("SIGKILL");
  rmSync(folder, { recursive: true });
});

test("the page has the example as it is, and our driver reads dice from it", async () => {
  const example = readFileSync(join(root, "examples/dice.mjs"), "utf8");
  expect(example.split("\n").length).toBeLessThanOrEqual(50);
  expect(readFileSync(join(root, "docs/own-device.md"), "utf8")).toContain(example);

  const socket = join(folder, "dice");
  child = spawn(process.execPath, ["examples/dice.mjs", socket], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (child.stdout === null) throw new Error("no output");
  const [said] = (await once(child.stdout, "data")) as [Buffer];
  expect(said.toString()).toContain(`dice at ${socket}`);
  const transport = await VhostUserTransport.open({ socket, deviceId: 4 });
  const driver = await EntropyDriver.open(transport);
  const rolls = new Uint8Array(1000);
  await driver.read(rolls);
  transport.close();
  expect(new TextDecoder().decode(rolls)).toMatch(/^[1-6]{1000}$/);
  expect(new Set(rolls).size).toBe(6);
  child.kill("SIGTERM");
  expect(await once(child, "exit")).toEqual([0, null]);
});
