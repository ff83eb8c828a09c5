import { findProgram } from "@virtio/testkit/needs";

/** A machine of the matrix. */
export interface TestMachine {
  readonly name: string;
  readonly program: string;
  readonly debianPackage: string;
  /** After the program. */
  readonly argv: readonly string[];
  /** It has slots for virtio-mmio devices. */
  readonly mmio: boolean;
}

export const MACHINES: readonly TestMachine[] = [
  x86("pc", "pc", false),
  x86("q35", "q35", false),
  x86("microvm", "microvm,pcie=on", true),
  arm("arm virt", "qemu-system-arm", ["-M", "virt"], true),
  arm("arm64 virt", "qemu-system-aarch64", ["-M", "virt", "-cpu", "cortex-a57"], true),
  {
    name: "riscv64 virt",
    program: "qemu-system-riscv64",
    debianPackage: "qemu-system-misc",
    argv: ["-M", "virt"],
    mmio: true,
  },
  arm("versatilepb", "qemu-system-arm", ["-M", "versatilepb"], false),
];

export function isInstalled({ program }: TestMachine): boolean {
  return findProgram(program) !== undefined;
}

function x86(name: string, machine: string, mmio: boolean): TestMachine {
  const program = "qemu-system-x86_64";
  return { name, program, debianPackage: "qemu-system-x86", argv: ["-M", machine], mmio };
}

function arm(name: string, program: string, argv: readonly string[], mmio: boolean): TestMachine {
  return { name, program, debianPackage: "qemu-system-arm", argv, mmio };
}
