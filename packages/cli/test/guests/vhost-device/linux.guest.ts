import type { ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import { needs } from "@virtio/testkit/needs";
import { installGuest } from "@virtio/cli/guest/assets";
import { CpioWriter } from "@virtio/cli/guest/cpio";
import { ModuleTree } from "@virtio/cli/guest/modules";
import { unpackPackage } from "@virtio/cli/guest/packages";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import type { VsockDriver } from "virtio/drivers/vsock/driver";
import { outputOf, type Console } from "../lib/console.ts";
import * as machine from "../x86/lib/guest.ts";
import { CID, SIBLING, all, openDriver, send, startDevices } from "./lib/device.ts";
import { ECONNRESET, LinuxSockets, SHUT_WR } from "./lib/linux-sockets.ts";

const KIB = 1024;
/** More than Linux gives credit for at a time, which is 256 KiB. */
const DATA = Buffer.alloc(600 * KIB, "what a driver says to Linux, and Linux to a driver; ");
const ROOM = 1 << 20;
const PACKET = 4096;

/** Our driver on one device of vhost-device-vsock, Linux 6.1 on the other, and connections between both. */
describe.skipIf(!machine.hasQemu)("vsock with Linux at the other end", () => {
  let folder = "";
  let devices: ChildProcess | undefined;
  let guest: Console | undefined;
  let driver: VsockDriver;
  let linux: LinuxSockets;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "virtio-vsock-"));
    devices = await startDevices(folder);
    guest = await startGuest(folder);
    linux = await LinuxSockets.open(join(folder, "calls"), ROOM);
    driver = await openDriver(join(folder, "vhost0"));
  });

  afterAll(async () => {
    await driver?.close();
    linux?.end();
    guest?.kill();
    devices?.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  });

  /** All that comes, to the guest's memory. */
  async function readAll(socket: number, length: number): Promise<void> {
    for (let at = 0; at < length;) at += await linux.read(socket, at, length - at);
  }

  async function writeAll(socket: number, length: number): Promise<void> {
    for (let at = 0; at < length; at += PACKET) await linux.write(socket, at, Math.min(PACKET, length - at));
  }

  test(needs(machine.QEMU, machine.DEBIAN_PACKAGE, "each refuses where nobody listens"), async () => {
    const refused = driver.connect({ cid: SIBLING, port: 999 });
    await expect(refused).rejects.toMatchObject({ code: "refused" });
    expect(await linux.connect(CID, 999)).toBe(ECONNRESET);
  });

  test(
    needs(
      machine.QEMU,
      machine.DEBIAN_PACKAGE,
      clause("drv.vsock.credit", "we connect, 600 KiB each way, and we end our direction first"),
    ),
    async () => {
      const listener = await linux.listen(5000);
      const socket = await driver.connect({ cid: SIBLING, port: 5000 }, { receiveBuffer: 100_000 });
      const there = await linux.accept(listener);
      const sending = send(socket, DATA).then(() => socket.end());
      await readAll(there, DATA.length);
      await sending;
      expect(await linux.read(there, 0, 1)).toBe(0);
      // The other direction is open.
      const reading = all(socket);
      await writeAll(there, DATA.length);
      await linux.shutdown(there, SHUT_WR);
      expect((await reading).equals(DATA)).toBe(true);
      await socket.close();
      await linux.close(there);
      await linux.close(listener);
    },
  );

  test(
    needs(machine.QEMU, machine.DEBIAN_PACKAGE, "Linux connects, and ends its direction first"),
    async () => {
      const listener = driver.listen(6000);
      const there = await linux.connect(CID, 6000);
      expect(there).toBeGreaterThan(0);
      const socket = await listener.accept();
      if (socket === undefined) throw new Error("nobody came");
      expect(socket.remote.cid).toBe(SIBLING);
      await linux.shutdown(there, SHUT_WR);
      expect(await socket.read()).toBeUndefined();
      const sending = send(socket, DATA);
      await readAll(there, DATA.length);
      await sending;
      await socket.close();
      expect(await linux.read(there, 0, 1)).toBe(0);
      await linux.close(there);
      listener.close();
    },
  );
});

/** A guest with the other device, and its system calls at the socket `calls`. */
async function startGuest(folder: string): Promise<Console> {
  const progress = new Progress();
  const { release } = await installGuest(homeFolder(), progress);
  const boot = await machine.shellBoot(folder, "i386");
  // Beside what every guest has: the modules of the same kernel.
  const packages = join(homeFolder(), "apt", "packages");
  const kernel = readdirSync(packages).find((name) => name.startsWith(`linux-image-${release}_`));
  if (kernel === undefined) throw new Error(`no package of the kernel ${release}`);
  await unpackPackage(join(packages, kernel), join(folder, "kernel"));
  const tree = new ModuleTree(join(folder, "kernel/lib/modules", release));
  const modules = tree.closure(["vmw_vsock_virtio_transport"]);
  const archive = new CpioWriter();
  for (const { name, data } of modules) archive.file(`vsock/${name}.ko`, data);
  writeFileSync(boot.initrd, Buffer.concat([readFileSync(boot.initrd), archive.finish()]));
  const guest = machine.startQemu("guest", [
    ...machine.sharedMachine("pc", 128),
    ...`-chardev socket,id=v,path=${join(folder, "vhost1")} -device vhost-user-vsock-pci,chardev=v`.split(
      " ",
    ),
    ...`-chardev socket,id=c,path=${join(folder, "calls")},server=on,wait=off`.split(" "),
    ..."-device virtio-serial-pci -device virtserialport,chardev=c,name=calls".split(" "),
    ...machine.plain,
    ...machine.bootArguments(boot),
  ]);

  await machine.isUp(guest);
  const names = modules.map(({ name }) => name);
  await outputOf(
    guest,
    `modprobe virtio_console && for each in ${names.join(" ")}; do insmod /vsock/$each.ko || grep -q ^$each /proc/modules || exit 1; done`,
  );
  await outputOf(guest, "until [ -c /dev/vport*p1 ]; do sleep 0.1; done");
  guest.send("/sbin/syscalls <>$(echo /dev/vport*p1) >&0 &\n");
  return guest;
}
