import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { clause } from "@virtio/testkit/clause";
import { needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";

import { temporaryFolder } from "../../guest/virtio.ts";
import { outputOf } from "../lib/console.ts";
import { serve, stop } from "../lib/serve.ts";
import * as machine from "./lib/guest.ts";

const folder = temporaryFolder();
const MEGABYTES = 64;
/** Far more than the guest uses; what it does not touch takes no memory of the host. */
const GIGABYTES = 12;

/** GiB of a process's address space that are shared memory of a QEMU. */
function mappedGigabytes(pid: number): number {
  let bytes = 0;
  for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) .*memfd:memory-backend-memfd/.exec(line) ?? [];
    if (start !== undefined && end !== undefined)
      bytes += Number.parseInt(end, 16) - Number.parseInt(start, 16);
  }
  return bytes / 2 ** 30;
}

test.skipIf(!machine.hasQemu)(
  needs(
    machine.QEMU,
    machine.DEBIAN_PACKAGE,
    clause(
      "dev.blk.operation",
      `a guest of ${GIGABYTES} GiB: the disk is read into its highest addresses, and only what a queue needs is mapped`,
    ),
  ),
  async () => {
    const image = join(folder, "big.img");
    const contents = Buffer.alloc(MEGABYTES << 20);
    for (let at = 0; at < contents.length; at += 4)
      contents.writeUInt32LE(Math.imul(at, 2654435761) >>> 0, at);
    writeFileSync(image, contents);
    const socket = join(folder, "disk");
    const server = await serve(`blk --socket ${socket} --drive file=${image},format=raw`.split(" "));
    const shell = machine.startQemu("12 GiB", [
      ...machine.sharedMachine("q35", GIGABYTES << 10),
      ...machine.diskDevice("disk", socket, ",num-queues=1"),
      ...machine.plain,
      ...machine.bootArguments(await machine.shellBoot(folder)),
    ]);
    try {
      await machine.isUp(shell);
      const pid = server.child.pid ?? 0;
      const sum = "dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | md5sum";
      const wanted = `${createHash("md5").update(contents).digest("hex")}  -`;
      expect(await outputOf(shell, sum, 60_000)).toBe(wanted);
      expect(await outputOf(shell, "md5sum </dev/vda", 60_000)).toBe(wanted);
      const mapped = mappedGigabytes(pid);
      console.log(`${mapped.toFixed(2)} GiB of ${GIGABYTES} are mapped`);
      expect(mapped).toBeGreaterThan(0);
      expect(mapped).toBeLessThan(GIGABYTES - 2);
      shell.send("poweroff -f\n");
      expect(await shell.finish(60_000)).toBe(0);
      expect(mappedGigabytes(pid)).toBe(0);
      await stop(server);
    } finally {
      for (const each of [shell, server]) each.kill();
    }
  },
);
