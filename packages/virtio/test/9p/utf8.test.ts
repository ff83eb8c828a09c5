import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeUtf8, encodeUtf8, utf8Length } from "../../src/memory/utf8.ts";

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes that are often nearly UTF-8. */
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc
    .array(fc.constantFrom(0xc2, 0xe0, 0xed, 0xf0, 0xf4, 0x80, 0x8f, 0x90, 0xa0, 0xbf, 0x41))
    .map((b) => Uint8Array.from(b)),
  fc.string({ unit: "grapheme", maxLength: 200 }).map((text) => new TextEncoder().encode(text)),
);

test("any bytes survive", () => {
  fc.assert(
    fc.property(bytes, (input) => {
      const text = decodeUtf8(input);
      expect(utf8Length(text)).toBe(input.length);
      expect(encodeUtf8(text)).toEqual(input);
    }),
    { numRuns: 2000 },
  );
});

test("well-formed UTF-8 is the text that it is everywhere", () => {
  fc.assert(
    fc.property(bytes, (input) => {
      let expected: string;
      try {
        expected = strict.decode(input);
      } catch {
        return;
      }
      expect(decodeUtf8(input)).toBe(expected);
      expect(encodeUtf8(expected)).toEqual(new TextEncoder().encode(expected));
    }),
    { numRuns: 2000 },
  );
});

test("long texts, and surrogates that stand for nothing", () => {
  const text = "aä€\u{1f600}".repeat(5000);
  expect(decodeUtf8(encodeUtf8(text))).toBe(text);
  expect(encodeUtf8("\ud800x")).toEqual(Uint8Array.of(0xef, 0xbf, 0xbd, 0x78));
});
