import { mkdtempSync, readFileSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { afterEach, beforeEach, expect, test } from "vitest";

import { guestArchitectures, guestSource } from "@virtio/cli/guest/architectures";
import { withLock } from "@virtio/cli/guest/lock";
import { setupArchitectures } from "@virtio/cli/guest/setup";

let folder = "";
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), "setup-"))));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test("an architecture that there is no guest of is an error before anything is fetched", async () => {
  await expect(setupArchitectures(folder, ["arm64", "arm46"])).rejects.toThrow(
    /architecture.*"arm46".*arm64/s,
  );
  expect(readdirSync(folder)).toEqual([]);
});

test("guests of different architectures do not share a folder, and their kernels' names are told apart", () => {
  const sources = guestArchitectures.map(guestSource);
  expect(new Set(sources.flatMap((source) => [source.folder, source.aptFolder])).size).toBe(10);
  expect(guestSource("i386")).toMatchObject({ folder: "guest", aptFolder: "apt", suite: "bookworm" });
  const names = ["linux-image-6.1.0-50-686", "linux-image-6.1.0-50-686-pae", "linux-image-6.1.0-50-armmp"];
  expect(names.filter((name) => guestSource("i386").kernelPackage.test(name))).toEqual([names[0]]);
  expect(names.filter((name) => guestSource("armhf").kernelPackage.test(name))).toEqual([names[2]]);
});

test("one at a time; what a process that died held is free", async () => {
  const lock = join(folder, "lock");
  // No process has a number as large as this.
  writeFileSync(lock, "999999999\n");
  let inside = 0;
  let most = 0;
  const action = async (): Promise<void> => {
    most = Math.max(most, ++inside);
    expect(readFileSync(lock, "utf8")).toBe(`${process.pid}\n`);
    await delay(20);
    inside--;
  };
  await Promise.all([withLock(lock, action), withLock(lock, action)]);
  await expect(withLock(lock, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect([most, inside]).toEqual([1, 0]);
  expect(readdirSync(folder)).toEqual([]);
});

test("a lock without a number, of a process that died or a disk that was full, is free after some seconds", async () => {
  const lock = join(folder, "lock");
  writeFileSync(lock, "");
  const longAgo = new Date(Date.now() - 60_000);
  utimesSync(lock, longAgo, longAgo);
  await withLock(lock, () => Promise.resolve());
  expect(readdirSync(folder)).toEqual([]);
});
