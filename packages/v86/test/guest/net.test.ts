/** Linux's virtio_net on our network device, over every transport and both rings; the peer is a few lines of ARP and ICMP. */
import type { MmioPlugOptions, PciPlugOptions } from "@virtio/v86";
import type { NetBackend, NetPort } from "virtio/backends/net";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { NetDevice } from "virtio/devices/net/device";
import type { NetOptions } from "virtio/devices/net/options";
import { VIRTIO_F_RING_PACKED, featureBits } from "virtio/spec/core";
import { VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MRG_RXBUF } from "virtio/spec/net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);

type Way = { readonly name: string; readonly options?: Partial<NetOptions> } & (
  { readonly pci: Omit<PciPlugOptions, "label"> } | { readonly mmio: Omit<MmioPlugOptions, "label"> }
);

const WAYS: readonly Way[] = [
  { name: "PCI, modern", pci: {}, options: { mtu: 9000, speed: 10_000 } },
  { name: "PCI, modern, packed", pci: { features: PACKED } },
  { name: "PCI, modern, no merging", pci: {}, options: { without: featureBits(VIRTIO_NET_F_MRG_RXBUF) } },
  { name: "PCI, legacy", pci: { mode: "legacy" } },
  {
    name: "PCI, legacy, short header",
    pci: { mode: "legacy" },
    options: { without: featureBits(VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CTRL_VQ) },
  },
  { name: "PCI, modern, MSI-X, packed", pci: { msix: true, features: PACKED } },
  { name: "MMIO", mmio: {} },
  { name: "MMIO, packed", mmio: { features: PACKED }, options: { queuePairs: 2 } },
];

/** A host at 10.N.0.2 that answers ARP and ping. */
class Peer implements NetBackend {
  readonly mac: readonly number[];
  linkUp = true;
  arp = 0;
  pings = 0;
  #port: NetPort | undefined;
  readonly #waiting: Uint8Array[] = [];

  constructor(index: number) {
    this.mac = [2, 0, 0, 0, 1, index];
  }

  attach(port: NetPort | undefined): void {
    this.#port = port;
  }

  send(frame: Uint8Array): boolean {
    const type = ((frame[12] ?? 0) << 8) | (frame[13] ?? 0);
    const answer = frame.slice();
    answer.set(frame.subarray(6, 12), 0);
    answer.set(this.mac, 6);
    if (type === 0x0806 && frame[21] === 1) {
      this.arp++;
      answer[21] = 2;
      answer.set(this.mac, 22);
      answer.set(frame.subarray(38, 42), 28);
      answer.set(frame.subarray(22, 32), 32);
    } else if (type === 0x0800 && frame[23] === 1 && frame[34] === 8) {
      this.pings++;
      answer.set(frame.subarray(30, 34), 26);
      answer.set(frame.subarray(26, 30), 30);
      // An echo reply: the type goes from 8 to 0, and the checksum with it.
      answer[34] = 0;
      const sum = (((frame[36] ?? 0) << 8) | (frame[37] ?? 0)) + 0x0800;
      const folded = (sum & 0xffff) + (sum >>> 16);
      answer.set([folded >> 8, folded & 0xff], 36);
    } else return true;
    this.#waiting.push(answer);
    setImmediate(() => this.ready());
    return true;
  }

  ready(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (this.#port?.receive(next, this.#waiting.length > 1) !== true) return;
      this.#waiting.shift();
    }
  }

  unplug(out: boolean): void {
    this.linkUp = !out;
    this.#port?.linkChanged();
  }
}

describe.skipIf(guestMissing)(needsGuest("virtio_net of Linux on our network device"), () => {
  let guest: TestGuest;
  let cards: { way: Way; device: NetDevice; peer: Peer; name: string }[] = [];

  beforeAll(async () => {
    guest = await TestGuest.create();
    cards = WAYS.map((way, index) => {
      const peer = new Peer(index);
      const device = new NetDevice({
        backend: peer,
        mac: Uint8Array.of(0x52, 0x54, 0, 0, 0, index),
        ...way.options,
      });
      const label = `net${index}`;
      if ("pci" in way) guest.machine.plugPci(device, { ...way.pci, label });
      else guest.machine.plugMmio(device, { ...way.mmio, label });
      return { way, device, peer, name: "" };
    });
    await guest.boot();
    await guest.sh("modprobe virtio_pci; modprobe virtio_mmio; modprobe virtio_net; sleep 0.5", 60_000);
    for (const [index, card] of cards.entries()) {
      const path = await guest.sh(`grep -l '52:54:00:00:00:0${index}' /sys/class/net/*/address`);
      card.name = path.split("/")[4] ?? "";
      await guest.sh(`ip addr add 10.${index}.0.1/24 dev ${card.name} && ip link set ${card.name} up`);
    }
  });
  afterAll(() => guest.machine.destroy());

  test.each(WAYS.map((way, index) => ({ name: way.name, index })))(
    "pings of three sizes come back: $name",
    async ({ index }) => {
      const card = cards[index];
      if (card === undefined) throw new Error("unreachable");
      for (const size of [56, 1400, ...(index === 0 ? [8900] : [])]) {
        if (size > 1500) await guest.sh(`ip link set ${card.name} mtu 9000`);
        const output = await guest.sh(`ping -c 5 -i 0.05 -s ${size} 10.${index}.0.2 | tail -2`, 60_000);
        expect(output).toContain(" 0% packet loss");
      }
      expect(card.peer.arp).toBeGreaterThan(0);
      expect(card.peer.pings).toBe(index === 0 ? 15 : 10);
      expect(card.device.counters.sendDropped).toBe(0);
    },
  );

  test("Linux sets its filters, and other hosts' frames stay out", async () => {
    const card = cards[0];
    if (card === undefined) throw new Error("unreachable");
    const others = Buffer.alloc(60);
    others.set([2, 9, 9, 9, 9, 9, ...card.peer.mac, 0x88, 0xb5]);
    const before = card.device.counters.filtered;
    card.device.receive(others);
    expect(card.device.counters.filtered).toBe(before + 1);
    await guest.sh(`ip link set ${card.name} promisc on`);
    card.device.receive(others);
    expect(card.device.counters.filtered).toBe(before + 1);
    await guest.sh(`ip link set ${card.name} promisc off`);
    card.device.receive(others);
    expect(card.device.counters.filtered).toBe(before + 2);
    // A new address goes through the control virtqueue, or on a legacy device through configuration space.
    for (const at of [0, 4]) {
      const other = cards[at];
      if (other === undefined) throw new Error("unreachable");
      await guest.sh(
        `ip link set ${other.name} down; ip link set ${other.name} address 52:54:00:00:01:0${at} && ip link set ${other.name} up`,
      );
      expect([...other.device.mac]).toEqual([0x52, 0x54, 0, 0, 1, at]);
      await guest.sh(`ping -c 1 10.${at}.0.2`, 60_000);
    }
  });

  test("the cable is pulled and plugged in, and Linux announces itself when asked", async () => {
    const card = cards[1];
    if (card === undefined) throw new Error("unreachable");
    const carrier = (): Promise<string> => guest.sh(`sleep 0.2; cat /sys/class/net/${card.name}/carrier`);
    expect(await carrier()).toBe("1");
    card.peer.unplug(true);
    expect(await carrier()).toBe("0");
    card.peer.unplug(false);
    expect(await carrier()).toBe("1");
    const before = card.peer.arp;
    expect(card.device.announce()).toBe(true);
    await guest.sh("sleep 0.3");
    expect(card.peer.arp).toBeGreaterThan(before);
    const status = Buffer.alloc(2);
    card.device.config.read(6, status);
    expect(status.readUInt16LE()).toBe(1);
    expect(await guest.sh(`cat /sys/class/net/${cards[0]?.name ?? ""}/speed`)).toBe("10000");
  });
});
