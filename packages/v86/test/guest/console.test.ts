/** Linux's virtio_console on our console device: consoles and serial ports over every transport and both rings. */
import { until } from "@virtio/testkit/until";
import { createHash } from "node:crypto";
import type { MmioPlugOptions, PciPlugOptions } from "@virtio/v86";
import type { CharacterBackend, CharacterPort } from "virtio/backends/character";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { ConsoleDevice } from "virtio/devices/console/device";
import { VIRTIO_F_RING_PACKED, featureBits } from "virtio/spec/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);
/** 10 MiB through a console, enough for many laps of the ring everywhere else. */
const BIG = 10 << 20;
const SMALL = 1 << 20;

type Way = { readonly name: string } & (
  { readonly pci: Omit<PciPlugOptions, "label"> } | { readonly mmio: Omit<MmioPlugOptions, "label"> }
);

const WAYS: readonly Way[] = [
  { name: "PCI, modern", pci: {} },
  { name: "PCI, modern, packed", pci: { features: PACKED } },
  { name: "PCI, legacy", pci: { mode: "legacy" } },
  { name: "PCI, modern, MSI-X", pci: { msix: true } },
  { name: "PCI, modern, MSI-X, packed", pci: { msix: true, features: PACKED } },
  { name: "MMIO", mmio: {} },
  { name: "MMIO, packed", mmio: { features: PACKED } },
];

/** A host end that hashes what it gets, sends what it is told, and can be slow. */
class HostEnd implements CharacterBackend {
  port: CharacterPort | undefined;
  received = 0;
  text = "";
  /** Bytes taken at once; the port hears that there is room again a moment later. */
  pace = Infinity;
  guestIsOpen = false;
  #out = Buffer.alloc(0);
  #hash = createHash("md5");

  attach(port: CharacterPort | undefined): void {
    this.port = port;
  }

  write(bytes: Uint8Array): number {
    const taken = bytes.subarray(0, this.pace);
    this.#hash.update(taken);
    this.received += taken.length;
    if (this.text.length < 4096) this.text += Buffer.from(taken).toString("latin1");
    if (taken.length < bytes.length) setImmediate(() => this.port?.ready());
    return taken.length;
  }

  guestOpen(open: boolean): void {
    this.guestIsOpen = open;
  }

  /** The md5 of what came since the last time. */
  digest(): string {
    const digest = this.#hash.digest("hex");
    this.#hash = createHash("md5");
    this.received = 0;
    return digest;
  }

  send(bytes: Uint8Array): void {
    this.#out = Buffer.concat([this.#out, bytes]);
    this.guestReady();
  }

  guestReady(): void {
    while (this.#out.length > 0) {
      const taken = this.port?.receive(this.#out) ?? 0;
      if (taken === 0) return;
      this.#out = this.#out.subarray(taken);
    }
  }

  async until(condition: () => boolean): Promise<void> {
    await until(condition, () => `more than ${this.received} bytes`);
  }
}

describe.skipIf(guestMissing)(needsGuest("virtio_console of Linux on our console device"), () => {
  let guest: TestGuest;
  let ends: { way: Way; device: ConsoleDevice; hvc: HostEnd; serial: HostEnd }[] = [];
  const single = new HostEnd();

  beforeAll(async () => {
    guest = await TestGuest.create();
    // Without multiport it is hvc0, whatever comes first on the bus.
    guest.machine.plugPci(new ConsoleDevice({ ports: [{ backend: single, kind: "console" }] }), {
      label: "single",
    });
    single.port?.resize(91, 31);
    ends = WAYS.map((way, index) => {
      const hvc = new HostEnd();
      const serial = new HostEnd();
      const device = new ConsoleDevice({
        maxPorts: 3,
        ports: [
          { backend: hvc, kind: "console", name: `console ${index}` },
          { backend: serial, kind: "serial", name: `serial.${index}` },
        ],
      });
      const label = `serial${index}`;
      hvc.port?.resize(100 + index, 40 + index);
      if ("pci" in way) guest.machine.plugPci(device, { ...way.pci, label });
      else guest.machine.plugMmio(device, { ...way.mmio, label });
      return { way, device, hvc, serial };
    });
    await guest.boot();
    await guest.sh(
      "modprobe virtio_pci; modprobe virtio_mmio; modprobe virtio_console; sleep 0.5; mdev -s || true",
    );
    await guest.sh(
      `mkdir -p /tmp; head -c ${SMALL} /dev/urandom > /tmp/small; for i in 0 1 2 3 4 5 6 7 8 9; do cat /tmp/small; done > /tmp/big`,
      60_000,
    );
  });
  afterAll(() => guest.machine.destroy());

  /** /dev/vportNpM of the port with this name. */
  const device = async (name: string): Promise<string> =>
    (await guest.sh(`cd /sys/class/virtio-ports; grep -lx '${name}' */name`)).replace(
      /^(.*)\/name$/,
      "/dev/$1",
    );

  test("names, consoles and sizes are what the host said", async () => {
    expect(await guest.sh("ls /sys/class/virtio-ports | wc -l")).toBe(String(2 * WAYS.length + 1));
    const names = (await guest.sh("cat /sys/class/virtio-ports/*/name")).split("\n").sort();
    expect(names).toEqual(WAYS.flatMap((_, i) => [`console ${i}`, `serial.${i}`]).sort());
    const sizes = new Set<string>();
    for (let hvc = 0; hvc <= WAYS.length; hvc++) sizes.add(await guest.sh(`stty size < /dev/hvc${hvc}`));
    expect([...sizes].sort()).toEqual([...WAYS.map((_, i) => `${40 + i} ${100 + i}`), "31 91"].sort());
  });

  test.each(WAYS.map((way, index) => ({ name: way.name, index })))(
    "a megabyte out and in through a serial port: $name",
    async ({ index }) => {
      const end = ends[index];
      if (end === undefined) throw new Error("unreachable");
      const { serial } = end;
      const path = await device(`serial.${index}`);
      const wanted = (await guest.sh("md5sum < /tmp/small", 60_000)).split(" ")[0];
      await guest.sh(`cat /tmp/small > ${path}`, 60_000);
      await serial.until(() => serial.received === SMALL);
      expect(serial.digest()).toBe(wanted);
      const data = Buffer.alloc(SMALL, `way ${index} `);
      const reading = guest.sh(`head -c ${SMALL} ${path} | md5sum`, 60_000);
      serial.send(data);
      expect((await reading).split(" ")[0]).toBe(createHash("md5").update(data).digest("hex"));
      // A host end that goes away and comes back.
      serial.port?.setOpen(false);
      expect(await guest.sh(`head -c 1 ${path} | wc -c`)).toBe("0");
      serial.port?.setOpen(true);
    },
  );

  test("10 MiB out through a console, and a megabyte when its host end is slow", async () => {
    const end = ends[0];
    if (end === undefined) throw new Error("unreachable");
    const { hvc } = end;
    const console = await hvcOf(0);
    for (const { file, length, pace } of [
      { file: "/tmp/big", length: BIG, pace: Infinity },
      { file: "/tmp/small", length: SMALL, pace: 1500 },
    ]) {
      const wanted = (await guest.sh(`md5sum < ${file}`, 60_000)).split(" ")[0];
      hvc.digest();
      hvc.pace = pace;
      // The terminal forgets that it is raw when the last one closes it.
      await guest.sh(`(exec 3<>${console}; stty raw -echo <&3; cat ${file} >&3)`, 100_000);
      await hvc.until(() => hvc.received === length);
      expect(hvc.digest()).toBe(wanted);
    }
    hvc.pace = Infinity;
  });

  test("bytes typed at the host arrive at the console, a new size too", async () => {
    for (const [index, { hvc }] of ends.entries()) {
      const console = await hvcOf(index);
      const reading = guest.sh(`(exec 3<>${console}; stty raw -echo <&3; head -c 6 <&3)`);
      await new Promise((resolve) => setTimeout(resolve, 200));
      hvc.send(Buffer.from("hello\n"));
      expect(await reading).toBe("hello");
      hvc.port?.resize(200 + index, 70);
      await guest.sh("sleep 0.1");
      expect(await guest.sh(`stty size < ${console}`)).toBe(`70 ${200 + index}`);
    }
  });

  test("a port is plugged in and taken away while Linux runs", async () => {
    const end = ends[1];
    if (end === undefined) throw new Error("unreachable");
    const late = new HostEnd();
    for (let round = 0; round < 2; round++) {
      const nr = end.device.addPort({ backend: late, kind: "serial", name: "late.port" });
      expect(nr).toBe(2);
      await guest.sh("sleep 0.2");
      const path = await device("late.port");
      await guest.sh(`echo round ${round} > ${path}`);
      expect(late.text).toContain(`round ${round}\n`);
      end.device.removePort(nr);
      await guest.sh("sleep 0.2");
      expect(await guest.sh("cat /sys/class/virtio-ports/*/name | grep -c late || true")).toBe("0");
    }
  });

  /** /dev/hvcN of a device's console port: the one whose bytes come out at its host end. */
  async function hvcOf(index: number): Promise<string> {
    const host = ends[index]?.hvc;
    for (let hvc = 0; hvc <= WAYS.length; hvc++) {
      const before = host?.received ?? 0;
      await guest.sh(`(printf x > /dev/hvc${hvc}); sleep 0.02`);
      if ((host?.received ?? 0) > before) return `/dev/hvc${hvc}`;
    }
    throw new Error(`no hvc for device ${index}`);
  }
});
