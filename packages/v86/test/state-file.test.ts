import { readMachineState, writeMachineState } from "@virtio/v86/state-file";
import { checkV86State } from "@virtio/v86/v86-state";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

const bytes = fc.uint8Array({ maxLength: 64 });
const key = fc.string({ maxLength: 8 }).filter((name) => name !== "@" && name !== "__proto__");
const { devices } = fc.letrec<{ devices: unknown }>((tie) => ({
  devices: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom(undefined, null, true, false),
    fc.maxSafeInteger(),
    fc.string({ maxLength: 12 }),
    bytes,
    fc.array(tie("devices"), { maxLength: 4 }),
    fc.dictionary(key, tie("devices"), { maxKeys: 4, noNullPrototype: true }),
  ),
}));

describe("the file of a saved machine", () => {
  test("gives back what was put in, also out of the middle of a Buffer", () => {
    fc.assert(
      fc.property(fc.string(), devices, bytes, fc.array(bytes), (fingerprint, state, v86, pieces) => {
        const ram = pieces.map((piece, i) => ({ address: i * 4096, bytes: piece }));
        const file = writeMachineState({ fingerprint, devices: state, v86: v86.slice().buffer, ram });
        const pool = Buffer.concat([Buffer.alloc(3), file, Buffer.alloc(5)]);
        const read = readMachineState(pool.subarray(3, 3 + file.length));
        expect(read.fingerprint).toBe(fingerprint);
        expect(read.devices).toEqual(state);
        expect(new Uint8Array(read.v86)).toEqual(new Uint8Array(v86));
        expect(read.ram.map((run) => ({ ...run, bytes: new Uint8Array(run.bytes) }))).toEqual(
          ram.map((run) => ({ ...run, bytes: new Uint8Array(run.bytes) })),
        );
      }),
    );
  });

  test("a file that was cut, or is another, is refused", () => {
    const file = writeMachineState({
      fingerprint: "x",
      devices: [new Uint8Array(9)],
      v86: new ArrayBuffer(40),
      ram: [{ address: 8, bytes: new Uint8Array(5) }],
    });
    for (let length = 0; length < file.length; length++) {
      expect(() => readMachineState(file.subarray(0, length))).toThrow(/no saved state|not whole/);
    }
    const newer = file.slice();
    newer[8] = 9;
    expect(() => readMachineState(newer)).toThrow("the saved state has version 9, not 1");
    expect(() => readMachineState(new Uint8Array(100))).toThrow("no saved state");
  });

  test("damage anywhere ends in an Error or in other contents, never otherwise", () => {
    const whole = writeMachineState({
      fingerprint: "x",
      devices: { a: new Uint8Array(9), b: undefined },
      v86: new ArrayBuffer(8),
      ram: [{ address: 8, bytes: new Uint8Array(5) }],
    });
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const file = whole.slice();
        file[at] = (file[at] ?? 0) ^ flip;
        try {
          readMachineState(file);
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect((error as Error).message).toMatch(/saved state/);
        }
      }),
    );
  });
});

/** A file with this JSON, as its header says it. */
function fileOf(json: string): Uint8Array {
  const empty = writeMachineState({ fingerprint: "", devices: null, v86: new ArrayBuffer(0), ram: [] });
  const text = new TextEncoder().encode(json);
  const file = new Uint8Array(28 + text.length);
  file.set(empty.subarray(0, 28));
  new DataView(file.buffer).setUint32(12, text.length, true);
  file.set(text, 28);
  return file;
}

const devicesOf = (text: string): string => `{"fingerprint":"x","ram":[],"devices":${text}}`;

describe("a hostile file costs bounded time and memory, and says why", () => {
  test.each([
    ["deep", devicesOf("[".repeat(1 << 20)), "nested deeper than 40"],
    ["many elements", devicesOf(`[${"0,".repeat(5_000_000)}0]`), "more than 4194304 elements"],
    [
      "many kinds of records",
      devicesOf(`[${Array.from({ length: 5000 }, (_, i) => `{"k${i}":0}`).join(",")}]`),
      "more than 4096 kinds of records",
    ],
  ])("%s", (_, json, reason) => {
    expect(() => readMachineState(fileOf(json))).toThrow(`the saved state: ${reason}`);
  });

  test("what cannot be restored is not saved", () => {
    const devices = Array.from({ length: 5000 }, (_, i) => ({ [`k${i}`]: 0 }));
    expect(() => writeMachineState({ fingerprint: "x", devices, v86: new ArrayBuffer(0), ram: [] })).toThrow(
      "more than 4096 kinds of records",
    );
  });

  test("v86's own part: compressed, of other lengths, or deep", () => {
    const own = (json: string, words: readonly number[] = []): ArrayBuffer => {
      const bytes = new Uint8Array(16 + json.length);
      bytes.set(new TextEncoder().encode(json), 16);
      const fields = new DataView(bytes.buffer);
      [0x86768676, 6, bytes.length, json.length].forEach((word, i) =>
        fields.setUint32(4 * i, words[i] ?? word, true),
      );
      return bytes.buffer;
    };
    checkV86State(own('{"buffer_infos":[],"state":[]}'));
    // zstd: a small file of it becomes as large as it likes.
    expect(() => checkV86State(own("[]", [0xfd2fb528]))).toThrow("damaged");
    expect(() => checkV86State(own("[]", [0x86768676, 6, 18, 3]))).toThrow("other lengths");
    expect(() => checkV86State(own("[]", [0x86768676, 6, 19]))).toThrow("other lengths");
    expect(() => checkV86State(new ArrayBuffer(15))).toThrow("damaged");
    expect(() => checkV86State(own("[".repeat(1000)))).toThrow("nested deeper than 32");
  });
});
