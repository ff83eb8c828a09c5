import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { clause } from "@virtio/testkit/clause";
import { needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";

import { hasE2fsprogs, temporaryFolder } from "../../guest/virtio.ts";
import { outputOf, type Console } from "../lib/console.ts";
import { loadSeconds } from "../lib/load.ts";
import { serve, stop } from "../lib/serve.ts";
import { fioReport, fioVerify, loopsFor, mountTools } from "./lib/fio.ts";
import * as machine from "./lib/guest.ts";
import { address, configure, mac, receive, sendFor, sumOf } from "./lib/net.ts";
import { Qmp } from "./lib/qmp.ts";
import { toolsImage } from "./lib/tools.ts";

const folder = temporaryFolder();
const MEGABYTES = 64;
/** Of a mixed load's length. */
const SHARE = 0.1;
const patience = 10 * 60_000;

/** A guest on one QEMU, and another QEMU that it may move to. */
interface Pair {
  readonly from: Console;
  readonly to: Console;
  readonly control: Qmp;
  readonly destination: string;
}

async function startPair(
  name: string,
  first: readonly string[],
  second: readonly string[],
  emulator = machine.installedQemu,
): Promise<Pair> {
  const [qmp, destination] = [join(folder, `${name}.qmp`), `unix:${join(folder, `${name}.migration`)}`];
  const monitor = ["-qmp", `unix:${qmp},server=on,wait=off`];
  const from = machine.startQemu(`${name}, source`, [...first, ...monitor], emulator);
  const to = machine.startQemu(`${name}, destination`, [...second, "-incoming", destination], emulator);
  try {
    const control = await Qmp.open(qmp);
    await machine.isUp(from);
    return { from, to, control, destination };
  } catch (error) {
    for (const each of [from, to]) each.kill();
    throw error;
  }
}

/** Moves the guest; gives QEMU's figures. The source ends. */
async function migrate({ from, control, destination }: Pair): Promise<string> {
  await control.run("migrate-set-parameters", { "max-bandwidth": 1 << 30, "downtime-limit": 1000 });
  await control.run("migrate", { uri: destination });
  for (;;) {
    const now = (await control.run("query-migrate")) as {
      readonly status: string;
      readonly downtime?: number;
      readonly ram?: { readonly transferred: number; readonly "dirty-sync-count": number };
    };
    if (now.status === "completed") {
      await control.run("quit");
      control.close();
      await from.finish(30_000);
      // Or there was no load any more, and nothing to be lost.
      await expect(from.until(/<status \d/, 0)).rejects.toThrow("ended");
      const { transferred = 0, "dirty-sync-count": rounds = 0 } = now.ram ?? {};
      return `${transferred >> 20} MiB in ${rounds} rounds, ${now.downtime ?? 0} ms of downtime`;
    }
    if (now.status === "failed" || now.status === "cancelled") throw from.error(`migration ${now.status}`);
    await delay(100);
  }
}

/** Starts a command on the source; its status and output will be said on the destination. */
function begin(from: Console, command: string): void {
  from.send(`echo "<be""gin>"; { ${command}\n} </dev/null >/tmp/output 2>&1; echo "<status"" $?>"\n`);
}

async function status(to: Console): Promise<string> {
  await to.until(/<status (?=\d+>)/, patience);
  return to.until(/>\r?\n/, 10_000);
}

test.skipIf(!machine.hasQemu || !hasE2fsprogs).each(["split", ...(machine.isAmd64 ? ["packed"] : [])])(
  needs(
    machine.QEMU,
    machine.DEBIAN_PACKAGE,
    clause(
      "dev.blk.operation",
      "a guest moves to another QEMU with a back-end of ours while fio writes and verifies, %s rings",
    ),
  ),
  async (ring) => {
    // QEMU 7.2 offers no packed rings of disks.
    const emulator = ring === "split" ? machine.installedQemu : await machine.newerQemu();
    const packed = ring === "split" ? "" : ",packed=on";
    const image = join(folder, `${ring}.img`);
    writeFileSync(image, "");
    truncateSync(image, MEGABYTES << 20);
    const tools = await toolsImage();
    const boot = await machine.shellBoot(folder);
    const servers: Console[] = [];
    const side = async (name: string): Promise<string[]> => {
      const [disk, toolsSocket] = [
        join(folder, `${name}-${ring}.disk`),
        join(folder, `${name}-${ring}.tools`),
      ];
      // As it is said to QEMU for storage that two machines share.
      const node = `file,filename=${image},node-name=n,locking=off`;
      const argv = ["blk,num-queues=2", "--socket", disk, "--blockdev", node, "blk", "--socket", toolsSocket];
      servers.push(await serve([...argv, "--drive", `file=${tools},format=raw,readonly=on`]));
      return [
        ...machine.sharedMachine("q35", 256),
        ...machine.diskDevice("disk", disk, `,num-queues=2${packed}`),
        ...machine.diskDevice("tools", toolsSocket, ",num-queues=1"),
        ...machine.plain,
        ...machine.bootArguments(boot),
        "-smp",
        "2",
      ];
    };
    const pair = await startPair(`disk-${ring}`, await side("source"), await side("destination"), emulator);
    const { from, to } = pair;
    try {
      await mountTools(from, "/dev/vdb");
      expect(await machine.isPacked(from, "/sys/block/vda/device")).toBe(ring === "packed");
      const loops = loopsFor(loadSeconds(SHARE, 40), MEGABYTES);
      begin(from, fioVerify({ disk: "/dev/vda", megabytes: MEGABYTES, loops, jobs: 2, backlog: 64 }));
      await from.until(/<begin>/, 60_000);
      await delay(3000);
      const figures = await migrate(pair);
      expect(await status(to), to.tail).toBe("0");
      const report = await fioReport(to);
      console.log(`disk, ${ring}: ${figures}; ${report}`);
      expect(report).toMatch(/err= 0/);
      to.send("poweroff -f\n");
      expect(await to.finish(60_000)).toBe(0);
      await Promise.all(servers.map(stop));
    } finally {
      for (const each of [from, to, ...servers]) each.kill();
    }
  },
);

test.skipIf(!machine.hasQemu).each(["split", "packed"])(
  needs(
    machine.QEMU,
    machine.DEBIAN_PACKAGE,
    clause("dev.net.tx", "a guest moves to another QEMU while it sends to a third, %s rings: all arrives"),
  ),
  async (ring) => {
    const sockets = ["source", "destination", "peer"].map((name) => join(folder, `${name}-${ring}.sock`));
    const [source = "", destination = "", peer = ""] = sockets;
    const server = await serve(
      sockets.flatMap((socket) => ["net", "--socket", socket, "--netdev", "hubport,hubid=0"]),
    );
    const boot = await machine.shellBoot(folder, "i386");
    const side = (socket: string, number: number): string[] => [
      ...machine.sharedMachine("pc", 128),
      ...machine.netDevice("net", socket, mac(number), ring === "packed" ? ",packed=on" : ""),
      ...machine.plain,
      ...machine.bootArguments(boot),
    ];
    const third = machine.startQemu("peer", side(peer, 3));
    const pair = await startPair(`net-${ring}`, side(source, 1), side(destination, 1));
    const { from, to } = pair;
    try {
      await machine.isUp(third);
      await configure(from, 1);
      await configure(third, 3);
      await receive(third);
      const seconds = loadSeconds(SHARE, 15);
      expect(await outputOf(from, `ping -c 2 ${address(3)}`)).toContain("2 packets received");
      begin(from, sendFor(3, seconds));
      await from.until(/<begin>/, 60_000);
      await delay(1000);
      const figures = await migrate(pair);
      expect(await status(to), to.tail).toBe("0");
      const sum = await outputOf(to, "cat /tmp/output");
      expect(await sumOf(third)).toBe(sum);
      console.log(
        `network, ${ring}: ${figures}; ${await outputOf(to, "cat /tmp/count")} MiB sent in ${seconds} s`,
      );
      for (const guest of [to, third]) guest.send("poweroff -f\n");
      expect(await Promise.all([to, third].map((guest) => guest.finish(60_000)))).toEqual([0, 0]);
      await stop(server);
    } finally {
      for (const each of [from, to, third, server]) each.kill();
    }
  },
);
