import { join } from "node:path";

import { packageFiles } from "@virtio/cli/guest/packages";
import { Progress } from "@virtio/cli/guest/progress";
import { homeFolder } from "@virtio/cli/paths";
import type { Console } from "./console.ts";
import { machines, type MachineKind } from "./machine.ts";

/** A machine as U-Boot has a configuration for it. */
export interface Board {
  /** The name of the configuration. */
  readonly name: string;
  readonly kind: MachineKind;
  /** Arguments of QEMU that start it, with the folder of Debian's images. */
  readonly boot: (images: string) => readonly string[];
  /** Memory that is free. */
  readonly address: number;
  /** Properties that a PCI device needs there, each with a comma before it. */
  readonly properties?: string;
}

const bios =
  (path: string) =>
  (images: string): readonly string[] => ["-bios", join(images, path)];

/**
 * Debian's images for x86 have the device tree of `pc`, whose ISA bridge is in slot 1: what is there, which on `q35` is the first
 * device of the command line, is taken for it.
 */
const notAtOne = { properties: ",addr=4" };

export const boards: readonly Board[] = [
  { name: "qemu_arm64", kind: machines.arm64, boot: bios("qemu_arm64/u-boot.bin"), address: 0x4200_0000 },
  { name: "qemu_arm", kind: machines.arm, boot: bios("qemu_arm/u-boot.bin"), address: 0x4200_0000 },
  {
    name: "qemu-riscv64",
    kind: machines.riscv64,
    boot: bios("qemu-riscv64/u-boot.bin"),
    address: 0x8400_0000,
  },
  {
    // OpenSBI, which comes with QEMU, runs before it.
    name: "qemu-riscv64_smode",
    kind: machines.riscv64,
    boot: (images) => ["-kernel", join(images, "qemu-riscv64_smode/u-boot.bin")],
    address: 0x8400_0000,
  },
  { name: "qemu-x86", kind: machines.pc, boot: bios("qemu-x86/u-boot.rom"), address: 0x0100_0000 },
  {
    name: "qemu-x86",
    kind: machines.q35,
    ...notAtOne,
    boot: bios("qemu-x86/u-boot.rom"),
    address: 0x0100_0000,
  },
  {
    name: "qemu-x86_64",
    kind: machines.q35,
    ...notAtOne,
    boot: bios("qemu-x86_64/u-boot.rom"),
    address: 0x0100_0000,
  },
];

/** Releases of Debian with different ones of U-Boot: 2023.01 and 2025.01. */
export type Release = "bookworm" | "trixie";

/** The folder with the images of Debian's package u-boot-qemu. */
export async function uBootImages(suite: Release): Promise<string> {
  const wanted = { name: "u-boot-qemu", suite, architecture: "amd64" };
  return join(await packageFiles(homeFolder(), wanted, new Progress()), "usr/lib/u-boot");
}

/** U-Boot's prompt. */
export class UBoot {
  readonly #console: Console;

  constructor(console: Console) {
    this.#console = console;
  }

  /** Waits for the prompt, before U-Boot looks for something to boot. */
  async ready(milliseconds: number): Promise<void> {
    await this.#console.until(/Hit any key to stop autoboot/, milliseconds);
    this.#console.send(" ");
    await this.#console.until(/\n=> /, 60_000);
  }

  /** What a command says. U-Boot has no status at its prompt, only words. */
  async run(command: string, milliseconds = 60_000): Promise<string> {
    this.#console.send(`${command}\n`);
    const said = await this.#console.until(/\n=> /, milliseconds);
    // It begins with the echo, and colours come and go.
    const lines = said.replaceAll("\r", "").split("\n").slice(1);
    return lines.join("\n").trim();
  }
}
