import { readFileSync, writeFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BlockBackend } from "virtio/backends/block";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { BlkDevice } from "virtio/devices/blk/device";
import type { ConfigSpace, VirtioDevice } from "virtio/device/device";
import type { DescriptorChain } from "virtio/virtqueue/types";
import { VIRTIO_ID_9P, VIRTIO_ID_BLK, VIRTIO_ID_ENTROPY } from "virtio/spec/ids";
import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { TemporaryFolder, extImage, fatImage, pattern, sampleRoot } from "./lib/images.ts";
import { LyingTarget } from "./lib/lying-target.ts";
import { TestShell, inProcess } from "./lib/shell.ts";

const folder = new TemporaryFolder();
afterAll(() => folder.remove());

/** Configuration of these bytes. */
function config(bytes: Uint8Array): ConfigSpace {
  return {
    length: bytes.length,
    read: (offset, target) => target.set(bytes.subarray(offset, offset + target.length)),
  };
}

/** A disk of so many sectors with whatever answer to requests. */
function disk(sectors: bigint, serve: (chain: DescriptorChain) => number | Promise<number>): VirtioDevice {
  const bytes = new Uint8Array(96);
  new DataView(bytes.buffer).setBigUint64(0, sectors, true);
  return {
    id: VIRTIO_ID_BLK,
    name: "blk",
    features: 0n,
    config: config(bytes),
    queues: [{ name: "requestq", maxSize: 64, serve }],
  };
}

const never = (): Promise<number> => new Promise(() => undefined);

describe("devices that lie", () => {
  test("one that never answers: an error line when its time is over, Ctrl-C ends the command, not the shell", async () => {
    const shell = new TestShell(new LyingTarget([disk(1000n, never)]), { timeout: 300 });
    expect(await shell.run("virtio info")).toContain("1000 x 512");
    expect(await shell.run("virtio read 100000 0 1; echo goes on")).toMatch(
      /0 blocks read: ERROR\nblk0: reading block 0: no answer in 0\.3 s\ngoes on\n$/,
    );
    expect(await shell.run("ls virtio 0 /")).toMatch(/no answer/);
    const patient = new TestShell(new LyingTarget([disk(1000n, never)]));
    setTimeout(() => patient.shell.interrupt(), 100);
    expect(await patient.run("virtio read 100000 0 1; echo not here")).toMatch(/ERROR\n<INTERRUPT>\n$/);
    expect(patient.status).toBe(1);
    expect(await patient.run("echo here")).toBe("here\n");
    await Promise.all([shell.close(), patient.close()]);
  });

  test(
    clause("drv.blk.operation", "a failing request, a used length that cannot be, a status that is none"),
    async () => {
      const failing = disk(1000n, (chain) => chain.writableLength);
      for (const device of [failing, disk(1000n, () => 0), disk(1000n, () => 1)]) {
        const shell = new TestShell(new LyingTarget([device]), { timeout: 1000 });
        expect(await shell.run("virtio read 100000 0 8; virtio part; ls virtio 0; echo $?")).toMatch(
          /ERROR\n(.*\n)*1\n$/,
        );
        await shell.close();
      }
    },
  );

  test("capacities from 0 to 2^64 - 1", async () => {
    for (const sectors of [0n, 1n, 2n ** 53n, 2n ** 64n - 1n]) {
      const shell = new TestShell(new LyingTarget([disk(sectors, never)]), { timeout: 200 });
      const shown = await shell.run(
        "virtio info; virtio part; ls virtio 0; virtio read 100000 0 1; echo end",
      );
      expect(shown).toMatch(/end\n$/);
      await shell.close();
    }
  });

  test("one that cannot be opened is said at each scan, and the others work", async () => {
    const bytes = new Uint8Array(8);
    // A tag of 65,535 bytes in a space of eight.
    bytes.set([0xff, 0xff]);
    const share: VirtioDevice = {
      id: VIRTIO_ID_9P,
      name: "9p",
      features: 1n,
      config: config(bytes),
      queues: [{ name: "requestq", maxSize: 16, serve: never }],
    };
    const entropy: VirtioDevice = {
      id: VIRTIO_ID_ENTROPY,
      name: "entropy",
      features: 0n,
      queues: [{ name: "requestq", maxSize: 8, serve: () => 0 }],
    };
    const shell = new TestShell(new LyingTarget([share, disk(8n, never), entropy]), { timeout: 1000 });
    expect(await shell.run("virtio scan")).toMatch(/^\*\* 9p0 \(pci 00:00\.0\): .+ \*\*\n$/);
    expect(await shell.run("virtio info; ls 9p 0")).toMatch(
      /8 x 512\)\n\*\* Bad device specification 9p 0 \*\*\n$/,
    );
    // No byte in a used buffer.
    expect(await shell.run("rng; echo $?")).toMatch(/no random byte.*\n1\n$/);
    expect(await shell.run("virtio regs all; virtio features all; virtio queue all; echo end")).toMatch(
      /end\n$/,
    );
    await shell.close();
  });
});

describe("tables that lie", () => {
  const image = new Uint8Array(1 << 20);
  const view = new DataView(image.buffer);
  const file = folder.file("table.img");
  const shown = async (commands: string): Promise<string> => {
    writeFileSync(file, image);
    const shell = await inProcess(["-drive", `file=${file},format=raw`]);
    try {
      return await shell.run(commands);
    } finally {
      await shell.close();
    }
  };
  const entry = (sector: number, index: number, type: number, start: number, sectors: number): void => {
    const at = sector * 512 + 446 + 16 * index;
    image[at + 4] = type;
    view.setUint32(at + 8, start, true);
    view.setUint32(at + 12, sectors, true);
    view.setUint16(sector * 512 + 510, 0xaa55, true);
  };

  test("extended partitions in a circle, and beyond the disk", async () => {
    image.fill(0);
    entry(0, 0, 5, 100, 1000);
    entry(100, 0, 0x83, 1, 10);
    entry(100, 1, 5, 100, 10);
    // The record at 200 names itself.
    entry(200, 0, 0x83, 1, 10);
    entry(200, 1, 5, 100, 10);
    entry(0, 1, 0x83, 0xfffffff0, 0xffffffff);
    const lines = (await shown("virtio part 0")).trimEnd().split("\n");
    expect(lines.slice(4).map((line) => Number(line.split("\t")[0]))).toEqual([1, 2, 5, 6]);
    expect(await shown("ls virtio 0:2")).toMatch(
      /^\*\* partition 2: blocks 4294967280 .* do not fit a disk of 2048 \*\*\n$/,
    );
    expect(await shown("ls virtio 0:5")).toMatch(/Unrecognized filesystem type/);
  });

  test("any first sectors are a table or none", async () => {
    const shell = await inProcess([
      "-drive",
      `file=${folder.write("any.img", new Uint8Array(1 << 20))},format=raw`,
    ]);
    const bytes = fc.uint8Array({ minLength: 512, maxLength: 512 });
    await fc.assert(
      fc.asyncProperty(bytes, bytes, fc.boolean(), async (first, second, gpt) => {
        const sectors = Uint8Array.of(...first, ...second);
        sectors.set([0x55, 0xaa], 510);
        for (let index = 0; index < 4; index++) sectors[446 + 16 * index] = 0;
        if (gpt) {
          sectors[446 + 4] = 0xee;
          sectors.set(Buffer.from("EFI PART"), 512);
        }
        const { memory } = shell.shell;
        memory.writable(0x100000, 1024).set(sectors);
        expect(
          await shell.run("virtio write 100000 0 2; virtio part; ls virtio 0:5; ls virtio 0:auto; echo end"),
        ).toMatch(/end\n$/);
      }),
      { numRuns: 40 },
    );
    await shell.close();
  });
});

/** A FAT32 of 8 TiB that needs no memory: its root directory, with one file, is 4.8 TiB behind its start. */
function hugeFat(): BlockBackend {
  const [sector, reserved, fat, cluster, root] = [4096, 32, 32_800, 64, 20_000_000];
  const start = new Uint8Array(sector);
  const view = new DataView(start.buffer);
  start.set([0xeb, 0x58, 0x90]);
  view.setUint16(11, sector, true);
  start[13] = cluster;
  view.setUint16(14, reserved, true);
  start[16] = 1;
  start[21] = 0xf8;
  view.setUint32(32, 2 ** 31, true);
  view.setUint32(36, fat, true);
  view.setUint32(44, root, true);
  start.set(new TextEncoder().encode("FAT32   "), 82);
  view.setUint16(510, 0xaa55, true);
  const directory = new Uint8Array(32);
  directory.set(new TextEncoder().encode("FARAWAY TXT "));
  const pieces = new Map([
    [0, start],
    [(reserved + fat + (root - 2) * cluster) * sector, directory],
  ]);
  return {
    size: 2 ** 31 * sector,
    readOnly: false,
    asynchronous: false,
    read: (offset, target) => {
      target.fill(0);
      for (const [at, bytes] of pieces)
        if (at >= offset && at + bytes.length <= offset + target.length) target.set(bytes, at - offset);
    },
    write: () => undefined,
    flush: () => undefined,
  };
}

test("a file system of 8 TiB is read where it says, not modulo 2 TiB", async () => {
  const shell = new TestShell(new LyingTarget([new BlkDevice(hugeFat())]));
  expect(await shell.run("ls virtio 0:0 /")).toMatch(/ 0 {3}FARAWAY\.TXT\n/);
  await shell.close();
});

const ready = findProgram("mkfs.ext4") !== undefined && findProgram("mkfs.vfat") !== undefined;

describe.skipIf(!ready)("file systems that are broken", () => {
  let ext: Uint8Array;
  let fat: Uint8Array;
  beforeAll(() => {
    // Not a Buffer, whose slices share their bytes.
    ext = Uint8Array.from(readFileSync(extImage(folder.file("ext.img"), sampleRoot(folder), "2M")));
    fat = Uint8Array.from(readFileSync(fatImage(folder.file("fat.img"), 1024, 12)));
  });

  /** Bytes of the parts that say where things are are replaced. */
  async function broken(image: Uint8Array, seed: number, extent: number): Promise<string> {
    const bytes = image.slice();
    let random = seed * 2_654_435_761 + 12_345;
    const next = (below: number): number => {
      random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
      return Math.floor((random / 2 ** 32) * below);
    };
    for (let i = 0; i < 40; i++) bytes[next(extent)] = next(4) === 0 ? 0xff : next(256);
    // So that it is still taken for a file system.
    if (image === ext) bytes.set([0x53, 0xef], 1024 + 56);
    else bytes.set(fat.subarray(0, 64), 0);
    const shell = await inProcess(["-drive", `file=${folder.write("broken.img", bytes)},format=raw`]);
    try {
      return await shell.run(
        "ls virtio 0 /; ls virtio 0 /boot; load virtio 0 1000 /hello; save virtio 0 1000 /new 1000; echo end",
      );
    } finally {
      await shell.close();
    }
  }

  test(needs("mkfs.ext4", "e2fsprogs", "ext4: every command ends with lines"), async () => {
    for (let seed = 0; seed < 5; seed++)
      expect(await broken(ext, seed, 200_000), `seed ${seed}`).toMatch(/end\n$/);
  });

  test(
    needs("mkfs.ext4", "e2fsprogs", "ext4 of more blocks than the library can count is not read"),
    async () => {
      const bytes = ext.slice();
      bytes[1024 + 96] = (bytes[1024 + 96] ?? 0) | 0x80;
      bytes[1024 + 336] = 1;
      const shell = await inProcess(["-drive", `file=${folder.write("wide.img", bytes)},format=raw`]);
      expect(await shell.run("ls virtio 0 /; echo $?")).toMatch(/more than 2\^32 blocks.*\n1\n$/);
      await shell.close();
    },
  );

  test(needs("mkfs.vfat", "dosfstools", "no file has places that its file system cannot count"), async () => {
    const images = [ext, fat].map((image, i) => folder.write(`far${i}.img`, image));
    const shell = await inProcess(images.flatMap((file) => ["-drive", `file=${file},format=raw`]));
    await shell.run("save virtio 0 1000 /near 1000; save virtio 1 1000 /near 1000; mw.b 1000 5a 20");
    // One byte beyond 2 GiB of an ext4, beyond 4 GiB of a FAT; and a place that the disk has no room for.
    expect(await shell.run("save virtio 0 1000 /near 10 7ffffff1; echo $?")).toMatch(
      /beyond 2 GiB(.*\n)+1\n$/,
    );
    expect(await shell.run("save virtio 1 1000 /near 10 fffffff1; echo $?")).toMatch(
      /beyond 4 GiB(.*\n)+1\n$/,
    );
    expect(await shell.run("save virtio 1 1000 /near 10 100000010; echo $?")).toMatch(/4 GiB(.*\n)+1\n$/);
    expect(await shell.run("save virtio 1 1000 /near 10 200000; echo $?")).toMatch(/is full(.*\n)+1\n$/);
    for (const disk of [0, 1])
      expect(await shell.run(`load virtio ${disk} 4000 /near; cmp.b 4000 2000 1000`)).toMatch(
        /^4096 bytes read.*\nTotal of 4096 byte\(s\) were the same\n$/,
      );
    await shell.close();
  });

  test(needs("mkfs.vfat", "dosfstools", "FAT: every command ends with lines"), async () => {
    for (let seed = 0; seed < 4; seed++)
      expect(await broken(fat, seed, 16_384), `seed ${seed}`).toMatch(/end\n$/);
  });

  /** The image on a disk that after so many reads does something else. */
  function failing(image: Uint8Array, after: number, then: () => Promise<void>): VirtioDevice {
    const memory = new MemoryBlockBackend(image.slice());
    let reads = 0;
    const backend: BlockBackend = {
      size: memory.size,
      readOnly: false,
      asynchronous: true,
      read: (offset, target) => (++reads > after ? then() : memory.read(offset, target)),
      write: (offset, source) => memory.write(offset, source),
      flush: () => undefined,
    };
    return new BlkDevice(backend);
  }

  test(needs("mkfs.ext4", "e2fsprogs", "a disk that fails in the middle is said to fail"), async () => {
    for (const after of [0, 4, 6]) {
      const device = failing(ext, after, () => Promise.reject(new Error("broken")));
      const shell = new TestShell(new LyingTarget([device]));
      const shown = await shell.run("load virtio 0 100000 /boot/kernel.efi; echo end");
      expect(shown, `${after} reads`).toMatch(/blk: request of type 0 at sector \d+ failed\n(.*\n)*end\n$/);
      await shell.close();
    }
  });

  test(
    needs("mkfs.ext4", "e2fsprogs", "Ctrl-C and the clock end a library that waits for its disk"),
    async () => {
      const hung = (): Promise<void> => new Promise(() => undefined);
      const patient = new TestShell(new LyingTarget([failing(ext, 5, hung)]));
      const interrupt = setInterval(() => patient.shell.interrupt(), 300);
      expect(await patient.run("load virtio 0 100000 /boot/kernel.efi; echo not here")).toMatch(
        /<INTERRUPT>\n$/,
      );
      clearInterval(interrupt);
      const hasty = new TestShell(new LyingTarget([failing(ext, 5, hung)]), { timeout: 300 });
      expect(await hasty.run("load virtio 0 100000 /boot/kernel.efi; echo end")).toMatch(
        /no answer in 0\.3 s\n.*\nend\n$/,
      );
      await Promise.all([patient.close(), hasty.close()]);
    },
  );
});

test("variables have room for so much together", async () => {
  const shell = await inProcess([]);
  const twenty = Array.from({ length: 20 }, (_, i) => `a${i}=$x`).join("; ");
  const doubled = `x=${"x".repeat((1 << 15) - 1)}; for i in 1 2 3 4 5; do x=$x$x; done`;
  expect(await shell.run(`${doubled}; ${twenty}; echo end`)).toBe(`${"too many variables\n".repeat(5)}end\n`);
  // What is given up can be used again.
  expect(await shell.run("a18=$x; a0=; a19=$x; echo end")).toBe("too many variables\nend\n");
  await shell.close();
});

test("names and lines of any length", async () => {
  const image = folder.write("plain.img", pattern(1 << 20));
  const shell = await inProcess(["-drive", `file=${image},format=raw`]);
  const long = "x".repeat(30_000);
  expect(await shell.run(`${long}; ls virtio 0 ${long}; echo end`)).toMatch(
    /^Unknown command 'x{80}' - try 'help'\n.*\nend\n$/,
  );
  expect(await shell.run("x".repeat(100_000))).toMatch(/characters\n$/);
  await shell.run(`setenv b ${long}; setenv c ${long.slice(8000)}`);
  expect(await shell.run(`setenv ${long} 1; setenv a ${long}; echo end`)).toMatch(
    /is no name for a variable\n## Error: environment overflow.*\nend\n$/,
  );
  expect(await shell.run("setenv a 'run a'; run a; echo end")).toMatch(
    /^more than 32 scripts within each other\nend\n$/,
  );
  expect(await shell.run(`setenv a '${"y ".repeat(70)}'; echo $a; echo end`)).toMatch(
    /^\*\* Too many args.*\nend\n$/,
  );
  setTimeout(() => shell.shell.interrupt(), 100);
  expect(await shell.run("while true; do true; done; echo not here")).toBe("<INTERRUPT>\n");
  await shell.close();
});
