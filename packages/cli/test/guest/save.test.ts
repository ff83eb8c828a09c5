import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { runInGuest, temporaryFolder, Virtio } from "./virtio.ts";

const folder = temporaryFolder();

test("saved in the middle of disk, entropy and console traffic, and gone on with", async () => {
  const image = join(folder, "disk.img");
  const state = join(folder, "state");
  const bytes = Buffer.alloc(32 << 20);
  for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE(Math.imul(i, 2654435761) >>> 0, i);
  writeFileSync(image, bytes);
  const argv = ["--disk", `${image},snapshot=on`, "-device", "virtio-rng-pci"];
  const command = `cat /dev/hwrng >/dev/null & for i in $(seq 160); do
    sum=$(dd if=/dev/vda bs=64k count=16 skip=$(($i % 32 * 16)) iflag=direct 2>/dev/null | md5sum); echo $i $sum; done`;
  const saved = new Virtio([...argv, "--save", state, "--run", command], "");
  await saved.expect("\n20 ");
  saved.process.kill("SIGTERM");
  const first = await saved.done;
  expect([first.status, existsSync(state)]).toEqual([143, true]);
  const second = new Virtio([...argv, "--restore", state], "");
  const rest = await second.done;
  expect(rest.status).toBe(0);
  const lines = (first.stdout.toString() + rest.stdout.toString()).trimEnd().split("\n");
  expect(lines.map((line) => line.split(" ")[0])).toEqual(
    Array.from({ length: 160 }, (_, i) => String(i + 1)),
  );
  // The disk has a period of 32 pieces: equal pieces, equal sums, before and after.
  lines.forEach((line, i) => i >= 32 && expect(line.split(" ")[1]).toBe(lines[i - 32]?.split(" ")[1]));
});

test("a saved machine runs further commands, and fits no other machine", async () => {
  const state = join(folder, "kept");
  const first = await runInGuest("echo kept >/tmp/file", ["--save", state]);
  expect([first.status, first.stderr]).toEqual([0, ""]);
  const second = await runInGuest("cat /tmp/file; date +%Y", ["--restore", state]);
  expect(second.stdout.toString()).toBe(`kept\n${new Date().getUTCFullYear()}\n`);
  const other = await runInGuest("true", ["--restore", state, "-device", "virtio-rng-pci"]);
  expect([other.status, other.stderr]).toEqual([1, expect.stringContaining("of another machine")]);
  const none = await runInGuest("true", ["--restore", "/etc/passwd"]);
  expect([none.status, none.stderr]).toEqual([1, expect.stringContaining("no file of --save")]);
});

test("a machine that was to be saved and could not be ends with 1, when its output was seen and its disk written", async () => {
  const [kept, image] = [join(folder, "taken-away"), join(folder, "written.img")];
  mkdirSync(kept);
  writeFileSync(image, Buffer.alloc(1 << 20));
  const command = "echo begun; read line; echo $line >/dev/vda; echo done";
  const argv = ["--disk", image, "--save", join(kept, "state"), "--run", command];
  const session = new Virtio(argv);
  await session.expect("begun");
  rmSync(kept, { recursive: true });
  session.process.stdin?.end("written\n");
  const { status, stdout, stderr } = await session.done;
  expect([status, stdout.toString()]).toEqual([1, "begun\ndone\n"]);
  expect(stderr).toBe(`virtio: --save: ${kept}: no such file or directory; look at the name\n`);
  expect(readFileSync(image, "latin1").slice(0, 8)).toBe("written\n");
});
