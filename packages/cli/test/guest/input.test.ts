import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { expect, test } from "vitest";

import { findProgram, needs } from "@virtio/testkit/needs";
import { command } from "../built.ts";
import { root, runInGuest, temporaryFolder, Virtio } from "./virtio.ts";

const folder = temporaryFolder();

test("a pipe is a script for the guest's shell, whose status is the end", async () => {
  const { status, stdout, stderr } = await new Virtio([], "uname -s; pwd; echo oops >&2; exit 3").done;
  expect([status, stdout.toString(), stderr]).toEqual([3, "Linux\n/root\n", "oops\n"]);
});

test("what comes late from a pipe is waited for", async () => {
  const virtio = new Virtio([]);
  virtio.process.stdin?.write("echo first\n");
  await virtio.expect("first\n");
  virtio.process.stdin?.end("echo second\n");
  const { status, stdout } = await virtio.done;
  expect([status, stdout.toString()]).toEqual([0, "first\nsecond\n"]);
});

test("a file and /dev/null end the session at their end", async () => {
  const script = join(folder, "script");
  writeFileSync(script, "cat /proc/sys/kernel/hostname\nfalse\n");
  const results = await Promise.all([script, "/dev/null"].map(withInput));
  expect(results).toEqual([
    { status: 1, stdout: "virtio\n" },
    { status: 0, stdout: "" },
  ]);
});

async function withInput(path: string): Promise<{ status: number | null; stdout: string }> {
  const fd = openSync(path, "r");
  const child = spawn(process.execPath, [command, "boot"], { cwd: root, stdio: [fd, "pipe", "inherit"] });
  closeSync(fd);
  let stdout = "";
  child.stdout?.on("data", (bytes: Buffer) => (stdout += bytes.toString()));
  const status = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { status, stdout };
}

test("a machine that was saved goes on with a script from a pipe", async () => {
  const state = join(folder, "idle");
  expect((await runInGuest("true", ["--save", state])).status).toBe(0);
  const { status, stdout } = await new Virtio(["--restore", state], "echo again\nexit 5\n").done;
  expect([status, stdout.toString()]).toEqual([5, "again\n"]);
});

const script = findProgram("script");

/** `virtio boot` on a terminal of its own. */
class OnTerminal {
  readonly child: ChildProcess;
  output = "";
  readonly closed: Promise<unknown>;

  constructor(options: string) {
    const line = `stty cols 100; node packages/cli/bin/virtio.js boot ${options}; echo left $?`;
    const env = { ...process.env, TERM: "xterm" };
    this.child = spawn(script ?? "", ["-qfec", line, "/dev/null"], { cwd: root, env });
    this.child.stdout?.on("data", (bytes: Buffer) => (this.output += bytes.toString()));
    this.closed = new Promise((resolve) => this.child.on("close", resolve));
  }

  type(text: string): void {
    this.child.stdin?.write(text);
  }

  async until(text: string | RegExp): Promise<void> {
    while (this.output.search(text) < 0) {
      if (this.child.exitCode !== null) throw new Error(`ended before ${String(text)}:\n${this.output}`);
      await delay(20);
    }
  }
}

/** What a terminal would show of an output: a line that is taken back is not there any more. */
function shown(output: string): string {
  const lines = output.replaceAll("\u001b[6n", "").split("\n");
  const cleared = "\r\u001b[K";
  return lines
    .map((line) => (line.includes(cleared) ? line.slice(line.lastIndexOf(cleared) + cleared.length) : line))
    .join("\n");
}

test.skipIf(script === undefined)(
  needs("script", "util-linux", "what is typed before the prompt runs once and is echoed once"),
  async () => {
    const terminal = new OnTerminal("");
    await terminal.until(/(Loading|Booting|Restoring)/);
    terminal.type("echo ear''ly; tty\r");
    await terminal.until(/early\r+\n\/dev\/hvc0/);
    await terminal.until(/hvc0\r+\n[^\n]*virtio:~# /);
    terminal.type("exit 4\r");
    await terminal.until(/left 4/);
    await terminal.closed;
    const text = shown(terminal.output);
    expect(text.split("echo ear''ly")).toHaveLength(2);
    // The prompt comes first.
    expect(text).toMatch(/virtio:~# echo ear''ly; tty\r+\nearly\r+\n/);
  },
);

test.skipIf(script === undefined)(
  needs(
    "script",
    "util-linux",
    "until the prompt a line says what is done, moves, and is gone then; Ctrl-C ends it",
  ),
  async () => {
    const terminal = new OnTerminal("--no-cache");
    await terminal.until("/ Booting Linux");
    await terminal.until("- Booting Linux");
    await terminal.until(/Booting Linux \d+ s/);
    expect(shown(`${terminal.output}\r\u001b[K`)).not.toContain("Booting");
    terminal.type("\u0003");
    await terminal.until(/left 130/);
    await terminal.closed;
    expect(shown(terminal.output)).toMatch(/^left 130/m);
    const piped = await new Virtio(["--no-cache"], "exit 9\n").done;
    expect([piped.status, piped.stderr]).toEqual([9, ""]);
  },
);
