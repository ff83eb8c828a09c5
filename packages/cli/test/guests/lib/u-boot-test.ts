import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";

import { expect, test } from "vitest";

import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { HANG_MS } from "@virtio/testkit/until";
import { hasE2fsprogs, host, temporaryFolder } from "../../guest/virtio.ts";
import { socketPath, startMachine, type Transport } from "./machine.ts";
import { makePartitionedDisk, type PartitionedDisk } from "./partitioned-disk.ts";
import { serve, stop } from "./serve.ts";
import { UBoot, uBootImages, type Board, type Release } from "./u-boot.ts";

/** Firmware is up in a second; beside other work it may take many. */
const bootTimeout = HANG_MS;

/** A board with its disk plugged in one way. */
export interface BoardSetup {
  readonly board: Board;
  readonly release: Release;
  readonly transport: Transport;
  /** Properties of QEMU's device, each with a comma before it. */
  readonly properties?: string;
}

/** U-Boot, another driver than Linux', on our disk: its partitions, its files, its blocks read and written. */
export function uBootTest({ board, release, transport, properties = "" }: BoardSetup): void {
  const title = clause(
    "dev.blk.operation",
    `U-Boot of ${release}, ${board.name} on ${board.kind.name}, ${transport}${properties}: our disk`,
  );
  const installed = findProgram(board.kind.program) !== undefined && hasE2fsprogs;
  const folder = temporaryFolder();
  test.skipIf(!installed)(
    needs(board.kind.program, board.kind.debianPackage, title),
    { timeout: 3 * bootTimeout },
    async () => {
      const images = await uBootImages(release);
      const work = mkdtempSync(join(folder, "board-"));
      const data = randomBytes(123_457);
      const disk = makePartitionedDisk(work, { "data.bin": data, "hello.txt": Buffer.from("Hello\n") });
      const socket = socketPath(work, "blk");
      const argv = `blk,serial=UB --socket ${socket} --drive file=${disk.path},format=raw`;
      const server = await serve(argv.split(" "));
      const console = startMachine({
        kind: board.kind,
        transport,
        memory: 256,
        processors: 1,
        devices: [
          {
            kind: "blk",
            socket,
            properties: properties + (transport === "pci" ? (board.properties ?? "") : ""),
          },
        ],
        boot: board.boot(images),
      });
      try {
        const uBoot = new UBoot(console);
        await uBoot.ready(bootTimeout);
        await lookAtDisk(uBoot, disk);
        await readDisk(uBoot, board, disk, data);
        await writeDisk(uBoot, board, disk);
        console.kill();
        await console.ended;
        await stop(server);
      } catch (error) {
        throw new Error(`the server said:\n${server.tail}\nU-Boot said:\n${console.tail}`, { cause: error });
      } finally {
        console.kill();
        server.kill();
      }
    },
  );
}

export async function lookAtDisk(uBoot: UBoot, disk: PartitionedDisk): Promise<void> {
  expect(await uBoot.run("virtio scan")).toBe("");
  const sectors = disk.content.length / 512;
  expect(await uBoot.run("virtio info")).toMatch(
    new RegExp(
      `^Device 0: .* VirtIO Block Device\\n +Type: Hard Disk\\n +Capacity: .*\\(${sectors} x 512\\)$`,
    ),
  );
  expect(await uBoot.run("virtio part 0")).toMatch(
    new RegExp(`Partition Type: DOS[^]*\\n +1\\s+${disk.start}\\s+${disk.length}\\s+\\S+\\s+83 Boot$`),
  );
}

export async function readDisk(
  uBoot: UBoot,
  board: Pick<Board, "address">,
  disk: PartitionedDisk,
  data: Uint8Array,
): Promise<void> {
  const address = board.address.toString(16);
  expect(await uBoot.run(`virtio read ${address} 0 8`)).toMatch(
    /block # 0, count 8 \.\.\. 8 blocks read: OK$/,
  );
  expect(memoryBytes(await uBoot.run(`md.b ${address} 40`))).toEqual([...disk.content.subarray(0, 64)]);
  expect(await uBoot.run(`crc32 ${address} 1000`)).toContain(`==> ${sumOf(disk.content.subarray(0, 4096))}`);
  // As long as one request may be, and to the last sector.
  const last = disk.content.length / 512 - 2000;
  expect(await uBoot.run(`virtio read ${address} ${last.toString(16)} 7d0`)).toMatch(/2000 blocks read: OK$/);
  const tail = sumOf(disk.content.subarray(last * 512));
  expect(await uBoot.run(`crc32 ${address} fa000`)).toContain(`==> ${tail}`);
  for (const where of ["0:1", "0"]) {
    const list = await uBoot.run(`ls virtio ${where} /`);
    expect(list).toMatch(/^ +123457 +data\.bin$/m);
    expect(list).toMatch(/^ +6 +hello\.txt$/m);
  }
  expect(await uBoot.run(`load virtio 0:1 ${address} data.bin`)).toContain("123457 bytes read");
  expect(await uBoot.run(`crc32 ${address} ${data.length.toString(16)}`)).toContain(`==> ${sumOf(data)}`);
}

/** In the gap before the partition, so that the file system must be as it was. */
export async function writeDisk(
  uBoot: UBoot,
  board: Pick<Board, "address">,
  disk: PartitionedDisk,
): Promise<void> {
  const address = board.address.toString(16);
  await uBoot.run(`mw.b ${address} 5a 2000`);
  expect(await uBoot.run(`virtio write ${address} 20 10`)).toMatch(/16 blocks written: OK$/);
  const expected = Buffer.from(disk.content).fill(0x5a, 0x20 * 512, 0x30 * 512);
  expect(readFileSync(disk.path).equals(expected)).toBe(true);
  host("e2fsck", "-fn", `${disk.path}?offset=${disk.start * 512}`);
}

/** The bytes of `md.b`: an address, the bytes, the same as text. */
function memoryBytes(text: string): number[] {
  return text.split("\n").flatMap((line) => {
    const bytes = /^[0-9a-f]+: ((?:[0-9a-f]{2} )+)/.exec(line)?.[1] ?? "";
    return bytes
      .split(" ")
      .filter(Boolean)
      .map((byte) => Number.parseInt(byte, 16));
  });
}

/** As `crc32` shows it. */
export function sumOf(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(8, "0");
}
