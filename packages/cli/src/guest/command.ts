import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  /** The last 64 KiB. */
  readonly stderr: string;
}

/** Where a program is, also in the system folders that are not on every user's PATH. */
export function findProgram(name: string, environment: NodeJS.ProcessEnv = process.env): string | undefined {
  const folders = (environment["PATH"] ?? "").split(delimiter).filter(Boolean);
  for (const folder of [...folders, "/usr/local/sbin", "/usr/sbin", "/sbin"]) {
    try {
      const path = join(folder, name);
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not there: look in the next folder.
    }
  }
  return undefined;
}

/** Runs a program to its end. `onStatus` gets each line it writes to descriptor 3. */
export async function runCommand(
  program: string,
  argv: readonly string[],
  options: { readonly cwd?: string; readonly onStatus?: (line: string) => void } = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, argv, {
      stdio: ["ignore", "pipe", "pipe", "pipe"],
      env: { ...process.env, LC_ALL: "C" },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    let stdout = "";
    let stderr = "";
    let status = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr = (stderr + text).slice(-65536)));
    child.stdio[3]?.on("data", (bytes: Buffer) => {
      const lines = (status + bytes.toString("latin1")).split("\n");
      status = lines.pop() ?? "";
      for (const line of lines) options.onStatus?.(line);
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ status: code ?? 1, stdout, stderr }));
  });
}
