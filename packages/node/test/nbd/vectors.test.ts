import { afterEach, expect, test } from "vitest";
import { NbdBlockBackend } from "../../src/nbd/nbd-block.ts";
import { FakeServer, type FakeOptions } from "./fake-server.ts";

const READ = 0;
const WRITE = 1;

let server: FakeServer;
let disk: NbdBlockBackend;
afterEach(async () => {
  await disk.close();
  await server.stop();
});
async function start(options: FakeOptions = {}): Promise<void> {
  server = await FakeServer.start(options);
  disk = await NbdBlockBackend.open(server.uri);
}

/** Pages of a guest, none beside the other. */
const pages = (count: number, size: number): Uint8Array[] =>
  Array.from({ length: count }, (_, i) => new Uint8Array(size).fill(i + 1));

test.each([
  [32, 4096],
  [3, 40_000 - (40_000 % 512)],
  [2, 1 << 17],
])(
  "%i buffers of %i bytes are one request to the server, and the list is the caller's",
  async (count, size) => {
    await start();
    const sources = pages(count, size);
    const list = [...sources];
    const writing = disk.writev(4096, list);
    list.length = 0;
    await writing;
    const targets = pages(count, size).map((page) => page.fill(0xee));
    const targetList = [...targets];
    const reading = disk.readv(4096, targetList);
    targetList.length = 0;
    await reading;
    expect(Buffer.compare(Buffer.concat(targets), Buffer.concat(sources))).toBe(0);
    const sent = server.requests.map(({ command, offset, length }) => ({ command, offset, length }));
    expect(sent).toEqual([
      { command: WRITE, offset: 4096, length: count * size },
      { command: READ, offset: 4096, length: count * size },
    ]);
  },
);

test("what is more than the server takes at once is cut, across buffers", async () => {
  await start({ blocks: [512, 4096, 8192] });
  const sources = pages(7, 3 * 512);
  await disk.writev(0, sources);
  const targets = pages(3, 7 * 512);
  await disk.readv(0, targets);
  expect(Buffer.compare(Buffer.concat(targets), Buffer.concat(sources))).toBe(0);
  expect(server.requests.map(({ length }) => length)).toEqual([8192, 2560, 8192, 2560]);
});
