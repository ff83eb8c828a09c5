import { spawn, type ChildProcess } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { findProgram } from "@virtio/cli/guest/command";
import { needs } from "@virtio/testkit/needs";
import { root, temporaryFolder } from "./virtio.ts";

const QEMU = "qemu-system-x86_64";
const folder = temporaryFolder();
const socket = (name: string): string => join(folder, `${name}.sock`);
const SIZE = 16 << 20;

/** What a process says, and what to wait for in it. */
class Talk {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  #text = "";
  #gone = false;
  #wake = (): void => undefined;

  constructor(program: string, argv: readonly string[]) {
    this.child = spawn(program, argv, { cwd: root });
    for (const stream of [this.child.stdout, this.child.stderr])
      stream?.on("data", (bytes: Buffer) => {
        this.#text += bytes.toString("latin1");
        this.#wake();
      });
    this.ended = new Promise((resolve) =>
      this.child.once("close", (status) => {
        this.#gone = true;
        this.#wake();
        resolve(status);
      }),
    );
  }

  /** What was said before `pattern`. */
  async until(pattern: RegExp): Promise<string> {
    for (;;) {
      const match = pattern.exec(this.#text);
      if (match !== null) {
        const before = this.#text.slice(0, match.index);
        this.#text = this.#text.slice(match.index + match[0].length);
        return before;
      }
      if (this.#gone) throw new Error(`no ${String(pattern)} in:\n${this.#text.slice(-2000)}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 500);
      });
    }
  }

  /** A command of the guest's shell; the markers are put together there, so that its echo is none. */
  async run(command: string): Promise<string> {
    this.child.stdin?.write(`echo fr""om; ${command}; echo; echo t""o\n`);
    await this.until(/^from\r?\n/m);
    return (await this.until(/^to\r?\n/m)).replaceAll("\r", "").trim();
  }
}

const serve = (...argv: string[]): Talk =>
  new Talk(process.execPath, ["packages/cli/bin/virtio.js", "serve", ...argv]);

test.skipIf(findProgram(QEMU) === undefined)(
  needs(
    QEMU,
    "qemu-system-x86",
    "a guest of a real QEMU on `virtio serve`: disk, entropy, a back-end killed and restarted; and a device of one's own",
  ),
  async () => {
    const image = join(folder, "disk.img");
    const content = randomBytes(SIZE);
    writeFileSync(image, content);
    const serveDisk = (): Talk =>
      serve("blk,serial=D1", "--socket", socket("disk"), "--drive", `file=${image},format=raw`);
    const disk = serveDisk();
    const entropy = serve("entropy", "--socket", socket("rng"));
    const dice = new Talk(process.execPath, ["examples/dice.mjs", socket("dice")]);
    await Promise.all([disk, entropy, dice].map((talk) => talk.until(/(serving|dice) at/)));
    // QEMU 7.2's entropy device does not take a chardev that reconnects. No argument has a space in it.
    const argv = `-M q35,memory-backend=mem -m 192M -display none -serial stdio -no-reboot
      -object memory-backend-memfd,id=mem,size=192M,share=on
      -chardev socket,id=disk,path=${socket("disk")},reconnect=1 -chardev socket,id=rng,path=${socket("rng")}
      -device vhost-user-blk-pci,chardev=disk,num-queues=1 -device vhost-user-rng-pci,chardev=rng
      -chardev socket,id=dice,path=${socket("dice")} -device vhost-user-rng-pci,chardev=dice
      -kernel .virtio/guest/vmlinuz -initrd .virtio/guest/initrd -append`;
    const guest = new Talk(QEMU, [...argv.split(/\s+/), "console=ttyS0 quiet"]);
    try {
      await guest.until(/root@virtio:.*# /);
      const sum = createHash("md5").update(content).digest("hex");
      expect(await guest.run("md5sum </dev/vda; cat /sys/block/vda/serial")).toBe(`${sum}  -\nD1`);
      expect(await guest.run("head -c 64 /dev/hwrng | wc -c")).toBe("64");
      await guest.run("echo virtio_rng.1 >/sys/class/misc/hw_random/rng_current");
      expect(await guest.run("head -c 60 /dev/hwrng")).toMatch(/^[1-6]{60}$/);

      disk.child.kill("SIGKILL");
      await disk.ended;
      const again = serveDisk();
      await again.until(/serving at/);
      await guest.run("dd if=/dev/zero of=/dev/vda bs=64k seek=16 count=16 conv=fsync 2>/dev/null");
      content.fill(0, 1 << 20, 2 << 20);
      expect(readFileSync(image).equals(content)).toBe(true);

      again.child.kill("SIGTERM");
      for (const { child } of [entropy, dice]) child.kill("SIGTERM");
      expect(await Promise.all([again.ended, entropy.ended, dice.ended])).toEqual([0, 0, 0]);
    } finally {
      for (const { child } of [guest, disk, entropy, dice]) child.kill("SIGKILL");
    }
  },
);
