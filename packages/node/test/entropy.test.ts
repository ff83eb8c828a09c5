import { expect, test } from "vitest";
import { hostEntropy } from "../src/entropy.ts";

test("the whole of any buffer is filled, in memory of any kind, and nothing beside it", () => {
  for (const memory of [new ArrayBuffer(70_000), new SharedArrayBuffer(70_000)]) {
    const target = new Uint8Array(memory, 100, 65_536);
    void hostEntropy(target);
    const counts = new Uint32Array(256);
    for (const byte of target) counts[byte] = (counts[byte] ?? 0) + 1;
    // 256 of each are expected; 20 standard deviations are 320.
    expect(Math.max(...counts)).toBeLessThan(576);
    expect(Math.min(...counts)).toBeGreaterThan(0);
    expect(new Uint8Array(memory).filter((byte, i) => byte !== 0 && (i < 100 || i >= 65_636)).length).toBe(0);
    const first = target.slice(0, 32);
    void hostEntropy(target);
    expect(Buffer.compare(first, target.subarray(0, 32))).not.toBe(0);
  }
  void hostEntropy(new Uint8Array(0));
});
