import { mkdirSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { installGuest } from "@virtio/cli/guest/assets";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { HANG_MS } from "@virtio/testkit/until";
import { temporaryFolder } from "../../guest/virtio.ts";
import { outputOf, type Console } from "./console.ts";
import {
  architectures,
  linuxArguments,
  machines,
  socketPath,
  startMachine,
  type Transport,
} from "./machine.ts";
import { makeInitrd } from "./root-disk.ts";
import { serve, stop } from "./serve.ts";

const bootTimeout = HANG_MS;
/** Bit of VIRTIO_F_RING_PACKED in sysfs' text of the features. */
const ringPacked = 34;

/** A guest with two network devices of ours on one hub; one is in a namespace of its own, so that all goes through the hub. */
export function netTest(machine: keyof typeof machines, transport: Transport, packed: boolean): void {
  const kind = machines[machine];
  const ring = packed ? "packed" : "split";
  const title = clause(
    "dev.net.rx",
    `${kind.name}, ${transport}, ${ring} ring: two network devices of ours on a hub`,
  );
  const folder = temporaryFolder();
  test.skipIf(findProgram(kind.program) === undefined)(
    needs(kind.program, kind.debianPackage, title),
    async () => {
      const guest = await installGuest(homeFolder(), new Progress(), architectures[machine]);
      const work = join(folder, `${machine}-${transport}-${ring}`);
      mkdirSync(work);
      const sockets = ["one", "other"].map((name) => socketPath(work, name));
      const server = await serve(
        sockets.flatMap((socket) => ["net", "--socket", socket, "--netdev", "hubport,hubid=0"]),
      );
      const shell = startMachine({
        kind,
        transport,
        memory: 256,
        processors: 1,
        devices: sockets.map((socket, index) => ({
          kind: "net",
          socket,
          properties: `,packed=${packed ? "on" : "off"},mac=52:54:00:00:00:0${index}`,
        })),
        boot: linuxArguments(kind, guest.kernel, makeInitrd(work, guest), ["rdinit=/shell"]),
      });
      try {
        await shell.until(/<shell is up>\r?\n/, bootTimeout);
        await checkNetwork(shell, packed);
        shell.send("poweroff -f\n");
        expect(await shell.finish(60_000)).toBe(0);
        await stop(server);
      } catch (error) {
        throw new Error(`the server said:\n${server.tail}`, { cause: error });
      } finally {
        shell.kill();
        server.kill();
      }
    },
  );
}

async function checkNetwork(shell: Console, packed: boolean): Promise<void> {
  const features = await outputOf(shell, "cat /sys/class/net/eth[01]/device/features");
  for (const bits of features.split("\n")) expect(bits.charAt(ringPacked)).toBe(packed ? "1" : "0");
  // The order in which the kernel finds them is its own.
  const setup = [
    "ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up",
    "unshare -n sleep 100000 & sleep 1; echo $! >/tmp/other",
    "ip link set eth1 netns $(cat /tmp/other)",
    `echo 'nsenter -t $(cat /tmp/other) -n "$@"' >/tmp/there`,
    "sh /tmp/there ip addr add 10.0.0.2/24 dev eth1 && sh /tmp/there ip link set eth1 up",
  ];
  for (const command of setup) await outputOf(shell, command);
  expect(await outputOf(shell, "ping -c 10 -i 0.1 10.0.0.2")).toContain(
    "10 packets transmitted, 10 packets received",
  );
  expect(await outputOf(shell, "ping -c 3 -s 8000 10.0.0.2")).toContain("3 packets received");
  await outputOf(shell, "dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null");
  // Both ways at once.
  const send = "nc 10.0.0.2 5000 </tmp/data >/tmp/back";
  await outputOf(
    shell,
    `(sh /tmp/there nc -l -p 5000 -e tee /tmp/there-got) & sleep 1; ${send}; wait $!`,
    120_000,
  );
  const sums = await outputOf(shell, "md5sum /tmp/data /tmp/back /tmp/there-got | cut -c 1-32 | uniq -c");
  expect(sums.trim()).toMatch(/^3 /);
}
