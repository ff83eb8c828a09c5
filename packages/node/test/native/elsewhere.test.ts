import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

/** Where the C library cannot be bound: files work with less, a directory cannot be shared, and the error says why. */

const place = Object.getOwnPropertyDescriptor(process, "platform") ?? {};
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-elsewhere-"));
  vi.resetModules();
  Object.defineProperty(process, "platform", { value: "darwin", configurable: true });
});
afterEach(() => {
  Object.defineProperty(process, "platform", place);
  rmSync(folder, { recursive: true });
});

test("sharing a directory is an error that says what it needs", async () => {
  const { HostDirectory } = await import("../../src/directory/host-directory.ts");
  expect(() => new HostDirectory(folder)).toThrow(
    `sharing the directory '${folder}' is not possible: it needs Linux on x64, arm64, riscv64 or loong64, and this is darwin`,
  );
});

test("a disk offers no discard, writes its zeroes, and has one writer in this process", async () => {
  const { FileBlockBackend } = await import("../../src/block/file-block.ts");
  const path = join(folder, "disk.img");
  writeFileSync(path, new Uint8Array(3 << 20).fill(7));
  const disk = new FileBlockBackend(path);
  expect(disk.discard).toBeUndefined();
  void disk.writeZeroes(512, (2 << 20) + 512, true);
  expect(() => new FileBlockBackend(path)).toThrow("in use");
  await disk.flush();
  disk.close();
  const expected = new Uint8Array(3 << 20).fill(7).fill(0, 512, (2 << 20) + 1024);
  expect(Buffer.compare(readFileSync(path), expected)).toBe(0);
});
