import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { CORE_FEATURE_NAMES, DEVICE_FEATURE_NAMES, featureNames } from "virtio/spec/feature-names";

interface OracleFeature {
  readonly name: string;
  readonly bit: number;
}

test("every feature of the spec has its name, and no other bit has one", () => {
  const oracle = new URL("../../../testkit/oracles/features.json", import.meta.url);
  const features = JSON.parse(readFileSync(oracle, "utf8")) as OracleFeature[];
  const expected = features.map(({ name, bit }) => `${bit} ${name.split("_F_")[1] ?? ""}`).toSorted();
  const ours = [CORE_FEATURE_NAMES, ...Object.values(DEVICE_FEATURE_NAMES)].flatMap((names) =>
    Object.entries(names).map(([bit, name]) => `${bit} ${name}`),
  );
  expect(ours.toSorted()).toEqual(expected);
});

test("a set is told by names, unknown bits by number", () => {
  expect(featureNames(2, (1n << 5n) | (1n << 32n) | (1n << 99n))).toEqual(["RO", "VERSION_1", "bit 99"]);
});
