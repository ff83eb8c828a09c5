import { join } from "node:path";

import type { GuestArchitecture } from "@virtio/cli/guest/architectures";
import { Console } from "./console.ts";

/** How the devices are plugged in; `mmio-legacy` is what virtio-mmio was before VIRTIO 1.0, and QEMU's default. */
export type Transport = "pci" | "mmio" | "mmio-legacy";

/** A kind of machine of QEMU. */
export interface MachineKind {
  /** What the documentation calls it. */
  readonly name: string;
  readonly program: string;
  readonly debianPackage: string;
  /** `-M` without the memory, and what else the kind needs. */
  readonly machine: string;
  readonly argv: readonly string[];
  /** The kernel's name of the first serial port. */
  readonly console: string;
  /** Words that Linux needs there. */
  readonly words?: readonly string[];
}

const arm = { debianPackage: "qemu-system-arm", console: "ttyAMA0" };
const x86 = {
  program: "qemu-system-x86_64",
  debianPackage: "qemu-system-x86",
  argv: [],
  console: "ttyS0",
};

export const machines: Readonly<Record<"arm64" | "arm" | "riscv64" | "pc" | "q35" | "microvm", MachineKind>> =
  {
    arm64: {
      ...arm,
      name: "arm64 virt",
      program: "qemu-system-aarch64",
      machine: "virt",
      argv: ["-cpu", "cortex-a57"],
    },
    arm: {
      ...arm,
      name: "arm virt",
      program: "qemu-system-arm",
      // A kernel without LPAE reaches nothing above 4 GiB, where QEMU would have PCI's configuration space.
      machine: "virt,highmem=off",
      argv: ["-cpu", "cortex-a15"],
    },
    riscv64: {
      name: "riscv64 virt",
      program: "qemu-system-riscv64",
      debianPackage: "qemu-system-misc",
      machine: "virt",
      argv: [],
      console: "ttyS0",
    },
    pc: { ...x86, name: "pc", machine: "pc" },
    q35: { ...x86, name: "q35", machine: "q35" },
    microvm: {
      ...x86,
      name: "microvm",
      machine: "microvm,pcie=off,rtc=on,isa-serial=on,acpi=on",
      // Without KVM's clock it has nothing that Linux could measure the frequency of its clock by.
      words: ["tsc_early_khz=2000000", "tsc=reliable", "lpj=4000000", "no_timer_check"],
    },
  };

/** A device of ours and the socket where it is served. */
export interface PluggedDevice {
  readonly kind: "blk" | "rng" | "net";
  readonly socket: string;
  /** Properties of QEMU's device, each with a comma before it. */
  readonly properties?: string;
}

/** Arguments of QEMU for a device; the number makes its names unlike those of others. */
function deviceArguments(
  { kind, socket, properties = "" }: PluggedDevice,
  number: number,
  transport: Transport,
): string[] {
  const id = `${kind}${number}`;
  // QEMU 7.2's entropy device does not take a chardev that reconnects.
  const reconnect = kind === "blk" ? ",reconnect=1" : "";
  const chardev = ["-chardev", `socket,id=${id},path=${socket}${reconnect}`];
  if (kind === "net") {
    // With MSI-X vectors and without KVM, QEMU 7.2 crashes.
    const device = transport === "pci" ? "virtio-net-pci,vectors=0" : "virtio-net-device";
    const netdev = ["-netdev", `vhost-user,id=${id}-netdev,chardev=${id}`];
    return [...chardev, ...netdev, "-device", `${device},netdev=${id}-netdev${properties}`];
  }
  const suffix = transport === "pci" ? "-pci" : "";
  return [...chardev, "-device", `vhost-user-${kind}${suffix},chardev=${id}${properties}`];
}

export interface MachineOptions {
  readonly kind: MachineKind;
  readonly transport: Transport;
  /** MiB. */
  readonly memory: number;
  readonly processors: number;
  readonly devices: readonly PluggedDevice[];
  /** What is booted: kernel and the like, or firmware. */
  readonly boot: readonly string[];
}

/** Starts a machine; its first serial port is the console. */
export function startMachine(options: MachineOptions): Console {
  const { kind, transport, memory, processors, devices, boot } = options;
  // None of these has a space in it.
  const machine = `-M ${kind.machine},memory-backend=mem -m ${memory}M -smp ${processors} -nodefaults -display none
    -object memory-backend-memfd,id=mem,size=${memory}M,share=on -serial stdio -no-reboot`;
  const argv = [
    ...machine.split(/\s+/),
    ...kind.argv,
    ...(transport === "mmio" ? ["-global", "virtio-mmio.force-legacy=false"] : []),
    ...devices.flatMap((device, index) => deviceArguments(device, index, transport)),
    ...boot,
  ];
  return new Console(`${kind.name} (${transport})`, kind.program, argv);
}

/** Arguments of QEMU that boot Linux; `words` are the kernel's. */
export function linuxArguments(
  kind: MachineKind,
  kernel: string,
  initrd: string,
  words: readonly string[],
): string[] {
  const all = [`console=${kind.console}`, "panic=-1", ...(kind.words ?? []), ...words];
  return ["-kernel", kernel, "-initrd", initrd, "-append", all.join(" ")];
}

/** Where a device is served in a folder. */
export function socketPath(folder: string, name: string): string {
  return join(folder, `${name}.sock`);
}

/** The architecture of Debian's packages for a kind of machine. */
export const architectures: Readonly<Record<keyof typeof machines, GuestArchitecture>> = {
  arm64: "arm64",
  arm: "armhf",
  riscv64: "riscv64",
  pc: "amd64",
  q35: "amd64",
  microvm: "amd64",
};
