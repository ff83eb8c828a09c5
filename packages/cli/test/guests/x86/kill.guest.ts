import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { clause } from "@virtio/testkit/clause";
import { needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";

import { hasE2fsprogs, temporaryFolder } from "../../guest/virtio.ts";
import { outputOf, type Console } from "../lib/console.ts";
import { loadSeconds } from "../lib/load.ts";
import { serve, stop } from "../lib/serve.ts";
import { fioReport, fioVerify, mountTools, loopsFor } from "./lib/fio.ts";
import * as machine from "./lib/guest.ts";
import { toolsImage } from "./lib/tools.ts";

const folder = temporaryFolder();

/** Bytes that are more than a server reads and writes to start. */
const ENOUGH = 8 << 20;
/** Milliseconds without work after which QEMU has forgotten to go on, see below. */
const FORGOTTEN = 15_000;
/** Times in a row. */
const PATIENCE = 3;

/** Waits until a server has worked, or there is nothing to do for it any more. Gives false when nothing is asked of it. */
async function worked(server: Console, running: () => boolean): Promise<boolean> {
  const deadline = Date.now() + FORGOTTEN;
  const amount = (): number => {
    const text = readFileSync(`/proc/${server.child.pid ?? 0}/io`, "utf8");
    return [...text.matchAll(/^[rw]char: (\d+)$/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
  };
  for (const before = amount(); running() && amount() < before + ENOUGH; await delay(50))
    if (Date.now() > deadline) return false;
  return true;
}

const MEGABYTES = 64;
/** Of a mixed load's length. */
const SHARE = 0.1;

/** A machine without PCI: its drivers have rings of 1024 entries, whatever is asked for. */
const microvm = "microvm,pcie=off,rtc=on,isa-serial=on,acpi=on";
/** On a busy host Linux finds no frequency of its clock there, and waits for ever. */
const clock = "tsc_early_khz=2000000 tsc=reliable lpj=4000000 no_timer_check";

const variants = [
  ["q35", "q35", "-pci", ""],
  ["microvm, virtio-mmio", microvm, "", ""],
  // QEMU 7.2 offers no packed rings of disks.
  ...(machine.isAmd64 ? ([["q35, packed rings", "q35", "-pci", ",packed=on"]] as const) : []),
] as const;

test.skipIf(!machine.hasQemu || !hasE2fsprogs).each(variants)(
  needs(
    machine.QEMU,
    machine.DEBIAN_PACKAGE,
    clause(
      "dev.blk.operation",
      "%s: kill -9 of the back-end under load, again and again: fio's verify finds nothing lost",
    ),
  ),
  async (name, type, bus, packed) => {
    const emulator = packed === "" ? machine.installedQemu : await machine.newerQemu();
    const image = join(folder, "disk.img");
    writeFileSync(image, "");
    truncateSync(image, MEGABYTES << 20);
    const [disk, tools] = [join(folder, "disk.sock"), join(folder, "tools.sock")];
    // What runs fio is not killed: its pages are read from there.
    const file = `file=${await toolsImage()},format=raw,readonly=on`;
    const toolServer = await serve(["blk", "--socket", tools, "--drive", file]);
    const start = (): ReturnType<typeof serve> =>
      serve(["blk,num-queues=2", "--socket", disk, "--drive", `file=${image},format=raw`]);
    let server = await start();
    const modern = bus === "" ? ["-global", "virtio-mmio.force-legacy=false"] : [];
    const argv = [
      ...machine.sharedMachine(type, 256),
      ...modern,
      ...machine.diskDevice("disk", disk, `,num-queues=2${packed}`, bus),
      ...machine.diskDevice("tools", tools, ",num-queues=1", bus),
      ...machine.plain,
      ...machine.bootArguments(
        await machine.shellBoot(folder),
        `rdinit=/shell-init ${bus === "" ? clock : ""}`,
      ),
      "-smp",
      "2",
    ];
    const shell = machine.startQemu(name, argv, emulator);
    try {
      await machine.isUp(shell);
      // Buses without slots are filled from behind.
      const letters = (await outputOf(shell, "cat /sys/block/vda/ro")) === "1" ? "ab" : "ba";
      await mountTools(shell, `/dev/vd${letters.charAt(0)}`);
      const block = `/sys/block/vd${letters.charAt(1)}/device`;
      expect(await machine.isPacked(shell, block)).toBe(packed !== "");
      const seconds = loadSeconds(SHARE, 20);
      const loops = loopsFor(seconds, MEGABYTES);
      const fio = fioVerify({ disk: `/dev/vd${letters.charAt(1)}`, megabytes: MEGABYTES, loops, jobs: 2 });
      let running = true;
      const done = outputOf(shell, fio, 15 * 60_000).finally(() => (running = false));
      // Seen below; it may be rejected before anybody waits for it.
      done.catch(() => undefined);
      let kills = 0;
      let forgotten = 0;
      for (const deadline = Date.now() + seconds * 1000; running && Date.now() < deadline; kills++) {
        // Rarely (docs/vhost-user.md) QEMU 7.2 connects to a new back-end and says nothing to it: that one is killed as well.
        forgotten = (await worked(server, () => running)) ? 0 : forgotten + 1;
        if (forgotten > 0) console.log(`${name}: QEMU says nothing after ${kills} kills`);
        if (forgotten === PATIENCE) throw shell.error("the disk was not taken up again");
        await delay(Math.random() * 1500);
        server.kill();
        await server.ended;
        await delay(Math.random() * 500);
        server = await start();
      }
      await done;
      const report = await fioReport(shell);
      console.log(`${name}: ${kills} kills; ${report}`);
      expect(kills).toBeGreaterThan(0);
      expect(report).toMatch(/err= 0/);
      shell.send("poweroff -f\n");
      expect(await shell.finish(60_000)).toBe(0);
      await Promise.all([stop(server), stop(toolServer)]);
    } finally {
      for (const each of [shell, server, toolServer]) each.kill();
    }
  },
);
