import fc from "fast-check";
import { expect, test } from "vitest";

import { escapeValue, parseKeyval } from "@virtio/cli/options/keyval";
import { parseSize, switchValue } from "@virtio/cli/options/values";

const key = fc.stringMatching(/^[a-z][a-z0-9_.-]{0,10}$/);

test("what is written with doubled commas is read back, whatever the values", () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.tuple(key, fc.string()), { selector: ([name]) => name, minLength: 1 }),
      (pairs) => {
        const text = pairs.map(([name, value]) => `${name}=${escapeValue(value)}`).join(",");
        expect([...parseKeyval(text)]).toEqual(pairs);
      },
    ),
  );
});

test("the first part without = is the implied key's, also with commas in it", () => {
  fc.assert(
    fc.property(
      fc.string({ minLength: 1 }).filter((value) => !value.includes("=") && !value.startsWith("{")),
      (value) => {
        expect(parseKeyval(`${escapeValue(value)},readonly=on`, "file").get("file")).toBe(value);
      },
    ),
  );
});

test("a key alone is a switch that is on; the last of two wins, as in QEMU", () => {
  expect([...parseKeyval("stdio,mux,id=a,id=b", "type")]).toEqual([
    ["type", "stdio"],
    ["mux", "on"],
    ["id", "b"],
  ]);
});

test("JSON is taken as QEMU takes it", () => {
  const text = '{"driver":"raw","node-name":"d","read-only":true,"file":{"driver":"file","filename":"a,b"}}';
  expect(Object.fromEntries(parseKeyval(text, "driver"))).toEqual({
    driver: "raw",
    "node-name": "d",
    "read-only": "on",
    "file.driver": "file",
    "file.filename": "a,b",
  });
  expect(() => parseKeyval("{no")).toThrow("no JSON");
});

test("nothing between commas and values without a name are errors", () => {
  expect(() => parseKeyval("a=b,=c")).toThrow("a name is missing");
  expect(() => parseKeyval("a=b, ,c")).not.toThrow();
  expect(() => parseKeyval("a=b,,,c=d")).not.toThrow();
  expect(() => parseKeyval("a=b,")).toThrow("nothing between");
});

test("sizes and switches in QEMU's words", () => {
  expect(parseSize("512", 1)).toBe(512);
  expect(parseSize("1.5G", 1)).toBe(1.5 * 2 ** 30);
  expect(parseSize("64k", 1)).toBe(65536);
  expect(parseSize("256", 2 ** 20)).toBe(2 ** 28);
  expect(parseSize("9999999T", 1)).toBeUndefined();
  expect(parseSize("12x", 1)).toBeUndefined();
  expect(["on", "yes", "true", "off", "no", "false"].map(switchValue)).toEqual([
    true,
    true,
    true,
    false,
    false,
    false,
  ]);
  expect(switchValue("maybe")).toBeUndefined();
});
