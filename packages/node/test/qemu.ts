import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { needs } from "@virtio/testkit/needs";

export const QEMU = "qemu-system-x86_64";

/** Whether a real QEMU is there to test against. */
export const hasQemu: boolean = ((): boolean => {
  try {
    const version = /version (\d+)\.(\d+)/.exec(execFileSync(QEMU, ["--version"], { encoding: "utf8" }));
    const [major = 0, minor = 0] = (version ?? []).slice(1).map(Number);
    // `-netdev stream` came with 7.2.
    return major > 7 || (major === 7 && minor >= 2);
  } catch {
    return false;
  }
})();

/** A title that tells how to get one. */
export function needsQemu(title: string): string {
  return needs(`${QEMU} 7.2`, "qemu-system-x86", title);
}

export interface Qemu {
  readonly process: ChildProcess;
  /** Resolves with what it wrote to stderr. */
  readonly ended: Promise<string>;
  stop(): Promise<void>;
}

/** A QEMU without anything but what `options` says. */
export function startQemu(options: readonly string[]): Qemu {
  const child = spawn(QEMU, ["-nodefaults", "-display", "none", ...options], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => (text += piece));
  const ended = new Promise<string>((resolve) => child.once("close", () => resolve(text)));
  return {
    process: child,
    ended,
    stop: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}
