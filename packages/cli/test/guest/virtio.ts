import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { findProgram } from "@virtio/cli/guest/command";
import { checkLog } from "@virtio/testkit/no-hints";
import { command, root } from "../built.ts";

export { root };
export { temporaryFolder } from "./folder.ts";

/** A boot takes some ten seconds of one processor, and other tests run beside. */

export const hasE2fsprogs: boolean =
  findProgram("mkfs.ext4") !== undefined && findProgram("e2fsck") !== undefined;

/** With a guest kernel, as `npm test` has it. */
const setUp = spawnSync(process.execPath, [command, "setup"], {
  cwd: root,
  encoding: "utf8",
});
if (setUp.status !== 0) throw new Error(setUp.stderr);

export interface Result {
  readonly status: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** `virtio boot` as a process of its own, as users run it. It fails when the log says that Linux got a hint. */
export class Virtio {
  readonly process: ChildProcess;
  readonly done: Promise<Result>;
  stdout: Buffer = Buffer.alloc(0);
  stderr = "";

  /** @param input what stdin has; undefined: it stays open */
  constructor(argv: readonly string[], input?: string | Uint8Array) {
    const folder = mkdtempSync(join(tmpdir(), "virtio-log-"));
    const log = join(folder, "log");
    const logging = argv.includes("--log") ? [] : ["--log", "hints", "--log-file", log];
    const child = spawn(process.execPath, [command, "boot", ...argv, ...logging], { cwd: root });
    const chunks: Buffer[] = [];
    child.stdout.on("data", (bytes: Buffer) => {
      chunks.push(bytes);
      if (chunks.length < 64) this.stdout = Buffer.concat(chunks);
    });
    child.stderr.on("data", (bytes: Buffer) => (this.stderr += bytes.toString()));
    if (input !== undefined) child.stdin.end(input);
    this.process = child;
    this.done = new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code, signal) => {
        const status = code ?? (signal === null ? -1 : -2);
        try {
          checkLog(existsSync(log) ? readFileSync(log, "utf8") : this.stderr);
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        } finally {
          rmSync(folder, { recursive: true });
        }
        resolve({ status, stdout: Buffer.concat(chunks), stderr: this.stderr });
      });
    });
  }

  /** Waits for a text on stdout. */
  async expect(text: string): Promise<void> {
    while (!this.stdout.includes(text)) {
      const ended = await Promise.race([this.done, delay(20)]);
      if (ended && !this.stdout.includes(text)) {
        throw new Error(
          `ended with ${ended.status} before "${text}":\n${ended.stdout.toString()}\n${ended.stderr}`,
        );
      }
    }
  }
}

/** Runs a command in a guest. */
export async function runInGuest(command: string, argv: readonly string[] = [], input = ""): Promise<Result> {
  return new Virtio([...argv, "--run", command], input).done;
}

/** Runs a program of the host to its end; its output. */
export function host(program: string, ...argv: string[]): string {
  const result = spawnSync(findProgram(program) ?? program, argv, { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`${program} ${argv.join(" ")}: ${result.status} ${result.stderr}`);
  return result.stdout;
}
