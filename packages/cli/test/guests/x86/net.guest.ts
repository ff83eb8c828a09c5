import { join } from "node:path";

import { clause } from "@virtio/testkit/clause";
import { needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";

import { temporaryFolder } from "../../guest/virtio.ts";
import { outputOf, type Console } from "../lib/console.ts";
import { serve, stop } from "../lib/serve.ts";
import * as machine from "./lib/guest.ts";
import { address, configure, mac, receive, send, sumOf } from "./lib/net.ts";

const folder = temporaryFolder();
const MEGABYTES = 16;

test.skipIf(!machine.hasQemu).each(["split", "packed"])(
  needs(
    machine.QEMU,
    machine.DEBIAN_PACKAGE,
    clause("dev.net.rx", "two guests on our hub, %s rings: ping, and 16 MiB each way at the same time"),
  ),
  async (ring) => {
    const sockets = [1, 2].map((number) => join(folder, `${ring}${number}.sock`));
    const entropy = join(folder, `${ring}.sock`);
    const server = await serve([
      ...sockets.flatMap((socket) => ["net", "--socket", socket, "--netdev", "hubport,hubid=0"]),
      "entropy",
      "--socket",
      entropy,
    ]);
    const packed = ring === "packed" ? ",packed=on" : "";
    const boot = await machine.shellBoot(folder, "i386");
    const guests = sockets.map((socket, index) =>
      machine.startQemu(`guest ${index + 1}`, [
        ...machine.sharedMachine(index === 0 ? "pc" : "q35", 128),
        ...machine.netDevice("net", socket, mac(index + 1), packed),
        // One back-end has one front-end.
        ...(index === 0
          ? `-chardev socket,id=r,path=${entropy} -device vhost-user-rng-pci,chardev=r${packed}`.split(" ")
          : []),
        ...machine.plain,
        ...machine.bootArguments(boot),
      ]),
    );
    try {
      await Promise.all(guests.map(machine.isUp));
      await Promise.all(guests.map((guest, index) => configure(guest, index + 1)));
      const [first, second] = guests as [Console, Console];
      for (const guest of guests) {
        expect(await machine.isPacked(guest, "/sys/class/net/eth0/device")).toBe(ring === "packed");
      }
      expect(await outputOf(first, "head -c 1000 /dev/hwrng | wc -c")).toBe("1000");
      expect(await outputOf(first, `ping -c 5 ${address(2)}`)).toContain("5 packets received");
      await Promise.all(guests.map((guest) => receive(guest)));
      const [sent, sentBack] = await Promise.all([send(first, 2, MEGABYTES), send(second, 1, MEGABYTES)]);
      expect(await sumOf(second)).toBe(sent);
      expect(await sumOf(first)).toBe(sentBack);
      for (const guest of guests) guest.send("poweroff -f\n");
      expect(await Promise.all(guests.map((guest) => guest.finish(60_000)))).toEqual([0, 0]);
      await stop(server);
    } finally {
      for (const each of [...guests, server]) each.kill();
    }
  },
);
