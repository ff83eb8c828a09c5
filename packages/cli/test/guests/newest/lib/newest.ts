import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { CpioWriter } from "@virtio/cli/guest/cpio";
import { aliasText, dependencyText, ModuleTree } from "@virtio/cli/guest/modules";
import { packageFiles } from "@virtio/cli/guest/packages";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import * as machine from "../../x86/lib/guest.ts";

/** Where Debian's newest QEMU and Linux are: 11.1 and 7.2 when this was written. */
const SUITE = "sid";
/** The metapackage has no files. */
const LINUX = {
  name: "linux-image-amd64",
  suite: SUITE,
  architecture: "amd64",
  dependencies: /^linux-(base|binary|modules)-\d/,
};
const MODULES = ["virtio_blk", "virtio_rng", "virtio_net", "9p", "9pnet_virtio", "ext4", "af_packet"];

/** Debian's newest QEMU, and arguments that boot the newest Linux to a shell on the console. */
export interface Newest {
  readonly emulator: machine.Emulator;
  readonly boot: readonly string[];
  /** As `uname -r` shows it. */
  readonly release: string;
}

/** 160 MB are fetched, once. `folder` is where the initrd is made. Throws a UserError when they cannot be had. */
export async function newest(folder: string): Promise<Newest> {
  const emulator = await machine.qemuOf(SUITE);
  const files = await packageFiles(homeFolder(), LINUX, new Progress());
  const kernels = join(files, "usr/lib/modules");
  const release = readdirSync(kernels)[0];
  if (release === undefined) throw new Error(`no kernel in ${kernels}`);
  const { guest, initrd } = await machine.shellBoot(folder);
  const tree = new ModuleTree(join(kernels, release));
  const modules = tree.closure(MODULES);
  const archive = new CpioWriter();
  const target = `lib/modules/${release}`;
  for (const { path, data } of modules) archive.file(`${target}/${path}`, data);
  archive.file(`${target}/modules.dep`, dependencyText(modules));
  archive.file(`${target}/modules.alias`, aliasText(modules));
  archive.file(
    `${target}/modules.builtin`,
    tree.builtinText(["virtio", "virtio_pci", "virtio_console", ...MODULES]),
  );
  // Linux unpacks one archive after the other.
  writeFileSync(initrd, Buffer.concat([readFileSync(initrd), archive.finish()]));
  const kernel = join(kernels, release, "vmlinuz");
  return { emulator, release, boot: machine.bootArguments({ guest: { ...guest, kernel }, initrd }) };
}
