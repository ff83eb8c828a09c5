/**
 * Where the C library can be called as this project does it. The one place that asks what system this is: all else asks here, so that
 * other systems hear a sentence, and koffi is not loaded there.
 */

/** A part of this project that cannot be on this system. */
export class UnsupportedPlatform extends Error {
  override readonly name = "UnsupportedPlatform";
}

/** Structures of the kernel are laid out for 64-bit processors with the first byte lowest. */
const architectures: readonly string[] = ["x64", "arm64", "riscv64", "loong64"];

/** Why calls of the C library are not possible here; undefined: they are. */
export function whyNotNative(): string | undefined {
  if (process.platform === "linux" && architectures.includes(process.arch)) return undefined;
  return `it needs Linux on ${architectures.slice(0, -1).join(", ")} or ${architectures.at(-1) ?? ""}, and this is ${process.platform} on ${process.arch}`;
}

/** Throws an UnsupportedPlatform that names `what` where it cannot be. */
export function requireNative(what: string): void {
  const why = whyNotNative();
  if (why !== undefined) throw new UnsupportedPlatform(`${what} is not possible here: ${why}`);
}

/** A path is case-sensitive, a socket has a file, a program has no suffix: everything but Windows. */
export function isWindows(): boolean {
  return process.platform === "win32";
}
