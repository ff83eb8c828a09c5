/** Devices of v86 itself beside ours in one machine: what a comparison of the two needs. */
import { entropyDevice } from "virtio/devices/entropy/device";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";

describe.skipIf(guestMissing)(needsGuest("v86's own virtio devices beside ours"), () => {
  let guest: TestGuest;
  beforeAll(async () => {
    guest = await TestGuest.create({
      v86Options: { filesystem: {}, virtio_console: true, net_device: { type: "virtio" } },
    });
    // Slot 14 has the interrupt of v86's 9p in slot 6.
    guest.machine.plugPci(
      entropyDevice((target) => void target.fill(7)),
      { label: "rng", slot: 14 },
    );
    await guest.boot();
    await guest.sh(
      "for m in virtio_pci virtio_rng virtio_net 9pnet_virtio 9p; do modprobe $m; done; sleep 0.2",
    );
  });
  afterAll(() => guest.machine.destroy());

  test("all are found", async () => {
    const ids = (await guest.sh("cat /sys/bus/virtio/devices/*/device")).split("\n").sort();
    expect(ids).toEqual(["0x0001", "0x0003", "0x0004", "0x0009"]);
  });

  test("a share of v86's 9p and our entropy device work on one interrupt", async () => {
    await guest.sh("mkdir -p /mnt/v; mount -t 9p -o trans=virtio,version=9p2000.L host9p /mnt/v");
    const reading = "dd if=/dev/hwrng bs=64 count=300 2>/dev/null | tr -d '\\007' | wc -c";
    await guest.sh(
      `(${reading} > /tmp/left) & for i in 1 2 3 4 5 6 7 8 9; do echo $i > /mnt/v/file$i; done; wait`,
    );
    expect(await guest.sh("cat /mnt/v/file*; cat /tmp/left")).toBe("1\n2\n3\n4\n5\n6\n7\n8\n9\n0");
    const lines = (await guest.sh("cat /proc/interrupts"))
      .split("\n")
      .filter((line) => line.includes("virtio"));
    expect(lines.some((line) => line.split("virtio").length > 2)).toBe(true);
  });
});
