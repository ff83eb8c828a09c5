import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { Peer } from "../../../../vhost-user/test/backend/peer.ts";
import { command } from "../../built.ts";
import { processorTime } from "./processor-time.ts";

/** A `virtio serve` that hostile peers talk to, and what it takes of this machine. */
export class Served {
  readonly folder: string = mkdtempSync(join(tmpdir(), "virtio-hostile-"));
  text = "";
  /** How it ended. */
  end: string | undefined;
  #child: ChildProcess | undefined;

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Resolves when `count` devices are served. Paths in `words` may be relative: they are in `folder`. */
  async start(words: string, count: number): Promise<void> {
    const child = spawn(process.execPath, [command, "serve", ...words.split(" ")], {
      cwd: this.folder,
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#child = child;
    child.stderr.on("data", (bytes: Buffer) => (this.text += bytes.toString()));
    child.on("exit", (status, signal) => (this.end = signal ?? `status ${status}`));
    await this.until(() => this.text.split(": serving at ").length > count);
  }

  /** Waits for as long as the server lives. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      if (this.end !== undefined) throw new Error(`the server ended: ${this.end}\n${this.text}`);
      await delay(5);
    }
  }

  get pid(): number {
    return this.#child?.pid ?? -1;
  }

  /** Resident memory in MiB. */
  memory(pid: number = this.pid): number {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
  }

  /** Milliseconds of processor time, of all threads. */
  processor(pid: number = this.pid): number {
    return processorTime(pid);
  }

  descriptors(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  mappings(): number {
    return readFileSync(`/proc/${this.pid}/maps`, "utf8").split("\n").length;
  }

  children(): number[] {
    return readFileSync(`/proc/${this.pid}/task/${this.pid}/children`, "utf8")
      .split(" ")
      .filter(Boolean)
      .map(Number);
  }

  peer(name: string): Peer {
    return new Peer(UnixSocket.connect(this.path(name)));
  }

  /** Milliseconds until SIGTERM has ended it. */
  async stop(): Promise<number> {
    const child = this.#child;
    const begun = performance.now();
    if (child !== undefined && this.end === undefined) {
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      await ended;
    }
    return performance.now() - begun;
  }

  /** Whatever happened. */
  remove(): void {
    this.#child?.kill("SIGKILL");
    rmSync(this.folder, { recursive: true });
  }
}
