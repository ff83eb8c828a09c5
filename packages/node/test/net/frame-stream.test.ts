import fc from "fast-check";
import { expect, test } from "vitest";
import { FrameReader, MAX_FRAME, writeFrameLength } from "../../src/net/frame-stream.ts";

function encode(frames: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    frames.flatMap((frame) => {
      const length = new Uint8Array(4);
      writeFrameLength(length, 0, frame.length);
      return [length, frame];
    }),
  );
}

/** Frames whose bytes say which they are. */
const frames = fc
  .array(
    fc.oneof(
      { weight: 8, arbitrary: fc.integer({ min: 0, max: 40 }) },
      { weight: 1, arbitrary: fc.constant(MAX_FRAME) },
    ),
    { maxLength: 12 },
  )
  .map((lengths) => lengths.map((length, i) => new Uint8Array(length).fill(i + 1)));
const cuts = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 20 });

test("frames come out whole, in order and once, however the stream is cut and however often there is no room", () => {
  fc.assert(
    fc.property(frames, cuts, fc.infiniteStream(fc.boolean()), (sent, sizes, room) => {
      const stream = encode(sent);
      const received: Uint8Array[] = [];
      const reader = new FrameReader((frame) => {
        if (room.next().value === false) return false;
        received.push(frame.slice());
        return true;
      });
      for (let at = 0, i = 0; at < stream.length; i++) {
        // Large steps through long frames, small ones at their edges.
        const size = (sizes[i % sizes.length] ?? 1) * (i % 3 === 0 ? 1000 : 1);
        let result = reader.push(stream.slice(at, at + size));
        while (result === "full") result = reader.resume();
        expect(result).toBe("done");
        at += size;
      }
      const expected = sent.filter((frame) => frame.length > 0);
      expect(received.length).toBe(expected.length);
      expect(received.every((frame, i) => Buffer.compare(frame, expected[i] ?? frame.fill(0)) === 0)).toBe(
        true,
      );
    }),
    { numRuns: 200 },
  );
});

test("any bytes end in frames or in a broken stream", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 20 }), (chunks) => {
      const reader = new FrameReader((frame) => frame.length > 0 && frame.length <= MAX_FRAME);
      for (const chunk of chunks) {
        const result = reader.push(chunk);
        if (result === "broken") return;
        expect(result).toBe("done");
      }
    }),
  );
});

test("a length beyond the longest frame breaks the stream before the frame is there, also when it comes byte by byte", () => {
  for (const length of [MAX_FRAME + 1, 0x7fffffff, 0x80000000, 0xffffffff]) {
    const head = new Uint8Array(4);
    writeFrameLength(head, 0, length);
    expect(new FrameReader(() => true).push(head)).toBe("broken");
    const slow = new FrameReader(() => true);
    const results = [...head].map((byte) => slow.push(Uint8Array.of(byte)));
    expect(results.at(-1)).toBe("broken");
  }
});

test("after a reset the next byte starts a length", () => {
  const received: number[] = [];
  const reader = new FrameReader((frame) => received.push(frame.length) > 0);
  reader.push(Uint8Array.of(0, 0, 0, 9, 1, 2));
  reader.reset();
  reader.push(Uint8Array.of(0, 0, 0, 1, 5));
  expect(received).toEqual([1]);
});

test("a taker that asks for more from inside gets every frame once", () => {
  const received: number[] = [];
  const reader: FrameReader = new FrameReader((frame) => {
    expect(reader.resume()).toBe("done");
    received.push(frame[0] ?? 0);
    return true;
  });
  reader.push(encode([Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)]));
  expect(received).toEqual([1, 2, 3]);
});
