import fc from "fast-check";
import { expect, test } from "vitest";
import { AddressSpace } from "virtio/bus/address-space";
import { SharedInterrupt } from "virtio/bus/interrupt";
import type { AccessSize, IoHandler } from "virtio/bus/types";

/** A window of plain bytes. */
function bytesHandler(bytes: Uint8Array): IoHandler {
  return {
    read(offset, size) {
      let value = 0;
      for (let i = size - 1; i >= 0; i--) value = value * 256 + (bytes[offset + i] ?? 0);
      return value;
    },
    write(offset, size, value) {
      for (let i = 0; i < size; i++) bytes[offset + i] = value >>> (8 * i);
    },
  };
}

const size: fc.Arbitrary<AccessSize> = fc.constantFrom(1, 2, 4);
const MODEL = 96;
const command = fc.oneof(
  fc.record({
    kind: fc.constant("map" as const),
    base: fc.integer({ min: 0, max: MODEL - 1 }),
    length: fc.integer({ min: 1, max: 40 }),
  }),
  fc.record({ kind: fc.constant("unmap" as const), which: fc.nat() }),
  fc.record({ kind: fc.constant("read" as const), address: fc.integer({ min: 0, max: MODEL - 5 }), size }),
  fc.record({
    kind: fc.constant("write" as const),
    address: fc.integer({ min: 0, max: MODEL - 5 }),
    size,
    value: fc.nat({ max: 0xffffffff }),
  }),
);

test("behaves as an array of bytes with holes, whatever is mapped and accessed", () => {
  fc.assert(
    fc.property(fc.array(command, { maxLength: 80 }), (commands) => {
      const space = new AddressSpace();
      /** What each address holds: undefined is a hole. */
      const model: (number | undefined)[] = Array.from({ length: MODEL + 40 }, () => undefined);
      const windows: { base: number; length: number; unmap: () => void }[] = [];
      for (const step of commands) {
        if (step.kind === "map") {
          const { base, length } = step;
          const taken = model.slice(base, base + length).some((byte) => byte !== undefined);
          expect(space.isFree(base, length)).toBe(!taken);
          if (taken) {
            expect(() => space.map(base, length, bytesHandler(new Uint8Array(length)))).toThrow(RangeError);
            continue;
          }
          const unmap = space.map(base, length, bytesHandler(new Uint8Array(length)));
          windows.push({ base, length, unmap });
          model.fill(0, base, base + length);
        } else if (step.kind === "unmap") {
          const [window] = windows.splice(step.which % (windows.length + 1), 1);
          window?.unmap();
          window?.unmap();
          if (window !== undefined) model.fill(undefined, window.base, window.base + window.length);
        } else if (step.kind === "read") {
          let expected = 0;
          for (let i = step.size - 1; i >= 0; i--)
            expected = expected * 256 + (model[step.address + i] ?? 0xff);
          expect(space.read(step.address, step.size)).toBe(expected);
        } else {
          space.write(step.address, step.size, step.value);
          for (let i = 0; i < step.size; i++) {
            if (model[step.address + i] !== undefined)
              model[step.address + i] = (step.value >>> (8 * i)) & 0xff;
          }
        }
      }
    }),
  );
});

test("refuses ranges that are no addresses", () => {
  const space = new AddressSpace();
  const handler = bytesHandler(new Uint8Array(1));
  for (const [base, length] of [
    [-1, 4],
    [0, 0],
    [0.5, 4],
    [2 ** 53, 16],
    [2 ** 53 - 8, 16],
  ] as const) {
    expect(() => space.map(base, length, handler), `${base}`).toThrow(RangeError);
  }
});

test("a shared line is asserted while one of its inputs is", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat({ max: 3 }), fc.boolean())), (steps) => {
      const levels: boolean[] = [];
      const shared = new SharedInterrupt({ set: (asserted) => levels.push(asserted) });
      const inputs = Array.from({ length: 4 }, () => shared.input());
      const state = [false, false, false, false];
      for (const [index, asserted] of steps) {
        inputs[index]?.set(asserted);
        state[index] = asserted;
        expect(levels.at(-1) ?? false).toBe(state.includes(true));
      }
      // Only changes are passed on.
      expect(levels.every((level, i) => level !== levels[i - 1])).toBe(true);
    }),
  );
});
