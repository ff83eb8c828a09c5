import fc from "fast-check";
import { expect, test } from "vitest";
import { RingCharacterBackend } from "../../src/backends/ring-character.ts";

test("a ring gives back the newest bytes in order, whatever is written and read", () => {
  const step = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.nat(30).map((limit) => limit),
  );
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 16 }), fc.array(step, { maxLength: 40 }), (size, steps) => {
      const ring = new RingCharacterBackend(size);
      let model: number[] = [];
      for (const next of steps) {
        if (typeof next === "number") {
          expect([...ring.read(next)]).toEqual(model.slice(0, next));
          model = model.slice(next);
        } else {
          expect(ring.write(next)).toBe(next.length);
          model = [...model, ...next].slice(-size);
        }
      }
      expect([...ring.read()]).toEqual(model);
    }),
  );
});
