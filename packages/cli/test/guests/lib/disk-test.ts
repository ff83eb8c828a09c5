import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { installGuest } from "@virtio/cli/guest/assets";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import { HANG_MS } from "@virtio/testkit/until";
import { hasE2fsprogs, host, temporaryFolder } from "../../guest/virtio.ts";
import { outputOf, type Console } from "./console.ts";
import { loadSeconds } from "./load.ts";
import {
  architectures,
  linuxArguments,
  machines,
  socketPath,
  startMachine,
  type Transport,
} from "./machine.ts";
import { makeRootDisk, makeInitrd } from "./root-disk.ts";
import { DiskServer, serve, serveNbd, stop } from "./serve.ts";

/** Emulated, and beside other work: a boot is one second or twenty. */
const bootTimeout = HANG_MS;
const diskMegabytes = 160;
/** Bit of VIRTIO_F_RING_PACKED in sysfs' text of the features. */
const ringPacked = 34;

export interface DiskTest {
  readonly machine: keyof typeof machines;
  readonly transport: Transport;
  /** Properties of QEMU's disk, each with a comma before it. */
  readonly properties?: string;
  /** The disk's virtqueues are packed ones. Default: when it is no legacy device. */
  readonly packed?: boolean;
  /** Properties of our `--drive`, each with a comma before it, and more options of the disk: how it reads and writes the image. */
  readonly drive?: string;
  /** The server of the disk is ended by `kill -9` and started again, time and again. Default: it is left alone. */
  readonly killed?: boolean;
  /** The image is behind a `qemu-nbd`, which is killed and started again time and again. Default: it is a file. */
  readonly nbd?: boolean;
  /** How long the mixed load is. Default: `VIRTIO_GUEST_MINUTES`, or ten seconds. */
  readonly seconds?: number;
}

/** A guest whose root file system is our disk: booted, loaded, shut down, and its disk looked at from the host. */
export function diskTest(options: DiskTest): void {
  const {
    machine,
    transport,
    properties = "",
    drive = "",
    killed = false,
    seconds = loadSeconds(1, 10),
  } = options;
  const kind = machines[machine];
  const { nbd = false } = options;
  const name = `${kind.name}, ${transport}${properties}${drive}${nbd ? ", behind a killed NBD server" : ""}`;
  // The packed ring came with VIRTIO 1.1. The entropy device has no legacy form on PCI.
  const packedEntropy = transport !== "mmio-legacy";
  const { packed = packedEntropy && !properties.includes("disable-modern=on") } = options;
  const ring = packed ? "packed" : "split";
  const title = clause(
    "dev.blk.operation",
    `${name}: root on our disk, ${seconds} s of mixed load on two ${ring} queues, ${killed ? "kill -9" : "entropy"}`,
  );
  const programs = [kind.program, ...(nbd ? ["qemu-nbd"] : [])];
  const installed = programs.every((program) => findProgram(program) !== undefined) && hasE2fsprogs;
  const folder = temporaryFolder();
  test.skipIf(!installed)(
    needs(programs.join(" and "), nbd ? `${kind.debianPackage} qemu-utils` : kind.debianPackage, title),
    async () => {
      const guest = await installGuest(homeFolder(), new Progress(), architectures[machine]);
      const work = mkdtempSync(join(folder, "machine-"));
      const image = makeRootDisk(work, guest, diskMegabytes);
      const entropy = randomBytes(1 << 20);
      writeFileSync(join(work, "entropy"), entropy);
      const [blk, rng] = [socketPath(work, "blk"), socketPath(work, "rng")];
      // None of these has a space in it.
      const entropyArgv = `entropy --socket ${rng} --object rng-random,filename=${join(work, "entropy")}`;
      const entropyServer = await serve(entropyArgv.split(" "));
      const socket = socketPath(work, "nbd");
      const store = new DiskServer(() => serveNbd(image, socket));
      if (nbd) await store.start();
      const file = nbd ? `nbd+unix:///?socket=${socket},file.reconnect-delay=60` : image;
      const diskArgv = `blk,serial=ROOT,num-queues=2 --socket ${blk} --drive file=${file},format=raw${drive}`;
      const disk = new DiskServer(() => serve(diskArgv.split(" ")));
      await disk.start();
      const initrd = makeInitrd(work, guest);
      const shell = startMachine({
        kind,
        transport,
        memory: 256,
        processors: 2,
        devices: [
          { kind: "blk", socket: blk, properties: `,num-queues=2${packed ? ",packed=on" : ""}${properties}` },
          { kind: "rng", socket: rng, properties: packedEntropy ? ",packed=on" : "" },
        ],
        boot: linuxArguments(kind, guest.kernel, initrd, ["rdinit=/mount-root"]),
      });
      try {
        await shell.until(/<root is up>\r?\n/, bootTimeout);
        await checkDevices(shell, entropy);
        expect(await isPacked(shell, "/sys/block/vda/device")).toBe(packed);
        expect(await isPacked(shell, "/sys/bus/virtio/drivers/virtio_rng/virtio*")).toBe(packedEntropy);
        const figures = await loadDisk(shell, seconds, nbd ? store : killed ? disk : undefined);
        const sums = await shutDown(shell, image);
        await disk.stop();
        await stop(entropyServer);
        // Nothing is repaired, and a file system that would need it is an error.
        host("e2fsck", "-fn", image);
        expect(dumpSums(work, image)).toBe(sums);
        console.log(`${name}, ${ring}: ${figures}`);
      } catch (error) {
        throw new Error(`the disk's server said:\n${disk.said}`, { cause: error });
      } finally {
        shell.kill();
        disk.kill();
        store.kill();
        entropyServer.kill();
      }
    },
  );
}

/** The mixed load, while `killed` is killed again and again; gives what it was. */
async function loadDisk(shell: Console, seconds: number, killed: DiskServer | undefined): Promise<string> {
  const loading = outputOf(shell, `load ${seconds}`, seconds * 1000 + 240_000);
  const said = killed === undefined ? await loading : await killed.killUntil(loading);
  // What QEMU says of a server that went is on the console too.
  const rounds = said.split("\n").filter((line) => line.startsWith("worker"));
  const statistics = describeStatistics(await outputOf(shell, "cat /sys/block/vda/stat"));
  return `${rounds.join(", ")}; ${statistics}${killed === undefined ? "" : `; ${killed.kills} kills`}`;
}

async function checkDevices(shell: Console, entropy: Buffer): Promise<void> {
  expect(await outputOf(shell, "cat /sys/block/vda/serial")).toBe("ROOT");
  expect(await outputOf(shell, "ls -1 /sys/block/vda/mq")).toBe("0\n1");
  expect(await outputOf(shell, "cat /sys/class/misc/hw_random/rng_current")).toMatch(/^virtio_rng/);
  const bytes = await outputOf(shell, "head -c 64 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'");
  expect(bytes).toHaveLength(128);
  // The kernel takes some for itself, before and meanwhile: they need not all be of one piece.
  const pieces = Array.from({ length: 49 }, (_, at) => Buffer.from(bytes, "hex").subarray(at, at + 16));
  expect(
    pieces.some((piece) => entropy.includes(piece)),
    bytes,
  ).toBe(true);
}

/** Whether the packed ring was negotiated, by the device's folder in sysfs. */
async function isPacked(shell: Console, folder: string): Promise<boolean> {
  return (await outputOf(shell, `cat ${folder}/features`)).charAt(ringPacked) === "1";
}

/** Ends the guest. Gives the sums of all files under /data as the guest saw them, and has compared that of the disk. */
async function shutDown(shell: Console, image: string): Promise<string> {
  const minutes = 5 * 60_000;
  const list = "find data -type f -exec md5sum {} + | sort -k 2";
  const sums = await outputOf(shell, `(cd / && ${list})`, minutes);
  await outputOf(shell, "sync; mount -o remount,ro / && echo 3 >/proc/sys/vm/drop_caches", minutes);
  // Not through the page cache: jbd2 writes its journal past that, which then has old blocks of it.
  const disk = await outputOf(shell, "dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | md5sum", minutes);
  expect(disk).toBe(`${createHash("md5").update(readFileSync(image)).digest("hex")}  -`);
  shell.send("poweroff -f\n");
  expect(await shell.finish(60_000)).toBe(0);
  return sums;
}

/** The sums of all files under /data, as the host reads them from the image without mounting it. */
function dumpSums(work: string, image: string): string {
  const target = join(work, "dump");
  mkdirSync(target);
  host("debugfs", "-R", `rdump /data ${target}`, image);
  const paths = host("find", target, "-type", "f").split("\n").filter(Boolean);
  const lines = paths.map((path) => {
    const sum = createHash("md5").update(readFileSync(path)).digest("hex");
    return [path.slice(target.length + 1), `${sum}  ${path.slice(target.length + 1)}`] as const;
  });
  return lines
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, line]) => line)
    .join("\n");
}

/** From the fields of Linux' block/stat: requests and sectors of 512 bytes. */
function describeStatistics(text: string): string {
  const fields = text.trim().split(/\s+/).map(Number);
  const at = (index: number): number => fields[index] ?? 0;
  const mebibytes = (sectors: number): string => `${Math.round(sectors / 2048)} MiB`;
  const [reads, writes] = [mebibytes(at(2)), mebibytes(at(6))];
  return `${at(0)} reads of ${reads}, ${at(4)} writes of ${writes}, ${at(15)} flushes`;
}
