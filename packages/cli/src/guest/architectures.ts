/** Debian's name of an architecture that guests are set up for. */
export type GuestArchitecture = "i386" | "amd64" | "arm64" | "armhf" | "riscv64";

/** Where a guest of an architecture comes from. */
export interface GuestSource {
  readonly architecture: GuestArchitecture;
  /** The Debian release. */
  readonly suite: string;
  /** The package that depends on the newest kernel of its kind. */
  readonly metaPackage: string;
  /** What the kernel's own package is called. */
  readonly kernelPackage: RegExp;
  /** The folder in the home folder with what is made, and that of apt. */
  readonly folder: string;
  readonly aptFolder: string;
}

function source(
  architecture: GuestArchitecture,
  suite: string,
  flavour: string,
  folders: Partial<GuestSource> = {},
): GuestSource {
  return {
    architecture,
    suite,
    metaPackage: `linux-image-${flavour}`,
    kernelPackage: new RegExp(`^linux-image-\\d.*-${flavour}$`),
    folder: `guest-${architecture}`,
    aptFolder: `apt-${architecture}`,
    ...folders,
  };
}

const sources: Readonly<Record<GuestArchitecture, GuestSource>> = {
  // The one that the embedded machine can run, without PAE; its folders are older than the others.
  i386: source("i386", "bookworm", "686", { folder: "guest", aptFolder: "apt" }),
  amd64: source("amd64", "bookworm", "amd64"),
  arm64: source("arm64", "bookworm", "arm64"),
  armhf: source("armhf", "bookworm", "armmp"),
  // No release of Debian before this one.
  riscv64: source("riscv64", "trixie", "riscv64"),
};

export const guestArchitectures: readonly GuestArchitecture[] = [
  "i386",
  "amd64",
  "arm64",
  "armhf",
  "riscv64",
];

export function guestSource(architecture: GuestArchitecture): GuestSource {
  return sources[architecture];
}
