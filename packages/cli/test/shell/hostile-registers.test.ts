import { expect, test } from "vitest";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { BlkDevice } from "virtio/devices/blk/device";
import { readCapabilities } from "virtio/driver/pci-capabilities";
import { PciConfig } from "virtio/driver/pci-config";
import type { PciPlatform } from "virtio/driver/platform";
import { VIRTIO_ID_BLK } from "virtio/spec/ids";
import { VIRTIO_PCI_CAP, VIRTIO_PCI_CAP_COMMON_CFG } from "virtio/spec/pci";
import { InProcessMachine } from "@virtio/testkit/machine";
import { LyingTarget } from "./lib/lying-target.ts";
import { TestShell } from "./lib/shell.ts";

test("registers that are said to be beyond a device's own are not touched", async () => {
  const machine = new InProcessMachine();
  const plugged = machine.plugPci(new BlkDevice(new MemoryBlockBackend(new Uint8Array(65_536))));
  const { at } = plugged;
  const written: number[] = [];
  const { platform } = machine;
  const config = new PciConfig(platform.pci, at);
  const common = readCapabilities(config).structures.find(({ type }) => type === VIRTIO_PCI_CAP_COMMON_CFG);
  let lie: readonly [field: number, value: number] | undefined;
  const lying: PciPlatform = {
    ...platform,
    bus: {
      read: (...access) => platform.bus.read(...access),
      write: (space, address, size, value) => {
        written.push(address);
        platform.bus.write(space, address, size, value);
      },
    },
    pci: {
      ...platform.pci,
      readConfig: (place, offset, size) =>
        lie !== undefined && offset === (common?.capability ?? 0) + lie[0]
          ? lie[1]
          : platform.pci.readConfig(place, offset, size),
    },
  };
  const target = new LyingTarget([]);
  const place = { bus: "pci", platform: lying, at } as const;
  target.devices = () =>
    Promise.resolve([{ name: "liar", deviceId: VIRTIO_ID_BLK, place, open: () => plugged.open() }]);
  const shell = new TestShell(target);
  expect(await shell.run("virtio regs 0")).toContain("num_queues");
  const [first = 0] = written;
  for (lie of [
    [VIRTIO_PCI_CAP.offset, 0x100000],
    [VIRTIO_PCI_CAP.offset, 0xffffff00],
    [VIRTIO_PCI_CAP.length, 4],
  ] as const) {
    written.length = 0;
    expect(await shell.run("virtio regs 0; echo end")).toMatch(
      /is not inside BAR \d, which has \d+ bytes\n(.*\n)*end\n$/,
    );
    expect(written.filter((address) => Math.abs(address - first) > 4096)).toEqual([]);
  }
  await shell.close();
});
