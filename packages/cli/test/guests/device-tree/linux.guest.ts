import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { installGuest } from "@virtio/cli/guest/assets";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { findProgram, needs } from "@virtio/testkit/needs";
import { writeFdt } from "virtio/bus/fdt/write";
import { HANG_MS } from "@virtio/testkit/until";
import { temporaryFolder } from "../../guest/virtio.ts";
import { outputOf } from "../lib/console.ts";
import { linuxArguments, machines, startMachine } from "../lib/machine.ts";
import { makeInitrd } from "../lib/root-disk.ts";
import { arm64Tree } from "./arm64-tree.ts";

const MEGABYTES = 256;
const BOOT_TIMEOUT = HANG_MS;
const kind = { ...machines.arm64, machine: "virt,highmem=off" };
const folder = temporaryFolder();

test.skipIf(findProgram(kind.program) === undefined)(
  needs(
    kind.program,
    kind.debianPackage,
    "Linux boots on a device tree that we wrote, and finds its virtio devices over MMIO and PCI",
  ),
  async () => {
    const guest = await installGuest(homeFolder(), new Progress(), "arm64");
    const tree = join(folder, "ours.dtb");
    // Two of the slots that QEMU has: what is in others must not be found.
    writeFileSync(tree, writeFdt({ root: arm64Tree(MEGABYTES << 20, [3, 31]) }));
    // None of these has a space in it.
    const devices = `-dtb ${tree} -device virtio-rng-device,bus=virtio-mmio-bus.3 -device virtio-rng-pci
      -device virtio-rng-device,bus=virtio-mmio-bus.7 -global virtio-mmio.force-legacy=false`;
    const boot = linuxArguments(kind, guest.kernel, makeInitrd(folder, guest), ["rdinit=/shell"]);
    const shell = startMachine({
      kind,
      transport: "pci",
      memory: MEGABYTES,
      processors: 1,
      devices: [],
      boot: [...devices.split(/\s+/), ...boot],
    });
    try {
      await shell.until(/<shell is up>\r?\n/, BOOT_TIMEOUT);
      const found = await outputOf(shell, "for i in /sys/bus/virtio/devices/*; do readlink -f $i; done");
      expect(found.split("\n").sort()).toEqual([
        expect.stringMatching(/\/3f000000\.pcie\/pci0000:00\/0000:00:0\d\.0\/virtio\d$/),
        expect.stringMatching(/\/a000600\.virtio_mmio\/virtio\d$/),
      ]);
      for (const name of ["virtio_rng.0", "virtio_rng.1"]) {
        await outputOf(shell, `echo ${name} >/sys/class/misc/hw_random/rng_current`);
        const bytes = await outputOf(shell, "dd if=/dev/hwrng bs=512 count=4 2>/dev/null | wc -c");
        expect(Number(bytes)).toBe(2048);
      }
      const interrupts = await outputOf(shell, "grep -c virtio /proc/interrupts");
      expect(Number(interrupts)).toBe(2);
      shell.send("poweroff -f\n");
      expect(await shell.finish(30_000)).toBe(0);
    } finally {
      shell.kill();
    }
  },
);
