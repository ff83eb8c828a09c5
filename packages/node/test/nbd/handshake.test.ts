import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { NbdBlockBackend } from "../../src/nbd/nbd-block.ts";
import { be, FakeServer, type FakeOptions, optionReply } from "./fake-server.ts";

let server: FakeServer | undefined;
afterEach(async () => {
  await server?.stop();
  server = undefined;
});

async function open(options: FakeOptions, exportName = ""): Promise<NbdBlockBackend> {
  server = await FakeServer.start(options);
  return NbdBlockBackend.open({ address: { path: server.path }, exportName });
}

const servers: readonly (readonly [string, FakeOptions, readonly number[]])[] = [
  ["oldstyle", { style: "oldstyle" }, []],
  ["newstyle", { style: "newstyle" }, [1]],
  ["fixed newstyle without NBD_OPT_GO", { go: false, structured: false }, [8, 7, 1]],
  ["simple replies", { structured: false }, [8, 7]],
  ["structured replies", {}, [8, 7]],
];

describe.each(servers)("a server with %s", (_name, options, asked) => {
  test("gives its export, and does what a disk does", async () => {
    const disk = await open(options);
    expect(server?.options).toEqual(asked);
    expect(disk.size).toBe(1 << 20);
    const bytes = new Uint8Array(70_000 - (70_000 % 512)).map((_, i) => i % 253);
    await disk.write(512, bytes);
    await disk.writeZeroes?.(1024, 512, true);
    bytes.fill(0, 512, 1024);
    await disk.flush();
    const back = new Uint8Array(bytes.length);
    await disk.read(512, back);
    expect(Buffer.compare(back, bytes)).toBe(0);
    expect(server?.disk.subarray(512, 512 + bytes.length).equals(bytes)).toBe(true);
    await disk.close();
    // Goodbye is said.
    await expect.poll(() => server?.requests.at(-1)?.command).toBe(2);
  });
});

describe("what the server says of sizes", () => {
  test("its smallest block is the disk's, and no payload is larger than its largest", async () => {
    const disk = await open({ blocks: [4096, 8192, 16_384] });
    expect(disk.physicalBlockSize).toBe(4096);
    await disk.write(4096, new Uint8Array(40_960).fill(7));
    expect(server?.requests.map(({ offset, length }) => [offset, length])).toEqual([
      [4096, 16_384],
      [20_480, 16_384],
      [36_864, 8192],
    ]);
    const back = new Uint8Array(40_960);
    await disk.read(4096, back);
    expect(back.every((byte) => byte === 7)).toBe(true);
    await disk.close();
  });

  test("a tail that makes no block is left out, and that is said", async () => {
    server = await FakeServer.start({ size: 10_000 });
    const said: string[] = [];
    const disk = await NbdBlockBackend.open(server.uri, { onError: ({ message }) => said.push(message) });
    expect(disk.size).toBe(9728);
    expect(said).toEqual([expect.stringContaining("its last 272 bytes are left out")]);
    await disk.close();
  });

  test.each([
    [[3, 512, 4096], "minimum block size of 3"],
    [[0, 512, 4096], "minimum block size of 0"],
    [[131_072, 131_072, 1 << 25], "minimum block size of 131072"],
    [[4096, 4096, 1024], "maximum payload of 1024"],
    [[1, 512, 0], "maximum payload of 0"],
  ] as const)("%j is refused", async (blocks, why) => {
    await expect(open({ blocks })).rejects.toThrow(why);
  });

  test("an export of 2^53 bytes is refused", async () => {
    const onOption = (option: number): Buffer | undefined =>
      option === 7
        ? Buffer.concat([optionReply(7, 3, be([2, 0], [8, 2 ** 53], [2, 1])), optionReply(7, 1)])
        : undefined;
    await expect(open({ onOption })).rejects.toThrow("2^53 bytes or more");
  });
});

describe("what the server refuses is said", () => {
  test.each([
    [2, "its policy does not allow it"],
    [5, "it wants TLS: use nbds://"],
    [6, "it has no such export"],
    [7, "it is shutting down"],
    [99, "error 0x80000063"],
  ])("error %i: %s", async (error, why) => {
    const text = Buffer.from("no\nway\u{1b}[31m");
    const onOption = (option: number): Buffer | undefined =>
      option === 7 ? optionReply(7, 2 ** 31 + error, text) : undefined;
    const failed = await open({ onOption }, "x/y").catch((reason: unknown) => reason);
    expect(failed).toMatchObject({
      message: `disk 'nbd+unix:///x/y?socket=${server?.path}': the NBD server refuses: ${why} ("no way [31m")`,
    });
    // NBD_OPT_ABORT
    await expect.poll(() => server?.options.at(-1)).toBe(2);
  });

  test("TLS", async () => {
    server = await FakeServer.start();
    await expect(NbdBlockBackend.open(`nbds+unix:///?socket=${server.path}`)).rejects.toThrow(
      "it does not know the option",
    );
    expect(server.options[0]).toBe(5);
  });

  test("names, where the server is too old for them", async () => {
    await expect(open({ style: "oldstyle" }, "x")).rejects.toThrow("too old for names");
  });

  test("nobody is there", async () => {
    await expect(NbdBlockBackend.open("nbd+unix:///?socket=/nonexistent/s")).rejects.toThrow(/ENOENT/);
    await expect(NbdBlockBackend.open("nbd://localhost:1/")).rejects.toThrow(/ECONNREFUSED/);
  });
});

describe("a server that lies in the handshake ends in an error that says so", () => {
  const magic = be([8, 0x4e42444d41474943n]);
  const go =
    (...replies: Buffer[]) =>
    (option: number): Buffer | undefined =>
      option === 7 ? Buffer.concat(replies) : undefined;
  const info = optionReply(7, 3, be([2, 0], [8, 4096], [2, 1]));
  test.each<[string, FakeOptions, string]>([
    ["SSH", { greeting: Buffer.from("SSH-2.0-OpenSSH_9.2p1 Debian\r\n") }, "there is no NBD server"],
    ["another magic", { greeting: Buffer.concat([magic, magic]) }, "neither IHAVEOPT nor"],
    ["a flood", { greeting: Buffer.concat([magic, Buffer.alloc(1 << 20)]) }, "neither IHAVEOPT nor"],
    ["wrong magic of a reply", { onOption: () => Buffer.alloc(20) }, "wrong magic"],
    ["another option", { onOption: () => optionReply(3, 1) }, "a reply to option 3, asked was 8"],
    [
      "a reply of 4 GiB",
      { onOption: () => be([8, 0x3e889045565a9], [4, 8], [4, 1], [4, 2 ** 32 - 1]) },
      "4294967295 bytes",
    ],
    ["an unknown type", { onOption: go(optionReply(7, 77)) }, "reply type 77"],
    ["an acknowledgement without an export", { onOption: go(optionReply(7, 1)) }, "without NBD_INFO_EXPORT"],
    ["a short export", { onOption: go(optionReply(7, 3, be([2, 0], [4, 1]))) }, "NBD_INFO_EXPORT of 6 bytes"],
    ["endless information", { onOption: go(...new Array<Buffer>(100).fill(info)) }, "more than 64 replies"],
    [
      "a reply too early",
      { onOption: go(info, optionReply(7, 1), be([4, 0x67446698])) },
      "before any request",
    ],
  ])("%s", async (_name, options, why) => {
    await expect(open(options)).rejects.toThrow(why);
  });

  test("clear text behind the answer to NBD_OPT_STARTTLS is not taken for the server's", async () => {
    const onOption = (option: number): Buffer | undefined =>
      option === 5 ? Buffer.concat([optionReply(5, 1), optionReply(8, 1)]) : undefined;
    server = await FakeServer.start({ onOption });
    await expect(NbdBlockBackend.open(`nbds+unix:///?socket=${server.path}`)).rejects.toThrow(
      "before TLS begins",
    );
  });
});

test("bytes changed anywhere in the handshake: there is a disk or an error, and soon", async () => {
  const change = fc.record({
    option: fc.constantFrom(1, 7, 8),
    at: fc.nat(80),
    value: fc.nat(255),
    cut: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), fc.boolean(), async (changes, go) => {
      const fake: FakeServer = await FakeServer.start({
        go,
        blocks: [512, 4096, 1 << 20],
        onOption: (option) => {
          let answer = fake.answer(option);
          for (const { at, value, cut } of changes.filter((one) => one.option === option)) {
            if (answer.length > 0) answer[at % answer.length] = value;
            if (cut) answer = answer.subarray(0, at % (answer.length + 1));
          }
          // What never comes ends with the connection.
          setTimeout(() => fake.hangUp(), 10);
          return answer;
        },
      });
      const outcome = await NbdBlockBackend.open(fake.uri).catch((error: unknown) => error);
      if (outcome instanceof NbdBlockBackend) {
        expect(outcome.size % outcome.physicalBlockSize).toBe(0);
        await outcome.close();
      } else expect(String(outcome)).toContain(`disk '${fake.uri}`.slice(0, -1));
      await fake.stop();
    }),
    { numRuns: 150 },
  );
});
