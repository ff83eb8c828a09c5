import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { plugDisk } from "../../../../examples/embed.ts";

const read = (path: string): string => readFileSync(new URL(`../../../../${path}`, import.meta.url), "utf8");

test("the README shows the example that is compiled here", () => {
  expect(read("README.md")).toContain(read("examples/embed.ts").trimEnd());
});

test("the example's registers are those of a block device", () => {
  const registers = plugDisk({ ram: new Uint8Array(1 << 20), setInterrupt: () => undefined }, 5);
  expect(registers.read(0, 4)).toBe(0x74726976);
  expect(registers.read(8, 4)).toBe(2);
  expect(registers.read(0x100, 4)).toBe((64 << 20) / 512);
});
