import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { expect, test } from "vitest";

import { CpioWriter } from "@virtio/cli/guest/cpio";
import { root, runInGuest, temporaryFolder, type Result } from "./virtio.ts";

const folder = temporaryFolder();
const guest = (name: string): string => join(root, ".virtio/guest", name);
const kernel = guest("vmlinux");

/** A command that shows all that `--run` passes on. */
const command = "cat; echo err >&2; exit 3";

async function runOwn(initrd: string): Promise<Result> {
  return runInGuest(command, ["--kernel", kernel, "--initrd", initrd]);
}

function written(name: string, data: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, data);
  return path;
}

test("--run with an own kernel and our initrd: output, input and status, as without", async () => {
  const argv = ["--kernel", guest("vmlinuz"), "--initrd", guest("initrd")];
  const result = await runInGuest(command, argv, "in\n");
  expect(result).toEqual({ status: 3, stdout: Buffer.from("in\n"), stderr: "err\n" });
});

test("our initrd may be compressed and have more behind it, and a directory is mounted", async () => {
  const more = new CpioWriter();
  more.file("root/more", "added\n");
  const initrd = written("more.gz", gzipSync(Buffer.concat([readFileSync(guest("initrd")), more.finish()])));
  writeFileSync(join(folder, "shared"), "shared\n");
  const argv = ["--kernel", kernel, "--initrd", initrd, "--share", folder, "--append", "word=said"];
  const { stdout, stderr } = await runInGuest("cat /root/more /mnt/*/shared; echo $word", argv);
  expect([stdout.toString(), stderr]).toEqual(["added\nshared\nsaid\n", ""]);
});

test("an initrd that is not ours is refused before anything starts, with what to do", async () => {
  const foreign = new CpioWriter();
  foreign.file("init", "#!/bin/sh\nexec sh\n", 0o755);
  const changed = new CpioWriter();
  changed.file("init", `${readFileSync(join(root, "packages/cli/guest/init"), "utf8")}\n`, 0o755);
  const otherMachine = new CpioWriter();
  otherMachine.file("init", readFileSync(join(root, "packages/cli/guest/init")), 0o755);
  const reasons = {
    foreign: [foreign.finish(), /its init is not ours of this version/],
    changed: [changed.finish(), /its init is not ours of this version/],
    "other-machine": [otherMachine.finish(), /it has no sbin\/syscalls/],
    empty: [new Uint8Array(0), /it has no init/],
    noise: [Buffer.from("no archive"), /no cpio archive, plain or gzip/],
  } as const;
  for (const [name, [data, why]] of Object.entries(reasons)) {
    const path = written(name, data);
    const { status, stdout, stderr } = await runOwn(path);
    expect([status, stdout.toString()]).toEqual([1, ""]);
    expect(stderr).toContain(`--run with --initrd ${path}: `);
    expect(stderr).toMatch(why);
    expect(stderr).toContain(guest("initrd"));
  }
});

test("a kernel that our initrd has no drivers for is told apart from one that does not boot", async () => {
  // The folder of the modules is that of another release: as with a kernel of another release.
  const initrd = Buffer.from(
    readFileSync(guest("initrd")).toString("latin1").replaceAll("lib/modules/6", "lib/modules/5"),
    "latin1",
  );
  const { status, stderr } = await runOwn(written("other-release", initrd));
  expect(status).toBe(1);
  expect(stderr).toMatch(/no driver of virtio-console for Linux 6\.\d+.*modules are for 5\./s);
});
