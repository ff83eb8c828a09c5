import { join } from "node:path";
import { createServer } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { QemuError, QtestClient } from "../src/index.ts";
import { BlockingSocket } from "../src/qtest/socket.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const folder = temporaryFolder();

/** The other end of a client, in this process and thread: what it answers must be said before it is asked. */
class Peer {
  readonly client: QtestClient;
  readonly #far: BlockingSocket;

  constructor(timeout: number) {
    const [near, far] = UnixSocket.pair();
    this.#far = new BlockingSocket(far);
    this.client = new QtestClient(new BlockingSocket(near), { timeout, explain: () => "its last words" });
  }

  say(text: string): void {
    expect(this.#far.write(Buffer.from(text, "latin1"))).toBe(text.length);
  }

  /** What was sent. */
  heard(): string {
    const bytes = Buffer.alloc(65_536);
    return bytes.toString("latin1", 0, this.#far.read(bytes));
  }

  hangUp(): void {
    this.#far.close();
  }
}

const peers: Peer[] = [];
function connect(timeout = 200): Peer {
  const peer = new Peer(timeout);
  peers.push(peer);
  return peer;
}
afterEach(() => {
  for (const { client } of peers.splice(0)) client.close();
});
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

describe("a qtest client", () => {
  test("sends writes in one piece, in order, ahead of what is read after them", () => {
    const peer = connect();
    const { client } = peer;
    peer.say("OK\nOK\nOK\nOK 0x0000000000000012\n");
    client.outb(0x70, 0x1ff);
    client.writel(0x1000, -1);
    client.writeq(0x2000, 2n ** 64n + 5n);
    expect(client.readl(0x3000)).toBe(0x12);
    const sent = "outb 0x70 0xff\nwritel 0x1000 0xffffffff\nwriteq 0x2000 0x5\nreadl 0x3000\n";
    expect(peer.heard()).toBe(sent);
    expect([client.commands, client.batches]).toEqual([4, 1]);
  });

  test("sends writes at the end of the turn when nothing is read", async () => {
    const peer = connect();
    peer.client.writeb(1, 2);
    peer.client.memset(0, 16, 0);
    expect(peer.heard()).toBe("");
    await Promise.resolve();
    expect(peer.heard()).toBe("writeb 0x1 0x2\nmemset 0x0 0x10 0x0\n");
  });

  test("hears interrupts between answers and while nobody asks", async () => {
    const peer = connect();
    const heard: [number, boolean][] = [];
    peer.client.onInterrupt = (line, raised) => heard.push([line, raised]);
    peer.say("IRQ raise 5\nOK 0x0001\nIRQ lower 5\n");
    expect(peer.client.inw(0x10)).toBe(1);
    expect(heard).toEqual([
      [5, true],
      [5, false],
    ]);
    peer.say("IRQ ra");
    await turn();
    peer.say("ise 11\n");
    await turn();
    expect(heard.at(-1)).toEqual([11, true]);
  });

  test("reads memory in base64", () => {
    const peer = connect();
    peer.say(`OK ${Buffer.from("hello").toString("base64")}\n`);
    expect(Buffer.from(peer.client.read(0x1000, 5)).toString()).toBe("hello");
    expect(peer.heard()).toBe("b64read 0x1000 0x5\n");
  });

  test("gives the answers of many commands in their order", () => {
    const peer = connect();
    peer.say("OK 0x1\nFAIL Unknown command 'x'\nOK 0x3\n");
    expect(peer.client.execute(["readl 0x0", "x", "readl 0x4"])).toEqual([
      "OK 0x1",
      "FAIL Unknown command 'x'",
      "OK 0x3",
    ]);
    expect(() => peer.client.execute(["one\ntwo"])).toThrow(/no command is "one\\ntwo"/);
  });

  test.each<[string, string, (client: QtestClient) => unknown, RegExp]>([
    [
      "FAIL",
      "FAIL no such port\n",
      (client) => client.inb(1),
      /'inb 0x1' was answered with 'FAIL no such port'/,
    ],
    ["no number", "OK twelve\n", (client) => client.readl(1), /answered with 'twelve'/],
    ["too large a number", "OK 0x1234567890\n", (client) => client.readl(1), /answered with '0x1234567890'/],
    ["too few bytes", "OK AAA=\n", (client) => client.read(0, 5), /answered with '2 bytes'/],
    ["FAIL to a write", "FAIL\nOK 0x1\n", (client) => (client.outb(1, 1), client.inb(1)), /a write.*'FAIL'/],
    ["a strange interrupt", "IRQ dance 5\n", (client) => client.inb(1), /'IRQ dance 5' is no interrupt/],
    ["nothing", "", (client) => client.inb(1), /no answer to 'inb 0x1'|no answer to inb 0x1 within 200 ms/],
  ])("ends with an error on %s, and QEMU's last words", async (_what, said, ask, message) => {
    const peer = connect();
    const failures: QemuError[] = [];
    peer.client.onFailure = (error) => failures.push(error);
    if (said !== "") peer.say(said);
    expect(() => ask(peer.client)).toThrow(message);
    expect(() => ask(peer.client)).toThrow(/its last words/);
    await turn();
    expect(failures).toEqual([peer.client.failure]);
  });

  test("hears at once that QEMU is gone, asked or not", async () => {
    const idle = connect();
    const told = new Promise<Error>((resolve) => (idle.client.onFailure = resolve));
    idle.hangUp();
    expect((await told).message).toBe("qtest: the connection has ended: its last words");
    const asking = connect(5000);
    asking.hangUp();
    const started = performance.now();
    expect(() => asking.client.readl(0)).toThrow(QemuError);
    expect(performance.now() - started).toBeLessThan(1000);
  });

  test("ends when QEMU takes no commands", () => {
    const peer = connect();
    expect(() => {
      for (let i = 0; i < 1000; i++) peer.client.write(0, new Uint8Array(10_000));
    }).toThrow(/no command was taken within 200 ms/);
  });

  test("says when nobody listens", () => {
    expect(() => QtestClient.connect(join(folder, "nobody"))).toThrow(/ENOENT/);
  });

  test("connects to a socket", async () => {
    const path = join(folder, "qtest.sock");
    const server = createServer((socket) => {
      socket.on("data", () => socket.write("OK\n"));
      socket.on("error", () => undefined);
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const client = QtestClient.connect(path);
    client.outb(1, 2);
    await turn();
    await turn();
    expect(client.failure).toBeUndefined();
    client.close();
    server.close();
  });
});
