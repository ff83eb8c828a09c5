import fc from "fast-check";
import { expect, test } from "vitest";
import { JsonGauge, checkJsonLimits, type JsonLimits } from "virtio/device/json-limits";

const encoder = new TextEncoder();
const unlimited: JsonLimits = { bytes: Infinity, depth: Infinity, elements: Infinity, shapes: Infinity };

/** What the gauge is to count: arrays and objects, and a comma between each two of their values. */
function count(value: unknown): { depth: number; elements: number } {
  if (typeof value !== "object" || value === null) return { depth: 0, elements: 0 };
  const inner = Object.values(value).map(count);
  return {
    depth: 1 + Math.max(0, ...inner.map(({ depth }) => depth)),
    elements: Math.max(1, inner.length) + inner.reduce((sum, { elements }) => sum + elements, 0),
  };
}

test("any JSON in any pieces, also pretty-printed, is let through at exactly its own measures, and at none less", () => {
  const json = fc.jsonValue({ maxDepth: 5 });
  fc.assert(
    fc.property(json, fc.integer({ min: 1, max: 9 }), fc.constantFrom(0, 2), (value, piece, indent) => {
      const text = encoder.encode(JSON.stringify(value, undefined, indent));
      const pass = (limits: Partial<JsonLimits>): (() => void) => {
        return () => {
          const gauge = new JsonGauge("state", { ...unlimited, ...limits });
          for (let at = 0; at < text.length; at += piece) gauge.add(text.subarray(at, at + piece));
        };
      };
      const { depth, elements } = count(value);
      pass({ bytes: text.length, depth, elements })();
      expect(pass({ bytes: text.length - 1 })).toThrow(`state: more than ${text.length - 1} bytes`);
      if (depth > 0) expect(pass({ depth: depth - 1 })).toThrow(`state: nested deeper than ${depth - 1}`);
      if (elements > 0)
        expect(pass({ elements: elements - 1 })).toThrow(`state: more than ${elements - 1} elements`);
    }),
  );
});

test("shapes are counted as they grow: a thousand records of one kind are one, of any kinds many", () => {
  const same = Array.from({ length: 1000 }, (_, i) => ({ fid: i, path: ["a", { b: i }] }));
  const check = (value: unknown, shapes: number): (() => void) => {
    return () => checkJsonLimits("state", encoder.encode(JSON.stringify(value)), { ...unlimited, shapes });
  };
  check(same, 3)();
  expect(check(same, 2)).toThrow("state: more than 2 kinds of records");
  const others = Array.from({ length: 1000 }, (_, i) => ({ [`k${i % 40}`]: 0, [`l${i % 37}`]: 0 }));
  check(others, 40 + 1000)();
  expect(check(others, 40 + 999)).toThrow("kinds of records");
  expect(check({ ["n".repeat(65)]: 0 }, 9)).toThrow("the name of a field is longer than 64 bytes");
  check({ ["n".repeat(64)]: "s".repeat(1000) }, 1)();
});

test("garbage of any kind is counted without an error of its own", () => {
  fc.assert(fc.property(fc.uint8Array(), (bytes) => checkJsonLimits("state", bytes, unlimited)));
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom("{", "}", "[", "]", ":", ",", '"', "\\", "a"), { maxLength: 40 }),
      (marks) => {
        checkJsonLimits("state", encoder.encode(marks.join("")), unlimited);
      },
    ),
  );
});
