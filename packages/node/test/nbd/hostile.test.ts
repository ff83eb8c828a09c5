import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { NbdError, NbdProtocolError } from "../../src/nbd/errors.ts";
import { NbdBlockBackend, type NbdBlockOptions } from "../../src/nbd/nbd-block.ts";
import { be, chunk, type FakeOptions, type FakeRequest, FakeServer, simple } from "./fake-server.ts";

let server: FakeServer;
let disk: NbdBlockBackend;
let opened = false;
let errors: Error[];
beforeEach(() => {
  opened = false;
  errors = [];
});
afterEach(async () => {
  if (!opened) return;
  await disk.close();
  await server.stop();
});

async function open(options: FakeOptions, more: NbdBlockOptions = {}): Promise<void> {
  server = await FakeServer.start(options);
  disk = await NbdBlockBackend.open(server.uri, { onError: (error) => errors.push(error), ...more });
  opened = true;
}

const data = (cookie: Buffer, flags: number, offset: number, length: number, fill = 1): Buffer =>
  chunk(cookie, flags, 1, Buffer.concat([be([8, offset]), Buffer.alloc(length, fill)]));
const hole = (cookie: Buffer, flags: number, offset: number, length: number): Buffer =>
  chunk(cookie, flags, 2, be([8, offset], [4, length]));
const failure = (cookie: Buffer, flags: number, error: number, text = "", more = Buffer.alloc(0)): Buffer =>
  chunk(cookie, flags, 0x8001, Buffer.concat([be([4, error], [2, text.length]), Buffer.from(text), more]));

describe("replies in pieces", () => {
  test("chunks in any order, holes among them, other replies between", async () => {
    const held: FakeRequest[] = [];
    await open({
      onRequest: (request) => {
        if (request.command !== 0) return undefined;
        held.push(request);
        if (held.length < 2) return "silence";
        const [one, two] = held.map(({ cookie }) => cookie);
        if (one === undefined || two === undefined) throw new Error("two reads");
        return Buffer.concat([
          data(two, 0, 8192 + 1024, 1024, 4),
          data(one, 0, 3072, 1024, 3),
          hole(one, 0, 512, 1500),
          data(two, 0, 8192, 1024, 2),
          data(one, 0, 0, 512, 1),
          chunk(two, 1, 0),
          data(one, 1, 2012, 1060, 9),
        ]);
      },
    });
    const [first, second] = [new Uint8Array(4096).fill(0xee), new Uint8Array(2048).fill(0xee)];
    await Promise.all([disk.read(0, first), disk.read(8192, second)]);
    const wanted = Buffer.concat([
      Buffer.alloc(512, 1),
      Buffer.alloc(1500, 0),
      Buffer.alloc(1060, 9),
      Buffer.alloc(1024, 3),
    ]);
    expect(Buffer.compare(first, wanted)).toBe(0);
    expect(Buffer.compare(second, Buffer.concat([Buffer.alloc(1024, 2), Buffer.alloc(1024, 4)]))).toBe(0);
  });

  test("any cutting of a read into chunks, sent in any order, gives its bytes", async () => {
    let cuts: readonly number[] = [];
    let seed: readonly number[] = [];
    await open({
      onRequest: ({ command, cookie, offset, length }) => {
        if (command !== 0) return undefined;
        const ends = [...new Set([...cuts.map((cut) => cut % length), length])].filter((cut) => cut > 0);
        ends.sort((a, b) => a - b);
        const pieces = ends.map((end, i) => {
          const start = ends[i - 1] ?? 0;
          const bytes = server.disk.subarray(offset + start, offset + end);
          return chunk(cookie, 0, 1, Buffer.concat([be([8, offset + start]), bytes]));
        });
        const order = pieces.map((piece, i) => ({ piece, key: seed[i % seed.length] ?? 0 }));
        order.sort((a, b) => a.key - b.key);
        return Buffer.concat([...order.map(({ piece }) => piece), chunk(cookie, 1, 0)]);
      },
    });
    server.disk.forEach((_, i) => (server.disk[i] = (i * 31) >> 4));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(200_000), { maxLength: 20 }),
        fc.array(fc.nat(100), { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 1, max: 400 }),
        async (someCuts, someSeed, sectors) => {
          [cuts, seed] = [someCuts, someSeed];
          const target = new Uint8Array(sectors * 512).fill(0xee);
          await disk.read(1024, target);
          expect(Buffer.compare(target, server.disk.subarray(1024, 1024 + target.length))).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe("errors of the server are errors of the request", () => {
  test.each([
    [1, "EPERM"],
    [5, "EIO"],
    [12, "ENOMEM"],
    [22, "EINVAL"],
    [28, "ENOSPC"],
    [75, "EOVERFLOW"],
    [95, "ENOTSUP"],
    [4711, "EINVAL"],
  ])("%i is %s", async (value, code) => {
    await open({
      onRequest: ({ cookie, length }) => (length === 512 ? simple(cookie, value) : undefined),
      structured: false,
    });
    const failed = await disk.read(0, new Uint8Array(512)).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(NbdError);
    expect(failed).toMatchObject({ code, message: `the NBD server answers ${code}` });
    await expect(disk.write(0, new Uint8Array(512))).rejects.toMatchObject({ code });
    // It goes on.
    await disk.read(0, new Uint8Array(1024));
    expect(errors).toEqual([]);
  });

  test("its text is told, fields and types that are not known are passed over", async () => {
    await open({
      onRequest: ({ command, cookie }) =>
        command === 0
          ? Buffer.concat([data(cookie, 0, 0, 512), failure(cookie, 1, 5, "bad disk\n", Buffer.alloc(8))])
          : chunk(cookie, 1, 0xffff, Buffer.concat([be([4, 28], [2, 0]), Buffer.alloc(100)])),
    });
    await expect(disk.read(0, new Uint8Array(1024))).rejects.toThrow('answers EIO ("bad disk")');
    await expect(disk.flush()).rejects.toThrow("answers ENOSPC");
    expect(errors).toEqual([]);
  });

  test("what a server cannot do without its being a mistake", async () => {
    await open({
      onRequest: ({ command, cookie, length }) =>
        command === 4 || command === 6 ? simple(cookie, length > 2 ** 25 ? 75 : 95) : undefined,
      size: 2 ** 26,
    });
    await disk.write(0, new Uint8Array(4096).fill(1));
    // A discard may do nothing.
    await disk.discard?.(0, 2 ** 26);
    // Zeroes are written then.
    await disk.writeZeroes?.(0, 4096, false);
    expect(server.disk.subarray(0, 4096).every((byte) => byte === 0)).toBe(true);
    const effects = server.requests.filter(({ command }) => command === 4 || command === 6);
    expect(effects.map(({ length }) => length)).toEqual([2 ** 26, 2 ** 25, 4096]);
  });
});

describe("a server that breaks the protocol loses its connection, and the requests say why", () => {
  const cookie = (request: FakeRequest, change: (bytes: Buffer) => void): Buffer => {
    const bytes = Buffer.from(request.cookie);
    change(bytes);
    return bytes;
  };
  type Answer = (request: FakeRequest) => Buffer;
  test.each<[string, Answer, string]>([
    ["a wrong magic", () => Buffer.alloc(16, 0xab), "a reply begins with 0xabababab"],
    [
      "a cookie of nobody",
      (r) =>
        simple(
          cookie(r, (b) => b.writeUInt32BE(9, 4)),
          0,
        ),
      "which nobody waits for",
    ],
    [
      "a cookie of another time",
      (r) =>
        simple(
          cookie(r, (b) => b.writeUInt32BE(99, 0)),
          0,
        ),
      "which nobody waits for",
    ],
    ["a simple reply to a read", (r) => simple(r.cookie, 0, Buffer.alloc(4096)), "a simple reply to a read"],
    ["data outside", (r) => data(r.cookie, 1, 4352, 512), "outside of a read"],
    ["data before", (r) => data(r.cookie, 1, 0, 4096), "outside of a read"],
    ["data far away", (r) => chunk(r.cookie, 1, 1, Buffer.alloc(9, 0xff)), "outside of a read"],
    [
      "data twice",
      (r) => Buffer.concat([data(r.cookie, 0, 512, 512), data(r.cookie, 0, 1000, 512)]),
      "more than once",
    ],
    [
      "a hole over data",
      (r) => Buffer.concat([data(r.cookie, 0, 512, 512), hole(r.cookie, 0, 512, 1)]),
      "more than once",
    ],
    ["a hole outside", (r) => hole(r.cookie, 1, 512, 2 ** 32 - 1), "outside of a read"],
    ["a hole of nothing", (r) => hole(r.cookie, 1, 512, 0), "a hole of no bytes"],
    ["data of nothing", (r) => chunk(r.cookie, 1, 1, be([8, 512])), "a chunk of type 1 and 8 bytes"],
    ["too little", (r) => data(r.cookie, 1, 512, 4095), "ends before all of them came"],
    ["nothing", (r) => chunk(r.cookie, 1, 0), "ends before all of them came"],
    ["nothing, and no end", (r) => chunk(r.cookie, 0, 0), "a chunk of type 0"],
    ["block status", (r) => chunk(r.cookie, 1, 5, Buffer.alloc(12)), "a chunk of type 5"],
    ["an error that is none", (r) => failure(r.cookie, 1, 0), "without an error"],
    [
      "a text that is longer than its chunk",
      (r) => chunk(r.cookie, 1, 0x8001, be([4, 5], [2, 1])),
      "an error text of 1 bytes",
    ],
    [
      "an error of 4 GiB",
      (r) => Buffer.concat([be([4, 0x668e33ef], [2, 1], [2, 0x8001]), r.cookie, be([4, 2 ** 32 - 1])]),
      "4294967295 bytes long",
    ],
    [
      "endless errors",
      (r) => Buffer.concat(new Array<Buffer>(300).fill(failure(r.cookie, 0, 5))),
      "error chunk 257",
    ],
  ])("%s", async (_name, answer, why) => {
    let lies = 0;
    await open(
      { onRequest: (request) => (request.command === 0 && lies++ === 0 ? answer(request) : undefined) },
      { reconnectDelay: 10 },
    );
    const failed = await disk.read(512, new Uint8Array(4096)).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(NbdProtocolError);
    expect(String(failed)).toContain(why);
    expect(errors.map(({ message }) => message)).toEqual([expect.stringContaining(why)]);
    // Perhaps it is better next time.
    await disk.read(512, new Uint8Array(4096));
    expect(server.connections).toBe(2);
  });

  test("a read in ever smaller pieces with gaps between them", async () => {
    const crumbs = (cookie: Buffer): Buffer[] =>
      Array.from({ length: 5000 }, (_, i) => data(cookie, 0, 2 * i, 1));
    await open({ onRequest: ({ cookie: c }) => Buffer.concat(crumbs(c)) });
    await expect(disk.read(0, new Uint8Array(65_536))).rejects.toThrow("1 bytes from 8192 on");
  });

  test("a structured chunk where none was agreed on", async () => {
    await open({ structured: false, onRequest: ({ cookie: c }) => chunk(c, 1, 0) });
    await expect(disk.flush()).rejects.toThrow("a reply begins with 0x668e33ef");
  });
});

test("bytes changed anywhere in the replies: every request ends, no byte lands outside its buffer, nothing is thrown elsewhere", async () => {
  const change = fc.record({ reply: fc.nat(8), at: fc.nat(60), value: fc.nat(255), cut: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(
      fc.array(change, { minLength: 1, maxLength: 3 }),
      fc.boolean(),
      async (changes, structured) => {
        let replies = 0;
        const fake: FakeServer = await FakeServer.start({
          structured,
          onRequest: (request) => {
            const number = replies++;
            let answer = fake.execute(request, structured);
            for (const { reply, at, value, cut } of changes) {
              if (reply !== number) continue;
              answer[at % answer.length] = value;
              if (cut) answer = answer.subarray(0, at % answer.length);
            }
            // What never comes ends with the connection.
            if (number >= 8) setTimeout(() => fake.hangUp(), 5);
            return answer;
          },
        });
        const victim = await NbdBlockBackend.open(fake.uri);
        const memory = new Uint8Array(10 * 2048).fill(0xee);
        const jobs = Array.from({ length: 9 }, (_, i) => {
          if (i % 3 === 2) return victim.write(0, new Uint8Array(1024));
          return victim.read(512 * i, memory.subarray(i * 2048 + 512, i * 2048 + 1536));
        });
        for (const result of await Promise.allSettled(jobs)) {
          if (result.status === "rejected") expect(result.reason).toBeInstanceOf(NbdError);
        }
        const outside = memory.filter((_, i) => i % 2048 < 512 || i % 2048 >= 1536);
        expect(outside.every((byte) => byte === 0xee)).toBe(true);
        await victim.close();
        await fake.stop();
      },
    ),
    { numRuns: 200 },
  );
  [server, disk] = [
    await FakeServer.start(),
    await NbdBlockBackend.open((server = await FakeServer.start()).uri),
  ];
});
