import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { findProgram, needs } from "@virtio/testkit/needs";
import { afterAll, expect, test } from "vitest";

import { hasE2fsprogs, host, temporaryFolder, Virtio } from "../../guest/virtio.ts";

const folder = temporaryFolder();
const qemuNbd = findProgram("qemu-nbd");
const socket = join(folder, "nbd");
let server: ChildProcess | undefined;
afterAll(() => server?.kill("SIGKILL"));

async function serve(image: string): Promise<void> {
  rmSync(socket, { force: true });
  server = spawn(
    qemuNbd ?? "qemu-nbd",
    ["-f", "raw", "-t", "-e", "4", "--discard=unmap", "-k", socket, image],
    {
      stdio: "ignore",
    },
  );
  while (!existsSync(socket)) await delay(10);
}

test.skipIf(qemuNbd === undefined || !hasE2fsprogs)(
  needs(
    "qemu-nbd and mkfs.ext4",
    "qemu-utils e2fsprogs",
    "Linux on an ext4 behind an NBD server that is killed meanwhile",
  ),
  async () => {
    const image = join(folder, "disk.img");
    writeFileSync(image, "");
    truncateSync(image, 64 << 20);
    host("mkfs.ext4", "-q", "-F", image);
    await serve(image);
    const uri = `nbd+unix:///?socket=${socket}`;
    const argv = ["--disk", `${uri},reconnect-delay=60`, "--disk", `${uri},readonly=on`];
    const guest = new Virtio([
      ...argv,
      "--run",
      `mkdir -p /media/n; mount /dev/vda /media/n && echo go && cat >/media/n/input && echo written
       for i in 1 2 3 4 5 6 7 8; do
         dd if=/media/n/input of=/media/n/$i bs=64k conv=fsync 2>/dev/null || echo bad $i; echo $i
       done; md5sum /media/n/[1-8] | cut -c 1-32 | uniq; rm /media/n/[2-8]; sync; fstrim /media/n && umount /media/n
       head -c 512 /dev/zero | dd of=/dev/vdb 2>/dev/null; echo $?`,
    ]);
    await guest.expect("go\n");
    const bytes = Buffer.alloc(3 << 20);
    for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE(Math.imul(i, 2654435761) >>> 0, i);
    guest.process.stdin?.end(bytes);
    for (const mark of ["\n2\n", "\n5\n"]) {
      await guest.expect(mark);
      server?.kill("SIGKILL");
      await delay(300);
      await serve(image);
    }
    const { stdout, stderr, status } = await guest.done;
    const lines = stdout.toString().trimEnd().split("\n");
    const numbers = ["1", "2", "3", "4", "5", "6", "7", "8"];
    expect(lines.slice(0, -2)).toEqual(["go", "written", ...numbers]);
    // All copies are alike, and a read-only disk cannot be written.
    const sum = lines.at(-2);
    expect(lines.at(-1)).toBe("1");
    expect(status).toBe(0);
    expect(stderr.split("connected again").length).toBeGreaterThan(2);
    expect(host("e2fsck", "-f", "-n", image)).toContain("Pass 5");
    const shell = `PATH=$PATH:/usr/sbin:/sbin debugfs -R 'cat /1' ${image} 2>/dev/null | md5sum`;
    expect(host("sh", "-c", shell).slice(0, 32)).toBe(sum);
  },
);
