import { createHash } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { installGuest } from "@virtio/cli/guest/assets";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { clause } from "@virtio/testkit/clause";
import { needs } from "@virtio/testkit/needs";
import { checkLog } from "@virtio/testkit/no-hints";
import { expect, test } from "vitest";

import { hasE2fsprogs, host, temporaryFolder } from "../../guest/virtio.ts";
import { outputOf } from "../lib/console.ts";
import { loadSeconds } from "../lib/load.ts";
import { makeRootDisk, makeInitrd } from "../lib/root-disk.ts";
import * as machine from "./lib/guest.ts";

const folder = temporaryFolder();
/** Of a mixed load's length. */
const SHARE = 0.1;
const DISK_MEGABYTES = 160;

test.skipIf(!machine.hasQemu || !hasE2fsprogs).each([
  ["pc", "i386", "-drive if=none,id=hd0,$FILE -device virtio-blk-pci,drive=hd0,serial=ROOT"],
  ["q35", "amd64", "-drive if=virtio,$FILE"],
] as const)(
  needs(
    machine.QEMU,
    machine.DEBIAN_PACKAGE,
    clause(
      "dev.blk.operation",
      "virtio qemu, %s, %s: a command line for QEMU's own devices boots from ours, loads it, and ends",
    ),
  ),
  async (type, architecture, disk) => {
    const guest = await installGuest(homeFolder(), new Progress(), architecture);
    const work = join(folder, type);
    mkdirSync(work);
    const image = makeRootDisk(work, guest, DISK_MEGABYTES);
    const boot = { guest, initrd: makeInitrd(work, guest) };
    const log = join(work, "log");
    const shell = machine.startVirtioQemu(`virtio qemu, ${type}`, log, [
      ...`-M ${type} -m 256 -smp 2 ${disk.replace("$FILE", `file=${image},format=raw`)}`.split(" "),
      ..."-object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r".split(" "),
      ..."-netdev hubport,id=n,hubid=0 -device virtio-net-pci,netdev=n -netdev hubport,id=m,hubid=0".split(
        " ",
      ),
      ..."-device virtio-net-pci,netdev=m".split(" "),
      ...machine.plain,
      ...machine.bootArguments(boot, "rdinit=/mount-root"),
    ]);
    try {
      await shell.until(/<root is up>\r?\n/, machine.bootTimeout);
      expect(await outputOf(shell, "cat /sys/block/vda/serial")).toBe(disk.includes("ROOT") ? "ROOT" : "");
      expect(await outputOf(shell, "ls -1 /sys/block/vda/mq")).toBe("0\n1");
      expect(await outputOf(shell, "head -c 100 /dev/hwrng | wc -c")).toBe("100");
      // From one device of this machine to the other.
      const frames = "cat /sys/class/net/eth1/statistics/rx_packets";
      await outputOf(shell, "ip link set eth0 up; ip link set eth1 up; ip addr add 10.0.0.1/24 dev eth0");
      await outputOf(shell, "ping -c 1 -W 1 10.0.0.2; true");
      expect(Number(await outputOf(shell, frames))).toBeGreaterThan(0);
      const seconds = loadSeconds(SHARE, 5);
      const load = await outputOf(shell, `load ${seconds}`, seconds * 1000 + 240_000);
      await outputOf(shell, "sync; mount -o remount,ro / && echo 3 >/proc/sys/vm/drop_caches", 120_000);
      const sum = await outputOf(shell, "dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | md5sum", 300_000);
      expect(sum).toBe(`${createHash("md5").update(readFileSync(image)).digest("hex")}  -`);
      shell.send("poweroff -f\n");
      expect(await shell.finish(60_000)).toBe(0);
      checkLog(readFileSync(log, "utf8"));
      host("e2fsck", "-fn", image);
      console.log(`virtio qemu, ${type}, ${architecture}: ${load.replaceAll("\n", ", ")}`);
    } finally {
      // QEMU is its child, and has to be told.
      shell.child.kill("SIGTERM");
      await shell.finish(20_000);
    }
  },
);
