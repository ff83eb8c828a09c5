import {
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { StateCache } from "@virtio/cli/boot/cache";
import { readStateFile, writeStateFile } from "@virtio/cli/boot/state-file";

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), "virtio-state-"))));
afterEach(() => rmSync(folder, { recursive: true }));

const modeOf = (path: string): number => statSync(path).mode & 0o777;

test("--save writes through no symbolic link, for this user alone, and is read again", () => {
  const [precious, path] = [join(folder, "precious"), join(folder, "x.state")];
  writeFileSync(precious, "precious");
  symlinkSync("precious", `${path}.new`);
  symlinkSync("precious", path);
  writeStateFile(path, "idle", new Uint8Array([65, 66]));
  expect(readFileSync(precious, "latin1")).toBe("precious");
  expect(modeOf(path)).toBe(0o600);
  const { phase, state } = readStateFile(path);
  expect([phase, Buffer.from(state).toString()]).toEqual(["idle", "AB"]);
});

test("the state of a guest that was booted before is for this user alone", () => {
  const cache = new StateCache(folder, "key");
  cache.write(new Uint8Array(9));
  expect(cache.read()).toHaveLength(9);
  expect(modeOf(join(folder, "states"))).toBe(0o700);
  expect(modeOf(join(folder, "states", "key.state"))).toBe(0o600);
});

test("--restore reads what has an end, and no more than a state can be", () => {
  expect(() => readStateFile("/dev/zero")).toThrow("--restore: /dev/zero is no file");
  expect(() => readStateFile(join(folder, "none"))).toThrow(/--restore: .*none: no such file or directory/);
  const large = join(folder, "large");
  writeFileSync(large, "virtio session idle\n");
  truncateSync(large, 2 ** 40);
  expect(() => readStateFile(large)).toThrow("bytes, and a saved state has 2147483647 at most");
});
