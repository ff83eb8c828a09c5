/** The whole machine saved in the middle of its work, and another one that goes on from there. */
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { entropyDevice } from "virtio/devices/entropy/device";
import { VIRTIO_F_RING_PACKED, featureBits } from "virtio/spec/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);
const DEVICES = 5;

/** Random bytes that come after a while, so that requests are in flight when the machine is saved. */
async function slowly(target: Uint8Array): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 3));
  target.fill(0x5a);
}

async function makeGuest(): Promise<TestGuest> {
  const guest = await TestGuest.create();
  const { machine } = guest;
  machine.plugPci(entropyDevice(slowly), { label: "modern" });
  machine.plugPci(entropyDevice(slowly), { label: "legacy", mode: "legacy" });
  machine.plugPci(entropyDevice(slowly), { label: "msix", msix: true, bar: "memory64", features: PACKED });
  machine.plugMmio(entropyDevice(slowly), { label: "mmio" });
  machine.plugMmio(entropyDevice(slowly), { label: "mmio1", version: 1 });
  return guest;
}

const readFrom = (index: number): string =>
  `echo virtio_rng.${index} > /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=64 count=2 2>/dev/null | tr -d Z | wc -c`;

describe.skipIf(guestMissing)(needsGuest("save and restore"), () => {
  const guests: TestGuest[] = [];
  const states: Uint8Array[] = [];
  beforeAll(async () => {
    const guest = await makeGuest();
    guests.push(guest);
    await guest.boot();
    await guest.sh(
      "modprobe virtio_pci; modprobe virtio_mmio; modprobe virtio_rng; sleep 0.2; echo kept > /tmp/file",
    );
  });
  afterAll(() => Promise.all(guests.map(({ machine }) => machine.destroy())));

  test("saved while every device in turn has a request in hand, and goes on afterwards", async () => {
    const guest = guests[0] ?? expect.unreachable();
    for (let index = 0; index < DEVICES; index++) {
      await guest.sh(`echo virtio_rng.${index} > /sys/class/misc/hw_random/rng_current`);
      await guest.sh(
        "(dd if=/dev/hwrng bs=64 count=40 2>/dev/null | tr -d Z | wc -c > /tmp/answer) & sleep 0.05",
      );
      states.push(await guest.machine.save());
      expect(await guest.sh("wait; cat /tmp/answer")).toBe("0");
    }
  });

  test("another machine goes on from each, with its devices, in well under a second", async () => {
    const times: number[] = [];
    for (const state of states) {
      const guest = await makeGuest();
      guests.push(guest);
      const start = performance.now();
      await guest.machine.restore(state);
      times.push(performance.now() - start);
      guest.machine.run();
      expect(await guest.sh("cat /tmp/file; wait; cat /tmp/answer")).toBe("kept\n0");
      for (let index = 0; index < DEVICES; index++) expect(await guest.sh(readFrom(index))).toBe("0");
      for (const { instance } of guest.machine.devices)
        expect(instance.counters.map(({ faults }) => faults)).toEqual([0]);
      await guest.machine.destroy();
    }
    expect(Math.min(...times)).toBeLessThan(1000);
  });

  test("a restored machine can be saved again", async () => {
    const first = await makeGuest();
    guests.push(first);
    await first.machine.restore(states[0] ?? expect.unreachable());
    const again = await first.machine.save();
    const second = await makeGuest();
    guests.push(second);
    await second.machine.restore(again);
    second.machine.run();
    expect(await second.sh("cat /tmp/file; wait; cat /tmp/answer")).toBe("kept\n0");
  });

  test("a machine made of other things refuses it and says why", async () => {
    const other = await TestGuest.create();
    guests.push(other);
    const state = states[0] ?? expect.unreachable();
    await expect(other.machine.restore(state)).rejects.toThrow(
      /another machine: it has modern: entropy at pci 00:08.0; .*, this one has nothing/,
    );
    const smaller = await TestGuest.create({ memorySize: 64 << 20 });
    guests.push(smaller);
    await expect(smaller.machine.restore(state)).rejects.toThrow(
      "it has 134217728 bytes of memory, ACPI on, this one has 67108864 bytes of memory, ACPI on",
    );
    await expect(other.machine.restore(state.subarray(0, 1000))).rejects.toThrow("not whole");
  });
});
