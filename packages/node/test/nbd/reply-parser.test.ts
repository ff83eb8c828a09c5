import fc from "fast-check";
import { expect, test } from "vitest";
import { NBD_CMD_READ } from "../../src/nbd/protocol.ts";
import { ReplyParser } from "../../src/nbd/reply-parser.ts";
import { NbdRequest } from "../../src/nbd/request.ts";
import { be, chunk, simple } from "./fake-server.ts";

const SIZE = 128 << 10;
const REPLIES = 32;
/** What the socket reads with where the parser gives no room. */
const [SIP, BUFFER] = [512, 1 << 18];

/** Reads replies from a socket that has so many bytes each time; gives the number of reads a reply, and of bytes that are copied. */
function readAll(burst: number): { reads: number; copied: number } {
  const content = new Uint8Array(SIZE).map((_, i) => i * 7 + (i >> 8));
  const requests = Array.from(
    { length: REPLIES },
    () => new NbdRequest(NBD_CMD_READ, 0, 0, SIZE, [new Uint8Array(SIZE)]),
  );
  let finished = 0;
  const parser = new ReplyParser(false, {
    find: (_, low) => requests[low],
    finished: () => finished++,
  });
  const replies = requests.map((_, low) => {
    const cookie = Buffer.alloc(8);
    cookie.writeUInt32BE(low, 4);
    return simple(cookie, 0, Buffer.from(content));
  });
  const stream = Buffer.concat(replies);
  let [reads, copied] = [0, 0];
  for (let at = 0; at < stream.length;) {
    for (const end = Math.min(stream.length, at + burst); at < end; reads++) {
      const room = parser.room();
      const length = Math.min(end - at, room?.length ?? (parser.large ? SIP : BUFFER));
      const piece = stream.subarray(at, at + length);
      at += length;
      if (room === undefined) {
        copied += length;
        parser.push(piece);
      } else {
        room.set(piece);
        parser.filled(length);
      }
    }
  }
  expect(finished).toBe(REPLIES);
  for (const { buffers } of requests) expect(Buffer.compare(Buffer.concat(buffers), content)).toBe(0);
  return { reads: reads / REPLIES, copied: copied / REPLIES };
}

test.each([1 << 16, 100_000, SIZE, 150_000, 1 << 20])(
  "large replies in bursts of %i bytes: few reads, and little that is read beside its target",
  (burst) => {
    const { reads, copied } = readAll(burst);
    // A header with the beginning, the rest, and once more where a burst ends.
    expect(reads).toBeLessThan(2.5 + SIZE / burst);
    // The first reply is not expected to be large.
    expect(copied).toBeLessThan(SIP + BUFFER / REPLIES + 1);
  },
);

/** Where something is cut: bytes between two cuts. */
const sizes = (most: number): fc.Arbitrary<number[]> =>
  fc.array(fc.oneof(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: most })), { maxLength: 40 });

/** Ranges of a whole: as many bytes each as `list` says, the last one what is left. */
function ranges(length: number, list: readonly number[]): { start: number; size: number }[] {
  const all = [];
  let start = 0;
  for (const wanted of [...list, length]) {
    const size = Math.min(wanted, length - start);
    if (size > 0) all.push({ start, size });
    start += size;
  }
  return all;
}

test("chunks of any sizes in any order, data and holes, read in any pieces, land in buffers of any sizes", () => {
  const place = 1 << 20;
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 300_000 }),
      sizes(100_000),
      sizes(100_000),
      sizes(200_000),
      fc.infiniteStream(fc.nat(2)),
      (length, buffers, chunks, bursts, kinds) => {
        const content = new Uint8Array(length).map((_, i) => 1 + ((i * 7 + (i >> 8)) % 255));
        const memory = new Uint8Array(length).fill(0xee);
        const targets = ranges(length, buffers).map(({ start, size }) =>
          memory.subarray(start, start + size),
        );
        // One of no bytes is nothing special.
        targets.splice(targets.length >> 1, 0, new Uint8Array(0));
        const request = new NbdRequest(NBD_CMD_READ, 0, place, length, targets);
        let finished = 0;
        const parser = new ReplyParser(true, { find: () => request, finished: () => finished++ });
        const parts = ranges(length, chunks);
        for (const [i, part] of parts.entries()) {
          // Not always in order: two change places now and then.
          const other = parts[i + 1];
          if (kinds.next().value === 0 && other !== undefined) [parts[i], parts[i + 1]] = [other, part];
        }
        const stream = parts.map(({ start, size }, i) => {
          const flags = i + 1 === parts.length ? 1 : 0;
          const at = be([8, place + start]);
          if (kinds.next().value === 0) {
            content.fill(0, start, start + size);
            return chunk(Buffer.alloc(8), flags, 2, Buffer.concat([at, be([4, size])]));
          }
          const data = Buffer.from(content.subarray(start, start + size));
          return chunk(Buffer.alloc(8), flags, 1, Buffer.concat([at, data]));
        });
        const bytes = Buffer.concat(stream);
        for (const { start, size } of ranges(bytes.length, bursts)) {
          for (let at = start; at < start + size;) {
            const room = parser.room();
            const taken = Math.min(start + size - at, room?.length ?? (parser.large ? SIP : BUFFER));
            const piece = bytes.subarray(at, at + taken);
            at += taken;
            if (room === undefined) parser.push(piece);
            else {
              room.set(piece);
              parser.filled(taken);
            }
          }
        }
        expect(finished).toBe(1);
        expect(Buffer.compare(memory, content)).toBe(0);
      },
    ),
    { numRuns: 150 },
  );
});
