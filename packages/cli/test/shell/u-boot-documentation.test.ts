import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { KERNEL, TemporaryFolder, extImage, fatImage } from "./lib/images.ts";
import { inProcess, onQemu, type TestShell } from "./lib/shell.ts";

/**
 * U-Boot's documentation as a script: what its pages type, typed here, and the lines that they show. Sizes and times are those
 * of our images, and are compared by their form.
 */
const ready = findProgram("qemu-system-arm") !== undefined && findProgram("mkfs.ext4") !== undefined;
const fat = findProgram("mkfs.vfat") !== undefined;

const folder = new TemporaryFolder();
afterAll(() => folder.remove());

/** The entries of the page's listing, but for `.` and `..`: those with a size, directories, symbolic links. */
const DIRECTORIES = [
  "dev",
  "proc",
  "sys",
  "var",
  "etc",
  "usr",
  "run",
  "boot",
  "home",
  "media",
  "mnt",
  "opt",
  "root",
  "srv",
  "tmp",
];
const LINKS = { bin: "usr/bin", sbin: "usr/sbin", lib: "usr/lib", lib64: "usr/lib64" };

describe.skipIf(!ready)("doc/develop/driver-model/virtio.rst", () => {
  let shell: TestShell;
  beforeAll(async () => {
    const root = folder.file("root");
    for (const name of DIRECTORIES) mkdirSync(join(root, name), { recursive: true });
    for (const [name, target] of Object.entries(LINKS)) symlinkSync(target, join(root, name));
    writeFileSync(join(root, ".autorelabel"), "");
    const image = extImage(folder.file("test.img"), root, "4G");
    // Its command line on ARM, with a network of QEMU's own in place of a TAP.
    shell = await onQemu(
      "qemu-system-arm -nographic -machine virt -netdev user,id=net0 -device virtio-net-device,netdev=net0 " +
        `-drive if=none,file=${image},format=raw,id=hd0 -device virtio-blk-device,drive=hd0`,
    );
  });
  afterAll(() => shell?.close());

  test(needs("qemu-system-arm", "qemu-system-arm", "virtio: its usage"), async () => {
    expect(await shell.run("virtio")).toBe(
      [
        "virtio - virtio block devices sub-system",
        "",
        "Usage:",
        "virtio scan - initialize virtio bus",
        "virtio info - show all available virtio block devices",
        "virtio device [dev] - show or set current virtio block device",
        "virtio part [dev] - print partition table of one or all virtio block devices",
        "virtio read addr blk# cnt - read `cnt' blocks starting at block",
        "     `blk#' to memory address `addr'",
        "virtio write addr blk# cnt - write `cnt' blocks starting at block",
        "     `blk#' from memory address `addr'",
        "",
      ].join("\n"),
    );
    expect(shell.status).toBe(1);
  });

  test(
    needs("qemu-system-arm", "qemu-system-arm", clause("drv.blk.init", "virtio scan, virtio info: 4 GiB")),
    async () => {
      expect(await shell.run("virtio scan")).toBe("");
      expect(await shell.run("virtio info")).toBe(
        "Device 0: QEMU VirtIO Block Device\n            Type: Hard Disk\n" +
          "            Capacity: 4096.0 MB = 4.0 GB (8388608 x 512)\n",
      );
    },
  );

  test(needs("qemu-system-arm", "qemu-system-arm", "ls virtio 0 /: the same lines"), async () => {
    const lines = (await shell.run("ls virtio 0 /")).trimEnd().split("\n");
    expect(lines.slice(0, 2)).toEqual(["<DIR>       4096 .", "<DIR>       4096 .."]);
    const expected = [
      "<DIR>       4096 .",
      "<DIR>       4096 ..",
      "<DIR>      16384 lost+found",
      ...DIRECTORIES.map((name) => `<DIR>       4096 ${name}`),
      ...Object.entries(LINKS).map(([name, target]) => `<SYM>          ${target.length} ${name}`),
      "               0 .autorelabel",
    ];
    expect(lines.sort()).toEqual(expected.sort());
  });
});

describe("doc/usage/cmd", () => {
  let shell: TestShell;
  beforeAll(async () => {
    if (fat) fatImage(folder.file("card.img"), 4096, 12);
    else writeFileSync(folder.file("card.img"), new Uint8Array(1 << 20));
    shell = await inProcess(["-drive", `file=${folder.file("card.img")}`, "-device", "virtio-rng-pci"]);
  });
  afterAll(() => shell?.close());

  test.skipIf(!fat)(needs("mkfs.vfat", "dosfstools", "load.rst"), async () => {
    shell.shell.memory.writable(0x100000, KERNEL.length).set(KERNEL);
    expect(await shell.run("save virtio 0 100000 snp.efi 24720")).toMatch(
      /^149280 bytes written in \d+ ms( \([\d.]+ [KMG]iB\/s\))?\n$/,
    );
    const load = (rest: string): Promise<string> =>
      shell.run(`load virtio 0 \${kernel_addr_r} snp.efi${rest}`);
    expect(await load("")).toMatch(/^149280 bytes read in \d+ ms( \([\d.]+ [KMG]iB\/s\))?\n$/);
    expect(await load(" 1000000")).toMatch(/^149280 bytes read in \d+ ms/);
    expect(await load(" 1000000 100")).toMatch(/^149024 bytes read in \d+ ms/);
    expect(await shell.run("printenv filesize fileaddr")).toBe("filesize=24620\nfileaddr=1000\n");
    expect(await load(" 10")).toMatch(/^16 bytes read in \d+ ms/);
    expect(await shell.run("load virtio 0 1000 nothing; echo $?")).toMatch(
      /\nFailed to load 'nothing'\n1\n$/,
    );
  });

  test("md.rst", async () => {
    for (const [index, word] of ["00010000", "00000000", "f0f30f00", "00005596"].entries())
      await shell.run(`mw ${(0x10000 + 4 * index).toString(16)} ${word}`);
    await shell.run("mw 10010 10011010; mw 10014 0; mw 10018 10011010; mw 1001c 0");
    expect((await shell.run("md 10000")).split("\n").slice(0, 2)).toEqual([
      "00010000: 00010000 00000000 f0f30f00 00005596    .............U..",
      "00010010: 10011010 00000000 10011010 00000000    ................",
    ]);
    expect((await shell.run("md.b 10000")).split("\n")).toHaveLength(5);
    const first = "00010000: 00 00 01 00 00 00 00 00 00 0f f3 f0 96 55 00 00    .............U..\n";
    const second = "00010010: 10 10 01 10 00 00 00 00 10 10 01 10 00 00 00 00    ................\n";
    await shell.run("");
    await shell.shell.type("md.b 10000 10");
    expect(shell.output).toBe(first);
    await shell.shell.type("");
    expect(shell.output).toBe(first + second);
    expect((await shell.run("md.q 10000")).split("\n")[0]).toBe(
      "00010000: 0000000000010000 00005596f0f30f00    .............U..",
    );
    expect((await shell.run("md.q 10000")).split("\n")).toHaveLength(33);
  });

  test("echo.rst", async () => {
    expect(await shell.run(`echo "a" 'b' c`)).toBe("a b c\n");
    expect(await shell.run(`env set var X; echo "a)" \${var} 'b)' '\${var}' c) \${var}`)).toBe(
      "a) X b) ${var} c) X\n",
    );
    expect(await shell.run("echo -n 1 2 3; echo a b c")).toBe("1 2 3a b c\n");
    expect(await shell.run("echo -n 1 2 3")).toBe("1 2 3");
    expect(
      await shell.run('for i in a b c; do for j in 1 2 3; do echo -n "${i}${j}, "; done; echo; done;'),
    ).toBe("a1, a2, a3, \nb1, b2, b3, \nc1, c2, c3, \n");
  });

  test("exit.rst: only the innermost script is left", async () => {
    await shell.run("env set inner 'echo entry inner; exit; echo inner done'");
    await shell.run("env set outer 'echo entry outer; run inner; echo outer done'");
    expect(await shell.run("run outer")).toBe("entry outer\nentry inner\nouter done\n");
  });

  test("true.rst, printenv.rst", async () => {
    expect(await shell.run("true; echo $?")).toBe("0\n");
    await shell.run("env set .foo bar");
    expect(await shell.run("printenv")).not.toContain(".foo");
    expect(await shell.run("printenv -a")).toMatch(
      /^\.foo=bar\n(.*\n)*\nEnvironment size: \d+\/\d+ bytes\n$/,
    );
    expect(await shell.run("printenv none; echo $?")).toBe('## Error: "none" not defined\n1\n');
  });

  test(clause("drv.entropy.operation", "rng.rst: 64 bytes at most"), async () => {
    const row = "[0-9a-f]{8}: ([0-9a-f]{2} ){16} .{16}\n";
    expect(await shell.run("rng")).toMatch(new RegExp(`^(${row}){4}$`));
    expect(await shell.run("rng 0 1000")).toMatch(new RegExp(`^(${row}){4}$`));
    expect(await shell.run("rng 0 10")).toMatch(new RegExp(`^${row}$`));
    expect(await shell.run("rng list")).toMatch(/^RNG #0 - virtio-rng#0/);
    expect(await shell.run("rng 5")).toBe("No RNG device\n");
  });

  test("bdinfo.rst: -m and -e are parts of it", async () => {
    const dram = await shell.run("bdinfo -m");
    expect(dram).toMatch(
      /^DRAM bank {3}= 0x0{16}\n-> start {4}= 0x[0-9a-f]{16}\n-> size {5}= 0x[0-9a-f]{16}\n$/,
    );
    expect(await shell.run("bdinfo")).toContain(dram);
    expect(await shell.run("bdinfo -a")).toBe(await shell.run("bdinfo"));
  });
});
