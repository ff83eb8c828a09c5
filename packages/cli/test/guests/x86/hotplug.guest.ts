import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { clause } from "@virtio/testkit/clause";
import { needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";

import { hasE2fsprogs, temporaryFolder } from "../../guest/virtio.ts";
import { outputOf } from "../lib/console.ts";
import { loadSeconds } from "../lib/load.ts";
import { serve, stop } from "../lib/serve.ts";
import { fioReport, fioVerify, loopsFor, mountTools } from "./lib/fio.ts";
import * as machine from "./lib/guest.ts";
import { Qmp } from "./lib/qmp.ts";
import { toolsImage } from "./lib/tools.ts";

const folder = temporaryFolder();
const MEGABYTES = 64;
/** Of a mixed load's length. */
const SHARE = 0.05;
const DIMMS = 3;
const DIMM_MEGABYTES = 128;

test.skipIf(!machine.hasQemu || !hasE2fsprogs).each(["pc", "q35"])(
  needs(
    machine.QEMU,
    machine.DEBIAN_PACKAGE,
    clause(
      "dev.blk.operation",
      "%s: memory is added under load, and the disk is read into it and written from it",
    ),
  ),
  async (type) => {
    const image = join(folder, `${type}.img`);
    writeFileSync(image, "");
    truncateSync(image, (2 * MEGABYTES) << 20);
    const [disk, tools, control] = ["disk", "tools", "qmp"].map((name) => join(folder, `${type}.${name}`));
    const drives = [image, await toolsImage()].map((file) => `file=${file},format=raw`);
    const server = await serve(
      `blk,num-queues=2 --socket ${disk} --drive ${drives[0]} blk --socket ${tools} --drive ${drives[1]},readonly=on`.split(
        " ",
      ),
    );
    const shell = machine.startQemu(type, [
      ...machine.sharedMachine(type, 320, `,slots=${DIMMS},maxmem=2G`),
      ...machine.diskDevice("disk", disk ?? "", ",num-queues=2"),
      ...machine.diskDevice("tools", tools ?? "", ",num-queues=1"),
      ...machine.plain,
      ...machine.bootArguments(await machine.shellBoot(folder)),
      ...`-smp 2 -qmp unix:${control},server=on,wait=off`.split(" "),
    ]);
    try {
      const qmp = await Qmp.open(control ?? "");
      await machine.isUp(shell);
      await mountTools(shell, "/dev/vdb");
      const total = async (): Promise<number> =>
        Number(/\d+/.exec(await outputOf(shell, "grep MemTotal /proc/meminfo"))?.[0]) >> 10;
      const before = await total();
      const loops = loopsFor(loadSeconds(SHARE, 30), MEGABYTES);
      const fio = fioVerify({ disk: "/dev/vda", megabytes: MEGABYTES, loops, jobs: 2, backlog: 64 });
      await outputOf(shell, `(( ${fio}; echo $? >/tmp/status ) &); sleep 1`);
      for (let number = 0; number < DIMMS; number++) {
        const memory = { id: `m${number}`, size: DIMM_MEGABYTES << 20, share: true };
        await qmp.run("object-add", { "qom-type": "memory-backend-memfd", ...memory });
        await qmp.run("device_add", { driver: "pc-dimm", memdev: `m${number}`, id: `d${number}` });
        await outputOf(
          shell,
          `for i in 1 2 3 4 5 6 7 8 9 10; do
             for state in /sys/devices/system/memory/memory*/state; do
               grep -q offline $state && echo online >$state
             done
             set -- /sys/devices/system/memory/memory*
             sleep 1
           done; true`,
        );
      }
      expect(await total()).toBeGreaterThan(before + DIMMS * DIMM_MEGABYTES - 32);
      // More than there was: page cache and buffers are in what was added.
      await outputOf(
        shell,
        "mount -o remount,size=90% /tmp && dd if=/dev/urandom of=/tmp/much bs=1M count=300 2>/dev/null",
        120_000,
      );
      const part = `bs=1M count=${MEGABYTES}`;
      await outputOf(
        shell,
        `dd if=/tmp/much of=/dev/vda ${part} seek=${MEGABYTES} conv=fsync 2>/dev/null`,
        120_000,
      );
      const sums = await outputOf(
        shell,
        `dd if=/tmp/much ${part} 2>/dev/null | md5sum; dd if=/dev/vda ${part} skip=${MEGABYTES} iflag=direct 2>/dev/null | md5sum`,
        120_000,
      );
      const [written, read] = sums.split("\n");
      expect(read).toBe(written);
      const status = "until [ -s /tmp/status ]; do sleep 1; done; cat /tmp/status";
      expect(await outputOf(shell, status, 10 * 60_000), await fioReport(shell)).toBe("0");
      console.log(`${type}: ${before} to ${await total()} MiB; ${await fioReport(shell)}`);
      qmp.close();
      shell.send("poweroff -f\n");
      expect(await shell.finish(60_000)).toBe(0);
      await stop(server);
    } finally {
      for (const each of [shell, server]) each.kill();
    }
  },
);
