import { afterEach, describe, expect, test } from "vitest";
import type { NetBackend, NetPort } from "virtio/backends/net";
import { NetDevice } from "virtio/devices/net/device";
import { decode, encodeArp, encodeUdp, type Packet } from "@virtio/cli/shell/net/frames";
import { LyingTarget } from "./lib/lying-target.ts";
import { TestShell } from "./lib/shell.ts";

const OURS = Uint8Array.of(2, 0, 0, 0, 0, 1);
const THEIRS = Uint8Array.of(2, 0, 0, 0, 0, 2);
const CLIENT = 0x0a000001;
const SERVER = 0x0a000002;
type Udp = Extract<Packet, { kind: "udp" }>;

/** A server on the other end of the cable that answers every datagram as the test wants; ARP it answers as it should. */
class Server implements NetBackend {
  #port: NetPort | undefined;
  readonly #answer: (datagram: Udp, server: Server) => void;

  constructor(answer: (datagram: Udp, server: Server) => void) {
    this.#answer = answer;
  }

  attach(port: NetPort | undefined): void {
    this.#port = port;
  }

  send(frame: Uint8Array): boolean {
    const packet = decode(frame.slice());
    const ends = { destinationMac: OURS, sourceMac: THEIRS, source: SERVER, destination: CLIENT };
    if (packet?.kind === "arp" && packet.request && packet.targetIp === SERVER)
      setImmediate(() => this.#port?.receive(encodeArp(false, ends, OURS)));
    else if (packet?.kind === "udp") this.#answer(packet, this);
    return true;
  }

  /** To the port that asked, from one of ours. */
  say(to: Udp, payload: readonly number[] | Uint8Array, sourcePort = 2000, source = SERVER): void {
    const destination = to.destination === 0xffffffff ? 0xffffffff : CLIENT;
    const ends = { destinationMac: OURS, sourceMac: THEIRS, source, destination };
    const frame = encodeUdp(ends, sourcePort, to.sourcePort, Uint8Array.from(payload));
    setImmediate(() => this.#port?.receive(frame));
  }
}

let shell: TestShell | undefined;
afterEach(() => shell?.close());

async function against(answer: (datagram: Udp, server: Server) => void, commands: string): Promise<string> {
  shell = new TestShell(new LyingTarget([new NetDevice({ backend: new Server(answer), mac: OURS })]));
  return shell.run(`setenv ipaddr 10.0.0.1; setenv serverip 10.0.0.2; ${commands}`);
}

const block = (number: number, data: readonly number[] | Uint8Array): number[] => [
  0,
  3,
  (number >> 8) & 0xff,
  number & 0xff,
  ...data,
];
const text = (words: string): number[] => [...Buffer.from(words)];
const blockOf = ({ payload }: Udp): number =>
  payload[1] === 4 ? ((payload[2] ?? 0) << 8) | (payload[3] ?? 0) : -1;

describe("servers that lie", () => {
  test("a block that is too long, options that cannot be, words that speak to a terminal", async () => {
    const answers: readonly (readonly [number[], RegExp])[] = [
      [block(1, new Uint8Array(1400)), /a block of 1400 bytes\n$/],
      [[0, 6, ...text("blksize\x00999999\x00")], /Invalid blk size\(=999999\)\n$/],
      [[0, 6, ...text("blksize\x000\x00")], /Invalid blk size\(=0\)\n$/],
      [[0, 5, 0, 7, ...text("\u001b[2Jgone\u0007")], /TFTP error: '\?\[2Jgone\?' \(7\)\n/],
    ];
    for (const [answer, expected] of answers) {
      const shown = await against((datagram, server) => server.say(datagram, answer), "tftpboot 100000 x");
      expect(shown).toMatch(expected);
      expect(shown).not.toContain("\u001b");
      await shell?.close();
    }
  });

  test("a file without an end stops where memory does", async () => {
    const shown = await against(
      (datagram, server) =>
        server.say(datagram, block(Math.max(0, blockOf(datagram)) + 1, new Uint8Array(512))),
      "tftpboot 100000 x; md.b 1fffff 1",
    );
    expect(shown).toMatch(/the file does not fit the memory from this address on\n001fffff: 00 /);
  });

  test("blocks twice, out of order, from another port or host; more of them than the number can count", async () => {
    const blocks = 70_000;
    const shown = await against((datagram, server) => {
      if (datagram.destinationPort === 69) return server.say(datagram, [0, 6, ...text("blksize\x008\x00")]);
      const at = counter++;
      const data = Array.from({ length: at === blocks ? 0 : 8 }, (_, i) => (at + i) & 0xff);
      if (at % 1000 === 0) {
        server.say(datagram, block(at - 1, data));
        server.say(datagram, block(at + 1, [1]), 3000);
        server.say(datagram, block(at + 1, [1]), 2000, 0x0a000063);
        server.say(datagram, [0]);
      }
      server.say(datagram, block(at + 1, data));
    }, "tftpboot 100000 x");
    expect(shown).toContain(`Bytes transferred = ${8 * blocks}`);
    const bytes = shell?.shell.memory.readable(0x100000, 8 * blocks) ?? new Uint8Array();
    expect(bytes.every((byte, i) => byte === ((Math.floor(i / 8) + (i % 8)) & 0xff))).toBe(true);
  });
  let counter = 0;

  test("one that says the same for ever is a server that does not answer; Ctrl-C is heard", async () => {
    const flood = (datagram: Udp, server: Server): void => {
      for (let i = 0; i < 20; i++) server.say(datagram, block(40_000, [1, 2, 3]));
    };
    setTimeout(() => shell?.shell.interrupt(), 1500);
    expect(await against(flood, "tftpboot 100000 x")).toMatch(/Loading: T .*<INTERRUPT>\n$/);
  });

  test("DHCP answers that are none, that refuse, and that are full of nonsense", async () => {
    const offer = (datagram: Udp, type: number, options: readonly number[]): Uint8Array => {
      const bytes = datagram.payload.slice(0, 240);
      bytes[0] = 2;
      new DataView(bytes.buffer).setUint32(16, CLIENT);
      return Uint8Array.of(...bytes, 53, 1, type, ...options, 255);
    };
    const nonsense = [1, 2, 255, 255, 3, 200, 1, 12, 3, 27, 91, 65, 0, 0, 6, 5, 1, 2, 3, 4, 5];
    let requests = 0;
    const shown = await against((datagram, server) => {
      server.say(datagram, [2, 1, 6], 67);
      server.say(datagram, new Uint8Array(300), 67);
      const type = datagram.payload[242];
      // The first request is refused.
      const answer = type === 1 ? 2 : requests++ === 0 ? 6 : 5;
      server.say(datagram, offer(datagram, answer, nonsense), 67);
    }, "setenv autoload no; dhcp; printenv hostname; printenv dnsip; echo end");
    expect(shown).toMatch(
      /^BOOTP broadcast 1\nBOOTP broadcast 2\nDHCP client bound to address 10\.0\.0\.1 \(\d+ ms\)\n/,
    );
    expect(shown).not.toContain("\u001b");
    expect(shown).toMatch(/end\n$/);
  });
});
