import { readFileSync } from "node:fs";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseIp, ipText } from "@virtio/cli/shell/net/addresses";
import { decode, encodeArp, encodeIcmp, encodeUdp, type Ends } from "@virtio/cli/shell/net/frames";
import { findProgram, needs } from "@virtio/testkit/needs";
import { KERNEL, TemporaryFolder, pattern } from "./lib/images.ts";
import { onQemu, type TestShell } from "./lib/shell.ts";

const folder = new TemporaryFolder();
afterAll(() => folder.remove());
const ready = findProgram("qemu-system-arm") !== undefined;

describe.skipIf(!ready)("slirp, QEMU's user-mode network", () => {
  let shell: TestShell;
  beforeAll(async () => {
    folder.write("kernel.img", KERNEL);
    folder.write("empty", "");
    // A whole number of blocks: the last one is empty.
    folder.write("even", pattern(1468 * 3));
    shell = await onQemu(
      `qemu-system-arm -M versatilepb -netdev user,id=n,tftp=${folder.path},bootfile=kernel.img,hostname=board ` +
        "-device virtio-net-pci,netdev=n,mac=52:54:00:aa:bb:cc",
    );
  });
  afterAll(() => shell?.close());
  const title = (text: string): string => needs("qemu-system-arm", "qemu-system-arm", text);

  test(title("without an address nothing is sent"), async () => {
    expect(await shell.run("ping 10.0.2.2")).toBe("*** ERROR: `ipaddr' not set\n");
    expect(await shell.run("bdinfo -e")).toBe(
      "current eth = virtio-net#0\nethaddr     = 52:54:00:aa:bb:cc\nIP addr     = <NULL>\n",
    );
  });

  test(title("dhcp gets an address, sets the variables and loads the boot file"), async () => {
    const shown = await shell.run("dhcp 1000000");
    expect(shown).toMatch(
      /^BOOTP broadcast 1\nDHCP client bound to address 10\.0\.2\.15 \(\d+ ms\)\nUsing virtio-net#0 device\n/,
    );
    expect(shown).toContain(
      "TFTP from server 10.0.2.2; our IP address is 10.0.2.15\nFilename 'kernel.img'.\nLoad address: 0x1000000\nLoading: ###########\n",
    );
    expect(shown).toMatch(/\n\t [\d.]+ [KMG]iB\/s\ndone\nBytes transferred = 149280 \(24720 hex\)\n$/);
    expect(
      await shell.run(
        "printenv ipaddr netmask gatewayip serverip dnsip hostname bootfile fileaddr filesize ethaddr",
      ),
    ).toBe(
      "ipaddr=10.0.2.15\nnetmask=255.255.255.0\ngatewayip=10.0.2.2\nserverip=10.0.2.2\ndnsip=10.0.2.3\nhostname=board\n" +
        "bootfile=kernel.img\nfileaddr=1000000\nfilesize=24720\nethaddr=52:54:00:aa:bb:cc\n",
    );
    expect(await shell.run("crc32 1000000 24720")).toContain(crc32(KERNEL).toString(16).padStart(8, "0"));
    expect(await shell.run("setenv autoload no; dhcp")).toMatch(/^BOOTP broadcast 1\nDHCP client bound.*\n$/);
  });

  test(title("ping"), async () => {
    expect(await shell.run("ping 10.0.2.2")).toBe("Using virtio-net#0 device\nhost 10.0.2.2 is alive\n");
    expect(shell.status).toBe(0);
    expect(await shell.run("ping 10.0.2.99")).toBe(
      "Using virtio-net#0 device\n\nARP Retry count exceeded: 10.0.2.99 does not answer\n" +
        "ping failed; host 10.0.2.99 is not alive\n",
    );
    expect(shell.status).toBe(1);
    expect(await shell.run("ping 1.2.3.400")).toMatch(/is no IPv4 address/);
  });

  test(title("tftpboot: any length, another server's name, errors"), async () => {
    expect(await shell.run("tftpboot 2000000 10.0.2.2:even")).toMatch(
      /done\nBytes transferred = 4404 \(1134 hex\)\n$/,
    );
    expect(readFileSync(folder.file("even")).equals(shell.shell.memory.readable(0x2000000, 4404))).toBe(true);
    expect(await shell.run("tftpboot empty; printenv filesize")).toMatch(
      /Bytes transferred = 0 \(0 hex\)\nfilesize=0\n$/,
    );
    expect(await shell.run("tftpboot nothing")).toMatch(
      /Loading: \nTFTP error: 'File not found' \(1\)\nNot retrying\.\.\.\n$/,
    );
    expect(await shell.run("tftpboot ffffffff kernel.img")).toMatch(/not in the shell's memory/);
    const last = (shell.shell.memory.start + shell.shell.memory.size - 1000).toString(16);
    expect(await shell.run(`tftpboot ${last} kernel.img`)).toMatch(/does not fit the memory/);
    expect(await shell.run("setenv serverip; tftpboot 1000000 x")).toBe("*** ERROR: `serverip' not set\n");
  });

  test(title("Ctrl-C ends a wait"), async () => {
    setTimeout(() => shell.shell.interrupt(), 300);
    expect(await shell.run("tftpboot 2000000 10.0.2.77:x; echo not here")).toMatch(/<INTERRUPT>\n$/);
    expect(await shell.run("ping 10.0.2.2")).toContain("is alive");
  });
});

describe("frames", () => {
  const mac = fc.uint8Array({ minLength: 6, maxLength: 6 });
  const ip = fc.integer({ min: 0, max: 0xffffffff });
  const ends = fc.record({
    destinationMac: mac,
    sourceMac: mac,
    source: ip,
    destination: ip,
  }) satisfies fc.Arbitrary<Ends>;
  const port = fc.integer({ min: 0, max: 0xffff });

  test("what is encoded comes back", () => {
    fc.assert(
      fc.property(
        ends,
        port,
        port,
        fc.uint8Array({ maxLength: 1472 }),
        (from, sourcePort, destinationPort, payload) => {
          const { source, destination } = from;
          expect(decode(encodeUdp(from, sourcePort, destinationPort, payload))).toEqual({
            kind: "udp",
            source,
            destination,
            sourcePort,
            destinationPort,
            payload,
          });
          const body = Uint8Array.of(0, 0, 0, 0, ...payload.subarray(0, 64));
          expect(decode(encodeIcmp(from, 8, body))).toEqual({
            kind: "icmp",
            source,
            destination,
            type: 8,
            code: 0,
            body,
          });
          expect(decode(encodeArp(true, from, from.destinationMac))).toMatchObject({
            kind: "arp",
            request: true,
            senderIp: source,
            targetIp: destination,
          });
        },
      ),
    );
  });

  test("any bytes are a packet or none, and one that was changed on the way is none", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (frame) => void decode(frame)),
      { numRuns: 1000 },
    );
    const header = Uint8Array.of(...new Uint8Array(12), 8, 0);
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 100 }),
        (rest) => void decode(Uint8Array.of(...header, 0x45, ...rest)),
      ),
      { numRuns: 1000 },
    );
    const at = fc.integer({ min: 14, max: 14 + 20 + 8 + 99 });
    fc.assert(
      fc.property(ends, at, fc.integer({ min: 1, max: 255 }), (from, index, change) => {
        const frame = encodeUdp(from, 1000, 2000, pattern(100));
        const before = decode(frame);
        frame[index] = (frame[index] ?? 0) ^ change;
        // Checksums see every change of one byte; but for a checksum of 0, which says that there is none.
        const after = decode(frame);
        if (after !== undefined) expect(after).toEqual(before);
      }),
    );
  });

  test("addresses", () => {
    fc.assert(
      fc.property(ip, (number) => {
        expect(parseIp(ipText(number), "x")).toBe(number);
      }),
    );
    for (const text of ["", "1.2.3", "1.2.3.256", "1.2.3.4.5", "a.b.c.d", " 1.2.3.4"])
      expect(() => parseIp(text, "x")).toThrow(/is no IPv4/);
  });
});
