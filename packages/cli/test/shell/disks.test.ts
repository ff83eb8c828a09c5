import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { findProgram, needs } from "@virtio/testkit/needs";
import {
  KERNEL,
  TemporaryFolder,
  copyOf,
  extImage,
  fatImage,
  partitionedImage,
  pattern,
  putAt,
  run,
  sampleRoot,
} from "./lib/images.ts";
import { inProcess, onQemu } from "./lib/shell.ts";

const folder = new TemporaryFolder();
afterAll(() => folder.remove());
const ext = findProgram("mkfs.ext4") !== undefined;
const fat = findProgram("mkfs.vfat") !== undefined;
const table = findProgram("sfdisk") !== undefined && ext && fat;

/** Commands on disks of ours; gives what they print. */
async function onDisks(images: readonly string[], commands: string): Promise<string> {
  const shell = await inProcess(images.flatMap((file) => ["-drive", `file=${file},format=raw`]));
  try {
    return await shell.run(commands);
  } finally {
    await shell.close();
  }
}

/** Each file command starts a thread; several engineers' tests may share two cores. */

describe.skipIf(!table)("partition tables, as sfdisk makes and reads them", () => {
  test(needs("sfdisk", "fdisk", "MBR with an extended partition; virtio 0:N is its N-th"), async () => {
    const disk = partitionedImage(
      folder.file("mbr.img"),
      64,
      "label: dos\nlabel-id: 0x12345678\nstart=2048, size=20480, type=c, bootable\n" +
        "start=32768, size=32768, type=83\nstart=65536, type=5\nstart=67584, size=32768, type=83\n",
    );
    const root = extImage(folder.file("part.img"), sampleRoot(folder), "16M");
    putAt(disk, 2048, fatImage(folder.file("boot.img"), 10_240, 16));
    putAt(disk, 32768, root);
    putAt(disk, 67584, root);
    const shown = await onDisks([disk], "virtio part");
    expect(shown).toContain(
      "Partition Map for virtio device 0  --   Partition Type: DOS\n\nPart\tStart Sector\tNum Sectors\tUUID\t\tType\n",
    );
    const { partitions } = (
      JSON.parse(run("sfdisk", ["-J", disk])) as { partitiontable: { partitions: Entry[] } }
    ).partitiontable;
    for (const { node, start, size, type, bootable } of partitions) {
      const number = Number(/(\d+)$/.exec(node)?.[1]);
      const row = `${String(number).padStart(3)}\t${String(start).padEnd(10)}\t${String(size).padEnd(10)}\t12345678-0${number}\t${type.padStart(2, "0")}`;
      expect(shown).toContain(`${row}${type === "5" ? " Extd" : ""}${bootable === true ? " Boot" : ""}\n`);
    }
    expect(await onDisks([disk], "fstype virtio 0:1; fstype virtio 0:2; fstype virtio 0:5")).toBe(
      "fat\next4\next4\n",
    );
    expect(await onDisks([disk], "ls virtio 0:5 /boot")).toContain(
      "<DIR>       1024 deep\n          149280 kernel.efi\n",
    );
    expect(await onDisks([disk], "ls virtio 0:3")).toBe("** Invalid partition 3 **\n");
    expect(await onDisks([disk], "ls virtio 0:7 /")).toBe("** Invalid partition 7 **\n");
    expect(await onDisks([disk], "ls virtio 0:x /")).toBe("** Bad partition specification virtio 0:x **\n");
    expect(await onDisks([disk], "ls virtio 1 /")).toBe("** Bad device specification virtio 1 **\n");
    expect(await onDisks([disk], "ls mmc 0 /")).toBe("** Bad device specification mmc 0 **\n");
  });

  test(
    needs("sfdisk", "fdisk", "GPT: names, types, attributes; the backup when the first one is broken"),
    async () => {
      const disk = partitionedImage(
        folder.file("gpt.img"),
        64,
        'label: gpt\nstart=2048, size=32768, type=L, name="root fs"\nstart=34816, size=20480, type=U, name="EFI", attrs="LegacyBIOSBootable"\n',
      );
      putAt(disk, 2048, extImage(folder.file("gpt-root.img"), sampleRoot(folder), "16M"));
      putAt(disk, 34816, fatImage(folder.file("gpt-boot.img"), 10_240, 16));
      const { partitions } = (
        JSON.parse(run("sfdisk", ["-J", disk])) as { partitiontable: { partitions: Entry[] } }
      ).partitiontable;
      const shown = await onDisks([disk], "virtio part 0");
      expect(shown).toContain(
        "Partition Type: EFI\n\nPart\tStart LBA\tEnd LBA\t\tName\n\tAttributes\n\tType GUID\n\tPartition GUID\n",
      );
      for (const [index, { start, size, type, uuid, name }] of partitions.entries()) {
        const hex = (value: number): string => `0x${value.toString(16).padStart(8, "0")}`;
        const attributes = index === 1 ? "0000000000000004" : "0000000000000000";
        expect(shown).toContain(
          `  ${index + 1}\t${hex(start)}\t${hex(start + size - 1)}\t"${name}"\n\tattrs:\t0x${attributes}\n` +
            `\ttype:\t${type.toLowerCase()}\n\tguid:\t${uuid?.toLowerCase()}\n`,
        );
      }
      // Without a number it is partition 1, `auto` the one that can be booted.
      expect(await onDisks([disk], "fstype virtio 0; fstype virtio 0:auto; fstype virtio 0:2")).toBe(
        "ext4\nfat\nfat\n",
      );
      const bytes = readFileSync(disk);
      bytes.fill(0x5a, 512, 1024);
      writeFileSync(disk, bytes);
      expect(await onDisks([disk], "virtio part 0")).toBe(shown);
    },
  );

  interface Entry {
    readonly node: string;
    readonly start: number;
    readonly size: number;
    readonly type: string;
    readonly bootable?: boolean;
    readonly name?: string;
    readonly uuid?: string;
  }
});

describe.skipIf(!ext)("ext2, ext3 and ext4", () => {
  test(needs("mkfs.ext4", "e2fsprogs", "ls, size and load, and what cannot be"), async () => {
    const image = extImage(folder.file("look.img"), sampleRoot(folder));
    const shell = await inProcess(["-drive", `file=${image}`]);
    const listing = (await shell.run("ls virtio 0 /")).trimEnd().split("\n");
    expect(listing.sort()).toEqual([
      "              13 hello",
      "<DIR>       1024 .",
      "<DIR>       1024 ..",
      "<DIR>       1024 boot",
      "<DIR>      12288 lost+found",
      "<SYM>          8 dangling",
      "<SYM>         15 link",
    ]);
    expect(await shell.run("load virtio 0 200000 /link 100 200")).toMatch(/^256 bytes read/);
    expect(Buffer.compare(shell.shell.memory.readable(0x200000, 256), KERNEL.subarray(0x200, 0x300))).toBe(0);
    expect(await shell.run("size virtio 0 boot/../boot/kernel.efi; printenv filesize")).toBe(
      "filesize=24720\n",
    );
    expect(await shell.run("size virtio 0 /boot; printenv filesize")).toBe("filesize=0\n");
    expect(await shell.run("ls virtio 0 /hello")).toBe('"/hello" is no directory\n');
    expect(await shell.run("ls virtio 0 /none")).toBe("no such file or directory\n");
    expect(await shell.run("load virtio 0 1000 /dangling")).toBe(
      "no such file or directory\nFailed to load '/dangling'\n",
    );
    expect(await shell.run("load virtio 0 1000 /boot")).toMatch(/is no file/);
    await shell.close();
  });

  test.each(["ext2", "ext3", "ext4"])(
    needs("mkfs.ext4", "e2fsprogs", "%s: load and save, also until it is full; e2fsck finds it whole"),
    async (type) => {
      const image = extImage(folder.file(`${type}.img`), sampleRoot(folder), "8M", type);
      const shell = await inProcess(["-drive", `file=${image}`]);
      expect(await shell.run("load virtio 0 100000 /boot/kernel.efi")).toMatch(/^149280 bytes read/);
      expect(Buffer.compare(shell.shell.memory.readable(0x100000, KERNEL.length), KERNEL)).toBe(0);
      // A file of some size, so that blocks are allocated all over.
      const large = pattern(3_000_001, 9);
      shell.shell.memory.writable(0x1000000, large.length).set(large);
      expect(
        await shell.run("save virtio 0 1000000 /boot/deep/large 2dc6c1; save virtio 0 1000000 /hello 5"),
      ).toMatch(/^3000001 bytes written.*\n5 bytes written/);
      await shell.run("mw.b 1000000 0 2dc6c1; load virtio 0 1000000 /boot/deep/large");
      expect(Buffer.compare(shell.shell.memory.readable(0x1000000, large.length), large)).toBe(0);
      expect(await shell.run("save virtio 0 1000000 /fill 800000")).toBe(
        "the file system is full\n** Unable to write file /fill **\n",
      );
      await shell.close();
      // 4: errors are left. Nothing is repaired with -n.
      expect(run("e2fsck", ["-fn", image])).toMatch(/Pass 5/);
    },
  );

  test(
    needs(
      "mkfs.ext4",
      "e2fsprogs",
      "nothing is written by looking; a disk may be read-only; a journal is not written past",
    ),
    async () => {
      const image = extImage(folder.file("quiet.img"), sampleRoot(folder));
      const before = readFileSync(image);
      await onDisks(
        [image],
        "ls virtio 0 /; load virtio 0 1000 /hello; size virtio 0 /hello; fstype virtio 0",
      );
      expect(readFileSync(image).equals(before)).toBe(true);
      const shell = await inProcess(["-drive", `file=${image},readonly=on`]);
      expect(await shell.run("save virtio 0 1000 /new 10")).toMatch(/^the disk is read-only\n/);
      await shell.close();
      // INCOMPAT_RECOVER.
      const dirty = copyOf(folder, image, "dirty.img");
      const bytes = readFileSync(dirty);
      bytes[1024 + 96] = (bytes[1024 + 96] ?? 0) | 4;
      writeFileSync(dirty, bytes);
      expect(await onDisks([dirty], "save virtio 0 1000 /new 10")).toMatch(
        /^its journal must be replayed first/,
      );
    },
  );
});

describe.skipIf(!ext)("features of ext4", () => {
  const image = (name: string, features: string): string => {
    const path = folder.file(`${name}.img`);
    run("mkfs.ext4", ["-q", "-F", "-O", features, "-d", sampleRoot(folder), path, "32M"]);
    return path;
  };
  const MASKS = { incompat: 1024 + 96, readOnly: 1024 + 100 };
  const setBit = (path: string, at: number, bit: number): void => {
    const bytes = readFileSync(path);
    bytes.writeUInt32LE((bytes.readUInt32LE(at) | bit) >>> 0, at);
    writeFileSync(path, bytes);
  };
  const look = "load virtio 0 100000 /boot/kernel.efi; save virtio 0 100000 /new 10";

  test.each([
    ["verity", "verity"],
    ["casefold", "casefold"],
    ["mmp", "mmp"],
    ["verity,metadata_csum_seed,orphan_file", "verity"],
  ])(
    needs("mkfs.ext4", "e2fsprogs", "%s: all is read, nothing is written, and why is said"),
    async (features, named) => {
      const path = image(features.replaceAll(",", "-"), features);
      const before = readFileSync(path);
      const shell = await inProcess(["-drive", `file=${path}`]);
      expect(await shell.run(look)).toMatch(
        new RegExp(`^149280 bytes read.*\\nit can only be read here, for its feature ${named}\\n`),
      );
      expect(Buffer.compare(shell.shell.memory.readable(0x100000, KERNEL.length), KERNEL)).toBe(0);
      expect(await shell.run("ls virtio 0 /")).toContain("13 hello");
      await shell.close();
      expect(readFileSync(path).equals(before)).toBe(true);
    },
  );

  test(
    needs("mkfs.ext4", "e2fsprogs", "copied while it was mounted: read; nothing is written past its journal"),
    async () => {
      const path = image("mounted", "orphan_file,metadata_csum_seed");
      setBit(path, MASKS.readOnly, 0x1_0000);
      setBit(path, MASKS.incompat, 4);
      expect(await onDisks([path], look)).toMatch(/^149280 bytes read.*\nits journal must be replayed first/);
    },
  );

  test(
    needs("mkfs.ext4", "e2fsprogs", "a bit of the future: read where a reader need not know it, else named"),
    async () => {
      const path = image("future", "extents");
      setBit(path, MASKS.readOnly, 0x4000_0000);
      expect(await onDisks([path], look)).toMatch(
        /^149280 bytes read.*\nit can only be read here, for its feature ro_compat bit 0x40000000\n/,
      );
      setBit(path, MASKS.incompat, 0x8000_0000);
      const refused = "its feature incompat bit 0x80000000 is not supported here";
      expect(await onDisks([path], "ls virtio 0 /")).toBe(`${refused}\n`);
      expect(await onDisks([image("cluster", "bigalloc")], "ls virtio 0 /")).toBe(
        "its feature bigalloc is not supported here\n",
      );
    },
  );
});

describe.skipIf(!fat)("FAT", () => {
  test.each([
    [12, 2048],
    [16, 10_240],
    [32, 65_536],
  ] as const)(
    needs("mkfs.vfat", "dosfstools", "FAT%d: save, ls, load; fsck.vfat finds it whole"),
    async (bits, kilobytes) => {
      const image = fatImage(folder.file(`fat${bits}.img`), kilobytes, bits);
      const shell = await inProcess(["-drive", `file=${image}`]);
      expect(await shell.run("fstype virtio 0; fstype virtio 0 type; printenv type")).toBe("fat\ntype=fat\n");
      expect(await shell.run("ls virtio 0 /")).toBe("\n0 file(s), 0 dir(s)\n\n");
      shell.shell.memory.writable(0x100000, KERNEL.length).set(KERNEL);
      expect(await shell.run('save virtio 0 100000 "a long name.efi" 24720')).toMatch(
        /^149280 bytes written/,
      );
      expect(await shell.run("save virtio 0 100000 SHORT.BIN 10")).toMatch(/^16 bytes written/);
      expect(await shell.run("ls virtio 0 /")).toBe(
        "   149280   a long name.efi\n       16   SHORT.BIN\n\n2 file(s), 0 dir(s)\n\n",
      );
      expect(await shell.run('load virtio 0 400000 "/A Long Name.EFI"; cmp.b 100000 400000 24720')).toContain(
        "Total of 149280 byte(s) were the same",
      );
      expect(await shell.run("load virtio 0 400000 short.bin 8 4")).toMatch(/^8 bytes read/);
      expect(
        await shell.run("save virtio 0 100000 short.bin 8 c; size virtio 0 short.bin; printenv filesize"),
      ).toContain("filesize=14\n");
      expect(await shell.run("load virtio 0 1000 none")).toMatch(
        /"none": no such file\nFailed to load 'none'/,
      );
      expect(await shell.run("ls virtio 0 /none")).toMatch(/no such directory/);
      if (bits === 12) expect(await shell.run("save virtio 0 1000 big 400000")).toMatch(/full/);
      await shell.close();
      if (bits !== 12) run("fsck.vfat", ["-n", image]);
    },
  );
});

const largeBlocks = ext && fat && findProgram("qemu-system-arm") !== undefined;

test.skipIf(!largeBlocks)(
  needs(
    "qemu-system-arm",
    "qemu-system-arm",
    "logical blocks of 4096 bytes: tables count in them, requests are whole ones",
  ),
  async () => {
    const root = extImage(folder.file("4k-root.img"), sampleRoot(folder), "8M", "ext4", 4096);
    const boot = folder.file("4k-boot.img");
    run("mkfs.vfat", ["-S", "4096", "-C", boot, "16384"]);
    const disk = folder.write("4k.img", new Uint8Array(32 << 20));
    const table = new Uint8Array(512);
    const entries = new DataView(table.buffer, 446);
    for (const [index, type, start, blocks] of [
      [0, 0x83, 256, 2048],
      [1, 0x0c, 2304, 4096],
    ] as const) {
      entries.setUint8(16 * index + 4, type);
      entries.setUint32(16 * index + 8, start, true);
      entries.setUint32(16 * index + 12, blocks, true);
    }
    table.set([0x55, 0xaa], 510);
    putAt(disk, 0, folder.write("table.img", table));
    putAt(disk, 256 * 8, root);
    putAt(disk, 2304 * 8, boot);
    const shell = await onQemu(
      `qemu-system-arm -M versatilepb -drive if=none,file=${disk},format=raw,id=d ` +
        "-device virtio-blk-pci,drive=d,logical_block_size=4096,physical_block_size=4096",
    );
    expect(await shell.run("virtio info")).toContain("Capacity: 32.0 MB = 0.0 GB (8192 x 4096)");
    expect(await shell.run("virtio part")).toMatch(/ {2}1\t256 +\t2048 +\t.*\n {2}2\t2304 +\t4096 /);
    expect(await shell.run("load virtio 0 $loadaddr /boot/kernel.efi")).toMatch(/^149280 bytes read/);
    const { memory } = shell.shell;
    expect(Buffer.compare(memory.readable(memory.start, KERNEL.length), KERNEL)).toBe(0);
    expect(
      await shell.run("save virtio 0 $loadaddr /new $filesize; save virtio 0:2 $loadaddr new $filesize"),
    ).toMatch(/^149280 bytes written.*\n149280 bytes written/);
    expect(
      await shell.run("load virtio 0:2 $kernel_addr_r new; cmp.b $loadaddr $kernel_addr_r 24720"),
    ).toContain("Total of 149280 byte(s) were the same");
    expect(await shell.run("virtio read $loadaddr 1fff 1; virtio read $loadaddr 1fff 2")).toMatch(
      /1 blocks read: OK\n(.*\n)*.*0 blocks read: ERROR\n/,
    );
    await shell.close();
    const bytes = readFileSync(disk);
    run("e2fsck", ["-fn", folder.write("4k-root.img", bytes.subarray(256 * 4096, 2304 * 4096))]);
    run("fsck.vfat", ["-n", folder.write("4k-boot.img", bytes.subarray(2304 * 4096, 6400 * 4096))]);
  },
);

test("9p: ls, load, save, size", async () => {
  const share = folder.file("share");
  mkdirSync(join(share, "sub"), { recursive: true });
  writeFileSync(join(share, "kernel"), KERNEL);
  const shell = await inProcess(["-virtfs", `local,path=${share},mount_tag=t`]);
  expect(await shell.run("fstype 9p 0")).toBe("9p\n");
  const lines = (await shell.run("ls 9p 0 /")).trimEnd().split("\n");
  expect(lines).toContain("          149280 kernel".padStart(0));
  expect(lines.filter((line) => / (\.|\.\.|sub)$/.test(line))).toHaveLength(3);
  expect(await shell.run("load 9p 0 100000 /kernel; save 9p 0 100000 sub/copy 24720")).toMatch(
    /149280 bytes read.*\n149280 bytes written/,
  );
  expect(readFileSync(join(share, "sub", "copy")).equals(KERNEL)).toBe(true);
  expect(await shell.run("save 9p 0 100000 sub/copy 4; ls 9p 0 sub")).toMatch(/ 4 copy\n/);
  expect(await shell.run("size 9p 0 kernel; printenv filesize")).toBe("filesize=24720\n");
  expect(await shell.run("load 9p 0 1000 none")).toBe("no such file or directory\nFailed to load 'none'\n");
  expect(await shell.run("ls 9p 0 kernel")).toMatch(/no directory/);
  expect(await shell.run("ls 9p 0:1")).toMatch(/Bad device/);
  await shell.close();
});

test("virtio read and write", async () => {
  const image = folder.write("raw.img", pattern(1 << 20));
  const shell = await inProcess(["-drive", `file=${image},format=raw`]);
  expect(await shell.run("virtio read 100000 10 20")).toBe(
    "\nvirtio read: device 0 block # 16, count 32 ... 32 blocks read: OK\n",
  );
  expect(
    Buffer.compare(
      shell.shell.memory.readable(0x100000, 32 * 512),
      pattern(1 << 20).subarray(16 * 512, 48 * 512),
    ),
  ).toBe(0);
  expect(await shell.run("mw.b 100000 aa 400; virtio write 100000 7ff 1")).toBe(
    "\nvirtio write: device 0 block # 2047, count 1 ... 1 blocks written: OK\n",
  );
  expect(
    readFileSync(image)
      .subarray(-512)
      .every((byte) => byte === 0xaa),
  ).toBe(true);
  expect(await shell.run("virtio write 100000 7ff 2")).toMatch(
    /count 2 \.\.\. 0 blocks written: ERROR\nblk: 2 sectors at 2047 do not fit/,
  );
  expect(await shell.run("virtio read 100000 0 fffffff")).toMatch(/not in the shell's memory/);
  expect(await shell.run("virtio part")).toBe("\nno virtio partition table available\n");
  expect(await shell.run("virtio device")).toMatch(/^\nIDE device 0: 00001af4 VirtIO Block Device\n/);
  expect(await shell.run("virtio device 0")).toMatch(
    /^\nDevice 0: 00001af4 VirtIO Block Device\n(.*\n)*\.\.\. is now current device\n$/,
  );
  expect(await shell.run("virtio device 1; virtio read 1000 0 1")).toMatch(
    /^\nDevice 1: unknown device\n\nvirtio read/,
  );
  await shell.close();
});
