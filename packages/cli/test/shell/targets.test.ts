import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { packageFolder } from "@virtio/cli/paths";
import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import { QemuTarget } from "@virtio/cli/shell/target/qemu";
import { VhostUserTarget, parseVhostUser } from "@virtio/cli/shell/target/vhost-user";
import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { KERNEL, TemporaryFolder, pattern } from "./lib/images.ts";
import { inProcess, onQemu, TestShell } from "./lib/shell.ts";

const folder = new TemporaryFolder();
afterAll(() => folder.remove());
const disk = folder.write("disk.img", pattern(4 << 20));
mkdirSync(folder.file("share"));
writeFileSync(folder.file("share/kernel"), KERNEL);

/** What every target must be able to do with a disk and a source of entropy. */
async function exercise(shell: TestShell): Promise<void> {
  expect(await shell.run("virtio scan; virtio info")).toMatch(
    /^Device 0: \S+ VirtIO Block Device\n {12}Type: Hard Disk\n {12}Capacity: 4\.0 MB = 0\.0 GB \(8192 x 512\)\n$/,
  );
  expect(await shell.run("virtio read $loadaddr 8 100")).toMatch(/256 blocks read: OK\n$/);
  const { memory } = shell.shell;
  const expected = pattern(4 << 20).subarray(8 * 512, (8 + 256) * 512);
  expect(Buffer.compare(memory.readable(memory.start, expected.length), expected)).toBe(0);
  expect(await shell.run("virtio write $loadaddr 1000 100; virtio read $kernel_addr_r 1000 100")).toMatch(
    /256 blocks written: OK\n(.*\n)*.*256 blocks read: OK\n$/,
  );
  expect(await shell.run("cmp.b $loadaddr $kernel_addr_r 20000")).toBe(
    "Total of 131072 byte(s) were the same\n",
  );
  expect(await shell.run("rng 0 40")).toMatch(/^(0{6}[0-3]0: .*\n){4}$/);
  expect(await shell.run("virtio list")).toMatch(/^blk0 .*driver running$/m);
  expect(await shell.run("virtio features blk0")).toMatch(
    /offered {2}0x[0-9a-f]{16}\n(.*\n)*.*FLUSH +accepted\n/,
  );
  const queue = await shell.run("virtio queue blk 0");
  expect(queue).toMatch(/virtqueue 0: (split|packed), \d+ descriptors/);
  expect(queue).toMatch(/\[ {2}0\] addr 0x[0-9a-f]{16} len/);
  expect(await shell.run("virtio regs entropy")).toMatch(/^entropy0 \(.*\)\n/);
  expect(await shell.run("virtio regs nothing")).toMatch(
    /^virtio device nothing not available; there are .*blk0/,
  );
  expect(await shell.run("bdinfo")).toMatch(/DRAM bank(.*\n)+.*shell RAM/);
  // What was running is let go and taken again.
  expect(await shell.run("virtio scan; virtio read $loadaddr 0 1; virtio scan; rng 0 1")).toContain(
    "1 blocks read: OK",
  );
  await shell.close();
}

const options = (bus: string): string =>
  `-drive if=none,file=${disk},format=raw,id=d,snapshot=on -device virtio-blk-${bus},drive=d -device virtio-rng-${bus}`;

const machines = [
  ["versatilepb", "qemu-system-arm", "qemu-system-arm", "pci", ""],
  ["virt", "qemu-system-arm", "qemu-system-arm", "device", ""],
  ["virt", "qemu-system-arm", "qemu-system-arm", "pci", ""],
  ["pc", "qemu-system-x86_64", "qemu-system-x86", "pci", ",packed=on"],
  ["pc", "qemu-system-x86_64", "qemu-system-x86", "pci", ",disable-modern=on,disable-legacy=off"],
] as const;

describe("QEMU machines", () => {
  for (const [machine, program, debianPackage, bus, properties] of machines) {
    test.skipIf(findProgram(program) === undefined)(
      needs(program, debianPackage, clause("drv.core.init", `${machine}, virtio-blk-${bus}${properties}`)),
      async () => {
        const devices = options(bus).replaceAll(/(-device virtio-\w+-\w+)/g, `$1${properties}`);
        await exercise(await onQemu(`${program} -M ${machine} ${devices}`));
      },
    );
  }

  test.skipIf(findProgram("qemu-system-arm") === undefined)(
    needs(
      "qemu-system-arm",
      "qemu-system-arm",
      "a directory that QEMU shares; devices without a driver here",
    ),
    async () => {
      const shell = await onQemu(
        `qemu-system-arm -M versatilepb -fsdev local,id=f,path=${folder.file("share")},security_model=none ` +
          "-device virtio-9p-pci,fsdev=f,mount_tag=t -device virtio-balloon-pci",
      );
      expect(await shell.run("load 9p 0 $loadaddr kernel; save 9p 0 $loadaddr copy $filesize")).toMatch(
        /^149280 bytes read.*\n149280 bytes written/,
      );
      expect(readFileSync(folder.file("share/copy")).equals(KERNEL)).toBe(true);
      expect(await shell.run("virtio list")).toMatch(/^balloon0 .*no driver here$/m);
      expect(await shell.run("virtio features balloon; virtio regs balloon; virtio queue balloon")).toMatch(
        /accepted nothing yet: no driver\n(.*\n)*.*device_status +0x00 +reset\n(.*\n)*.*no virtqueue is in use/,
      );
      expect(await shell.run("virtio info; virtio device")).toBe("\nno virtio devices available\n");
      expect(shell.status).toBe(1);
      await shell.close();
    },
  );

  test.skipIf(findProgram("qemu-system-arm") === undefined)(
    needs("qemu-system-arm", "qemu-system-arm", "a QEMU that is killed is said, and nothing hangs"),
    async () => {
      const target = await QemuTarget.open(`qemu-system-arm -M versatilepb ${options("pci")}`);
      const shell = new TestShell(target);
      const failures: Error[] = [];
      target.onFailure = (error) => failures.push(error);
      await shell.run("virtio scan");
      // The shell's own: its parent is this process.
      const pid = qemuOf(process.pid);
      process.kill(pid, "SIGKILL");
      expect(await shell.run("virtio read $loadaddr 0 1000")).toMatch(/ERROR|target is gone/);
      await vi.waitFor(() => expect(failures).toHaveLength(1), 20_000);
      expect(await shell.run("virtio info; rng; ls virtio 0; echo still here")).toMatch(
        /(## Error: the target is gone: .*\n){3}still here\n/,
      );
      await shell.close();
    },
  );

  test("what is no QEMU, or does not start, is an error that says why", async () => {
    await expect(QemuTarget.open("ls -l")).rejects.toThrow(/--qemu: 'ls' is no qemu-system program/);
    await expect(QemuTarget.open("qemu-system-arm '")).rejects.toThrow(/quote/);
    if (findProgram("qemu-system-arm") !== undefined)
      await expect(QemuTarget.open("qemu-system-arm -M nothing")).rejects.toThrow(/unsupported machine type/);
  });
});

/** The QEMU that this process started last. */
function qemuOf(parent: number): number {
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8")
    .trim()
    .split(" ")
    .map(Number);
  const qemu = children.filter((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("qemu-system"));
  const last = qemu.at(-1);
  if (last === undefined) throw new Error("no QEMU was started");
  return last;
}

describe("vhost-user", () => {
  let server: ChildProcess | undefined;
  afterEach(() => void server?.kill());

  test("two back-ends of virtio serve", async () => {
    const sockets = { blk: folder.file("blk.sock"), rng: folder.file("rng.sock") };
    const served = `blk --drive file=${disk},snapshot=on,format=raw --socket ${sockets.blk} entropy --socket ${sockets.rng}`;
    server = spawn(process.execPath, [
      join(packageFolder, "bin", "virtio.js"),
      "serve",
      ...served.split(" "),
    ]);
    await vi.waitFor(() => expect(existsSync(sockets.blk) && existsSync(sockets.rng)).toBe(true), 20_000);
    const target = new VhostUserTarget([
      parseVhostUser(`blk:${sockets.blk}`),
      parseVhostUser(`rng:${sockets.rng}`),
    ]);
    const shell = new TestShell(target);
    expect(await shell.run("virtio regs")).toContain(
      "vhost-user has no registers; device status ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK",
    );
    await exercise(shell);
  });

  test.skipIf(findProgram("qemu-storage-daemon") === undefined)(
    needs("qemu-storage-daemon", "qemu-system-common", "QEMU's own back-end"),
    async () => {
      const socket = folder.file("qsd.sock");
      const blockdev = `driver=file,node-name=d,filename=${disk},read-only=on`;
      const exported = `type=vhost-user-blk,id=e,addr.type=unix,addr.path=${socket},node-name=d`;
      server = spawn("qemu-storage-daemon", ["--blockdev", blockdev, "--export", exported]);
      await vi.waitFor(() => expect(existsSync(socket)).toBe(true), 20_000);
      const shell = new TestShell(new VhostUserTarget([parseVhostUser(`blk:${socket}`)]));
      expect(await shell.run("virtio info")).toMatch(
        /^Device 0: vhost-user VirtIO Block Device\n(.*\n)*.*\(8192 x 512\)/,
      );
      expect(await shell.run("virtio read $loadaddr 0 2000")).toMatch(/8192 blocks read: OK/);
      const { memory } = shell.shell;
      expect(Buffer.compare(memory.readable(memory.start, 4 << 20), pattern(4 << 20))).toBe(0);
      expect(await shell.run("virtio write $loadaddr 0 1")).toMatch(/ERROR\nblk: the device is read-only/);
      server.kill("SIGKILL");
      expect(await shell.run("virtio read $loadaddr 0 2000; virtio read $loadaddr 0 1; echo end")).toMatch(
        /ERROR\n(.*\n)*.*ERROR\n.*\nend\n$/,
      );
      await shell.close();
    },
  );

  test("nobody there is said, and the shell goes on", async () => {
    const shell = new TestShell(new VhostUserTarget([parseVhostUser("blk:/nowhere/disk.sock")]));
    expect(await shell.run("virtio scan")).toMatch(
      /^\*\* blk0 \(vhost-user \/nowhere\/disk\.sock\): .*: no such file or directory/,
    );
    expect(await shell.run("virtio info; virtio list")).toMatch(/cannot be opened/);
    await shell.close();
  });

  test("a back-end must be said to be something", () => {
    expect(parseVhostUser("net:/a:b")).toEqual({ deviceId: 1, socket: "/a:b" });
    for (const text of ["/tmp/disk.sock", "blk:", "nothing:/tmp/x", ""])
      expect(() => parseVhostUser(text)).toThrow(/--vhost-user .*blk:/);
  });
});

test("devices of ours in this process, modern, packed, transitional, legacy and MMIO", async () => {
  const drive = ["-drive", `if=none,file=${disk},format=raw,id=d,snapshot=on`];
  for (const properties of [
    "pci",
    "pci,packed=on",
    "pci,disable-legacy=off",
    "pci,disable-modern=on,disable-legacy=off",
    "device",
  ]) {
    const [bus = ""] = properties.split(",");
    await exercise(
      await inProcess([
        ...drive,
        "-device",
        `virtio-blk-${properties},drive=d`,
        "-device",
        `virtio-rng-${bus}`,
      ]),
    );
  }
  await expect(
    inProcess(["-device", "virtio-serial-pci", "-chardev", "stdio,id=c", "-device", "virtconsole,chardev=c"]),
  ).rejects.toThrow(/the shell has the terminal/);
});
