import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { createSocket, type Socket } from "node:dgram";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { packageFiles } from "@virtio/cli/guest/packages";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { askForLease } from "@virtio/cli/shell/net/dhcp";
import { NetworkInterface } from "@virtio/cli/shell/net/interface";
import { Stack } from "@virtio/cli/shell/net/stack";
import { waitFor } from "@virtio/cli/shell/shell";
import { VhostUserTarget } from "@virtio/cli/shell/target/vhost-user";
import { VhostUserTransport } from "@virtio/vhost-user";
import { NetDriver } from "virtio/drivers/net/driver";
import { VIRTIO_ID_NET } from "virtio/spec/ids";
import { VIRTIO_NET_F_MRG_RXBUF } from "virtio/spec/net";
import { TestShell } from "../../shell/lib/shell.ts";

/** Debian 12's passt does not speak vhost-user yet. It runs with the libraries of its own release. */
const PACKAGE = { name: "passt", suite: "trixie", architecture: "amd64", dependencies: true };
/** What passt gives, where there is no network that it could take addresses from, and who it says that the host is. */
const LOCAL = { ip: "169.254.2.1", host: "169.254.2.2" };
/** A network of its own, in which everybody may ping: by default the kernel lets nobody. Its addresses need no network outside. */
const ALONE = [
  "unshare",
  "--map-root-user",
  "--net",
  "sh",
  "-c",
  'ip link set lo up && echo 0 0 >/proc/sys/net/ipv4/ping_group_range && exec "$@"',
  "sh",
];
const mayBeAlone = spawnSync("unshare", ["--map-root-user", "--net", "true"]).status === 0;

/** Our driver against passt, which needs neither a network outside nor root. */
describe("net on passt", () => {
  let files = "";
  let folder = "";
  let child: ChildProcess | undefined;
  const socket = (): string => join(folder, "passt.sock");

  beforeAll(async () => {
    files = await packageFiles(homeFolder(), PACKAGE, new Progress());
  });

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "virtio-passt-"));
  });

  afterEach(() => {
    child?.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  });

  async function start(before: readonly string[] = []): Promise<void> {
    const libraries = join(files, "usr/lib/x86_64-linux-gnu");
    const loader = [join(libraries, "ld-linux-x86-64.so.2"), "--library-path", libraries];
    // Root would become nobody, who cannot make the socket.
    const user = before.length > 0 || process.getuid?.() === 0 ? ["--runas", "0"] : [];
    const own = ["--foreground", "--ipv4-only", "--vhost-user", "--socket", socket(), ...user];
    const [program = "", ...argv] = [...before, ...loader, join(files, "usr/bin/passt"), ...own];
    child = spawn(program, argv, { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
    for (let i = 0; i < 500 && !existsSync(socket()) && child.exitCode === null; i++) await wait(10);
    if (!existsSync(socket())) throw new Error(`passt: ${said}`);
  }

  test(
    clause(
      "drv.net.rx",
      "an address by DHCP; datagrams of all sizes go to a server of the host and come back",
    ),
    { timeout: 60_000 },
    async () => {
      await start();
      const transport = await VhostUserTransport.open({ socket: socket(), deviceId: VIRTIO_ID_NET });
      const net = new NetworkInterface(await NetDriver.open(transport));
      await transport.settled();
      const { signal } = new AbortController();
      const context = {
        signal,
        wait: <T>(promise: Promise<T>, what: string, milliseconds = 5000): Promise<T> =>
          waitFor(promise, what, milliseconds, signal),
      };
      const asking = new Stack(net, { ip: 0, netmask: 0, gateway: 0 }, context);
      const lease = await askForLease(asking, () => undefined);
      asking.close();
      if (lease === undefined) throw new Error("passt gives no address");
      const stack = new Stack(net, lease, context);
      stack.listen(4000);
      const server = await echo();
      const { port } = server.address();
      const ask = async (length: number, times: number): Promise<void> => {
        const payload = Buffer.alloc(length, `${length} `);
        payload[0] = times;
        await stack.send(lease.gateway, port, payload);
        const answer = await stack.receive(2000);
        expect(answer?.sourcePort, `${length} bytes`).toBe(port);
        const expected = Buffer.concat(Array.from({ length: times }, () => payload));
        expect(Buffer.from(answer?.payload ?? []).equals(expected)).toBe(true);
      };
      for (let length = 1; length <= 1472; length += 16) await ask(length, 1);
      // Longer than a buffer: the device puts several together.
      expect(net.driver.session.has(VIRTIO_NET_F_MRG_RXBUF)).toBe(true);
      for (const times of [2, 7, 20, 40]) await ask(1472, times);
      stack.close();
      await net.close();
      server.close();
    },
  );

  test.skipIf(!mayBeAlone || findProgram("ip") === undefined)(
    needs("ip", "iproute2", clause("drv.net.tx", "the shell's dhcp and ping, without any network outside")),
    { timeout: 60_000 },
    async () => {
      await start(ALONE);
      const shell = new TestShell(new VhostUserTarget([{ socket: socket(), deviceId: VIRTIO_ID_NET }]));
      expect(await shell.run("dhcp")).toMatch(/DHCP client bound to address [0-9.]+ \(\d+ ms\)\n$/);
      expect(await shell.run("printenv ipaddr netmask gatewayip")).toBe(
        `ipaddr=${LOCAL.ip}\nnetmask=255.255.0.0\ngatewayip=${LOCAL.host}\n`,
      );
      expect(await shell.run(`ping ${LOCAL.host}`)).toMatch(/host 169\.254\.2\.2 is alive\n$/);
      await shell.close();
    },
  );
});

/** A server of the host, which passt shows as one of the gateway. The first byte says how often it is to say the rest. */
async function echo(): Promise<Socket> {
  const server = createSocket("udp4");
  server.on("message", (bytes, { port, address }) =>
    server.send(Buffer.concat(Array.from({ length: bytes[0] ?? 0 }, () => bytes)), port, address),
  );
  await new Promise<void>((resolve) => server.bind(0, "127.0.0.1", resolve));
  return server;
}

function wait(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
