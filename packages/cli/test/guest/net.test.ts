import { join } from "node:path";

import { expect, test } from "vitest";

import { runInGuest, temporaryFolder } from "./virtio.ts";

const folder = temporaryFolder();

test("two guests ping each other over a stream socket without loss", async () => {
  const path = join(folder, "cable");
  const guest = (server: boolean, mac: string, own: string, other: string): ReturnType<typeof runInGuest> =>
    runInGuest(
      `ip addr add ${own}/24 dev eth0 && ip link set eth0 up && until ping -c 1 -W 1 ${other} >/dev/null; do :; done
       ping -c 20 -i 0.1 -W 10 ${other} | grep loss; ping -c 5 -i 0.1 -s 8000 -W 10 ${other} | grep loss; sleep 6`,
      [
        "-netdev",
        `stream,id=n,server=${server ? "on" : "off,reconnect-ms=100"},addr.type=unix,addr.path=${path}`,
        "-device",
        `virtio-net-pci,netdev=n,mac=52:54:00:00:00:0${mac}`,
      ],
    );
  const both = await Promise.all([
    guest(true, "1", "10.0.0.1", "10.0.0.2"),
    guest(false, "2", "10.0.0.2", "10.0.0.1"),
  ]);
  for (const { stdout } of both) {
    expect(stdout.toString()).toMatch(
      /^20 packets transmitted, 20 packets received, 0% packet loss\n5 packets.* 0% packet loss\n$/,
    );
  }
});

test("devices of one machine meet on a hub", async () => {
  const argv = ["a", "b"].flatMap((id) => [
    "-netdev",
    `hubport,id=${id},hubid=0`,
    "-device",
    `virtio-net-pci,netdev=${id}${id === "b" ? ",packed=on,disable-legacy=on" : ""}`,
  ]);
  const command = `ip link set eth0 up; ip link set eth1 up; sleep 0.2
    r0=$(cat /sys/class/net/eth1/statistics/rx_packets); ip addr add 10.0.0.1/24 dev eth0
    ping -c 3 -i 0.1 -W 1 10.0.0.2 >/dev/null; r1=$(cat /sys/class/net/eth1/statistics/rx_packets); [ $r1 -gt $r0 ] && echo arrived`;
  expect((await runInGuest(command, argv)).stdout.toString()).toBe("arrived\n");
});
