import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";

import { messageOf } from "@virtio/cli/user-error";
import { expect, test } from "vitest";

import { clause } from "@virtio/testkit/clause";
import { VIRTIO_BLK_CONFIG } from "virtio/spec/blk";
import { VIRTIO_CONSOLE_CONFIG_SIZE } from "virtio/spec/console";
import { VIRTIO_ID_9P, VIRTIO_ID_BLK, VIRTIO_ID_CONSOLE, VIRTIO_ID_ENTROPY } from "virtio/spec/ids";
import { temporaryFolder } from "../../guest/virtio.ts";
import { outputOf, type Console } from "../lib/console.ts";
import { serve, stop } from "../lib/serve.ts";
import * as machine from "../x86/lib/guest.ts";
import { newest, type Newest } from "./lib/newest.ts";

/*
 * All of our devices behind Debian's newest QEMU, with its newest Linux. `vhost-user-test-device-pci` passes on any device that the
 * back-end is; it never says DRIVER_OK, as most of QEMU's front-ends.
 */

const folder = temporaryFolder();
const TAG = "share";
const BYTES = 3 << 20;
const sumOf = (bytes: Uint8Array): string => createHash("md5").update(bytes).digest("hex");

/** What each device is of, as the test device has to be told. */
interface TestDevice {
  readonly id: number;
  readonly queues: number;
  readonly config: number;
}

const testDevices: Readonly<Record<string, TestDevice>> = {
  share: { id: VIRTIO_ID_9P, queues: 1, config: 2 + TAG.length },
  // Two ports, and the two virtqueues of the multiport control.
  console: { id: VIRTIO_ID_CONSOLE, queues: 6, config: VIRTIO_CONSOLE_CONFIG_SIZE },
  rng: { id: VIRTIO_ID_ENTROPY, queues: 1, config: 0 },
  disk: { id: VIRTIO_ID_BLK, queues: 1, config: VIRTIO_BLK_CONFIG.max_secure_erase_sectors },
};

/** The data of each way of each device. */
const file = randomBytes(BYTES);
const image = randomBytes(BYTES);

for (const ring of ["split", "packed"] as const) {
  test(
    clause(
      ["dev.blk.operation", "dev.console.multiport"],
      `9p, console, entropy, blk and net behind Debian's newest QEMU with its newest Linux, ${ring} rings (needs packages of Debian sid for amd64)`,
    ),
    async ({ skip }) => {
      const work = join(folder, ring);
      mkdirSync(work);
      let got: Newest;
      try {
        if (!machine.isAmd64) throw new Error("this machine is no amd64");
        got = await newest(work);
      } catch (error) {
        return skip(`QEMU and Linux of Debian sid cannot be had: ${messageOf(error)}`);
      }
      await run(work, ring, got);
    },
  );
}

async function run(
  work: string,
  ring: "split" | "packed",
  { emulator, boot, release }: Newest,
): Promise<void> {
  const at = (name: string): string => join(work, name);
  mkdirSync(at(TAG));
  writeFileSync(at(`${TAG}/file`), file);
  for (const name of ["disk.img", "own.img"]) writeFileSync(at(name), image);
  const ports = `--chardev socket,id=t,path=${at("terminal")},server=on,wait=off --device virtconsole,chardev=t
    --chardev socket,id=p,path=${at("port")},server=on,wait=off --device virtserialport,chardev=p,name=data`;
  // The test device and the newest QEMU's entropy device pass on whatever rings the back-end has.
  const packing = `packed=${ring === "packed" ? "on" : "off"}`;
  const argv = `9p,${packing} --socket ${at("share.sock")} --share ${at(TAG)}:${TAG}
    console,max_ports=2,${packing} --socket ${at("console.sock")} ${ports}
    entropy,${packing} --socket ${at("rng.sock")} blk,${packing} --socket ${at("disk.sock")} --drive file=${at("disk.img")},format=raw
    entropy,${packing} --socket ${at("rng2.sock")} blk,serial=OWN --socket ${at("disk2.sock")} --drive file=${at("own.img")},format=raw,readonly=on
    net --socket ${at("net0.sock")} --netdev hubport,hubid=0 net --socket ${at("net1.sock")} --netdev hubport,hubid=0
    --log virtio --log-file ${at("log")}`;
  const server = await serve(argv.split(/\s+/));
  const packed = ring === "packed" ? ",packed=on" : "";
  const guest = machine.startQemu(
    `newest QEMU, ${ring}`,
    [
      ...machine.sharedMachine("q35", 384),
      ...Object.entries(testDevices).flatMap(([name, { id, queues, config }]) => [
        "-chardev",
        `socket,id=${name}c,path=${at(`${name}.sock`)}`,
        "-device",
        `vhost-user-test-device-pci,chardev=${name}c,virtio-id=${id},num_vqs=${queues},config_size=${config},vq_size=128${packed}`,
      ]),
      ...`-chardev socket,id=r,path=${at("rng2.sock")} -device vhost-user-rng-pci,chardev=r${packed}`.split(
        " ",
      ),
      // Its chardevs have no `reconnect=` any more.
      ...`-chardev socket,id=own,path=${at("disk2.sock")},reconnect-ms=1000`.split(" "),
      "-device",
      `vhost-user-blk-pci,chardev=own,num-queues=1${packed}`,
      ...[0, 1].flatMap((n) =>
        machine.netDevice(`net${n}`, at(`net${n}.sock`), `52:54:00:00:00:0${n}`, packed),
      ),
      ...machine.plain,
      ...boot,
    ],
    emulator,
  );
  try {
    await machine.isUp(guest);
    expect(await outputOf(guest, "uname -r")).toBe(release);
    await outputOf(guest, "modprobe -a 9p 9pnet_virtio");
    const features = await outputOf(guest, "cat /sys/bus/virtio/devices/*/features");
    expect(features.split("\n").map((bits) => bits.charAt(34))).toEqual(
      Array.from({ length: 8 }, () => (ring === "packed" ? "1" : "0")),
    );
    await checkShare(guest, at(`${TAG}/back`));
    await checkConsole(guest, at("terminal"), at("port"));
    await checkEntropy(guest);
    await checkDisks(guest, at("disk.img"));
    await checkNetwork(guest);
    guest.send("poweroff -f\n");
    expect(await guest.finish(60_000)).toBe(0);
    await stop(server);
    const alarms = readFileSync(at("log"), "utf8")
      .split("\n")
      .filter((line) => /refused|fault|hint|NEEDS_RESET/i.test(line));
    expect(alarms).toEqual([]);
  } catch (error) {
    const log = existsSync(at("log")) ? readFileSync(at("log"), "utf8").slice(-3000) : "";
    throw new Error(`the server said:\n${server.tail}\n${log}`, { cause: error });
  } finally {
    for (const each of [guest, server]) each.kill();
  }
}

async function checkShare(guest: Console, back: string): Promise<void> {
  const mount = `mkdir -p /share && mount -t 9p -o trans=virtio,version=9p2000.L ${TAG} /share`;
  await outputOf(guest, mount);
  expect(await outputOf(guest, "md5sum </share/file")).toBe(`${sumOf(file)}  -`);
  const made = "dd if=/dev/urandom of=/tmp/made bs=1M count=3 2>/dev/null; cp /tmp/made /share/back";
  const sum = await outputOf(guest, `${made} && umount /share && md5sum </tmp/made`);
  expect(existsSync(back)).toBe(true);
  expect(`${sumOf(readFileSync(back))}  -`).toBe(sum);
}

async function checkConsole(guest: Console, terminal: string, port: string): Promise<void> {
  // In the background as nobody's child, for a busybox that waits for a line ends when one of its own does.
  const there = "until [ -c /dev/hvc0 ] && [ -c /dev/vport*p1 ]; do sleep 0.1; done";
  await outputOf(guest, there);
  const host = await open(terminal);
  await outputOf(
    guest,
    "((exec 7<>/dev/hvc0; stty raw -echo <&7; touch /tmp/ready; head -n 1 <&7 | tee /tmp/line >&7) &)",
  );
  await outputOf(guest, "until [ -e /tmp/ready ]; do sleep 0.1; done");
  host.socket.write("a line for the guest\n");
  expect((await host.take(21)).toString()).toBe("a line for the guest\n");
  host.socket.destroy();
  const data = await open(port);
  await outputOf(guest, `((head -c ${BYTES} <$(echo /dev/vport*p1) >/tmp/in) &); sleep 1`);
  data.socket.write(file);
  const arrived = `until [ $(wc -c </tmp/in) = ${BYTES} ]; do sleep 0.1; done; md5sum </tmp/in`;
  expect(await outputOf(guest, arrived)).toBe(`${sumOf(file)}  -`);
  await outputOf(guest, "cat /tmp/in >$(echo /dev/vport*p1)");
  expect(sumOf(await data.take(BYTES))).toBe(sumOf(file));
  data.socket.destroy();
}

async function checkEntropy(guest: Console): Promise<void> {
  const names = (await outputOf(guest, "cat /sys/class/misc/hw_random/rng_available")).match(
    /virtio_rng\S*/g,
  );
  expect(names).toHaveLength(2);
  for (const name of names ?? []) {
    await outputOf(guest, `echo ${name} >/sys/class/misc/hw_random/rng_current`);
    expect(await outputOf(guest, "head -c 1000 /dev/hwrng | wc -c")).toBe("1000");
  }
}

async function checkDisks(guest: Console, path: string): Promise<void> {
  for (const name of ["vda", "vdb"]) {
    const read = `dd if=/dev/${name} bs=1M iflag=direct 2>/dev/null | md5sum`;
    expect(await outputOf(guest, read)).toBe(`${sumOf(image)}  -`);
  }
  // The one that can be written is that of the test device.
  const writable = (await outputOf(guest, "cat /sys/block/vda/ro")) === "0" ? "vda" : "vdb";
  await outputOf(guest, `dd if=/tmp/in of=/dev/${writable} bs=1M oflag=direct conv=fsync 2>/dev/null`);
  expect(sumOf(readFileSync(path))).toBe(sumOf(file));
}

/** One network device is in a namespace of its own, so that all goes through the hub. */
async function checkNetwork(guest: Console): Promise<void> {
  const setup = [
    "ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up",
    "unshare -n sh -c 'echo $$ >/tmp/other; exec sleep 100000' & sleep 1",
    "ip link set eth1 netns $(cat /tmp/other)",
    `echo 'nsenter -t $(cat /tmp/other) -n "$@"' >/tmp/there`,
    "sh /tmp/there ip addr add 10.0.0.2/24 dev eth1 && sh /tmp/there ip link set eth1 up",
  ];
  for (const command of setup) await outputOf(guest, command);
  expect(await outputOf(guest, "ping -c 5 -i 0.2 10.0.0.2")).toContain("5 packets received");
  const send = "nc 10.0.0.2 5000 </tmp/in >/tmp/back";
  await outputOf(guest, `((sh /tmp/there nc -l -p 5000 -e cat) &); sleep 1; ${send}`, 120_000);
  expect(await outputOf(guest, "md5sum </tmp/back")).toBe(`${sumOf(file)}  -`);
}

/** The host's end of a port. */
async function open(path: string): Promise<{ socket: Socket; take: (length: number) => Promise<Buffer> }> {
  const socket = connect(path);
  await once(socket, "connect");
  // A server that was killed after a failure has no more to say.
  socket.on("error", () => undefined);
  const take = async (length: number): Promise<Buffer> => {
    const pieces: Buffer[] = [];
    let got = 0;
    for await (const piece of socket.iterator({ destroyOnReturn: false })) {
      pieces.push(piece as Buffer);
      got += (piece as Buffer).length;
      if (got >= length) break;
    }
    return Buffer.concat(pieces);
  };
  return { socket, take };
}
