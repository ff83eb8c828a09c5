import { expect, test } from "vitest";
import { NBD_CMD_READ } from "../../src/nbd/protocol.ts";
import { ReplyParser } from "../../src/nbd/reply-parser.ts";
import { NbdRequest } from "../../src/nbd/request.ts";
import { simple } from "./fake-server.ts";

const SIZE = 128 << 10;
const REPLIES = 32;
/** What the socket reads with where the parser gives no room. */
const [SIP, BUFFER] = [512, 1 << 18];

/** Reads replies from a socket that has so many bytes each time; gives the number of reads a reply, and of bytes that are copied. */
function readAll(burst: number): { reads: number; copied: number } {
  const content = new Uint8Array(SIZE).map((_, i) => i * 7 + (i >> 8));
  const requests = Array.from(
    { length: REPLIES },
    () => new NbdRequest(NBD_CMD_READ, 0, 0, SIZE, new Uint8Array(SIZE)),
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
  for (const { data } of requests) expect(Buffer.compare(data ?? content.subarray(1), content)).toBe(0);
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
