import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { packageFolder } from "@virtio/cli/paths";
import { complete } from "@virtio/cli/shell/complete";
import { runConsole } from "@virtio/cli/shell/console";
import { runStream } from "@virtio/cli/shell/script";
import { TemporaryFolder } from "./lib/images.ts";
import { inProcess, type TestShell } from "./lib/shell.ts";

const folder = new TemporaryFolder();
afterAll(() => folder.remove());
const image = folder.write("disk.img", new Uint8Array(1 << 20));

/** Keys and what they do on a terminal. */
class Keyboard {
  readonly input = new PassThrough();
  readonly output = new PassThrough();
  readonly done: Promise<number>;
  text = "";

  constructor(shell: TestShell) {
    this.output.on("data", (data: Buffer) => (this.text += data.toString()));
    this.done = runConsole(shell.shell, { stdin: this.input, stdout: this.output });
  }

  type(keys: string): void {
    this.input.write(keys);
  }
}

describe("the terminal", () => {
  const home = process.env["VIRTIO_HOME"];
  let shell: TestShell;
  let keyboard: Keyboard;
  let printed = "";
  beforeEach(async () => {
    process.env["VIRTIO_HOME"] = mkdtempSync(join(tmpdir(), "virtio-shell-home-"));
    printed = "";
    shell = await inProcess(["-drive", `file=${image},format=raw`, "-device", "virtio-rng-pci"], {
      interactive: true,
      out: { write: (text) => void (printed += text) },
    });
    keyboard = new Keyboard(shell);
  });
  afterEach(async () => {
    await shell.close();
    rmSync(process.env["VIRTIO_HOME"] ?? "", { recursive: true, force: true });
    if (home === undefined) delete process.env["VIRTIO_HOME"];
    else process.env["VIRTIO_HOME"] = home;
  });

  test("a prompt, lines, an empty one that repeats, exit with a status", async () => {
    keyboard.type("echo one\r");
    await vi.waitFor(() => expect(printed).toMatch(/one\n/), 20_000);
    keyboard.type("\r");
    await vi.waitFor(() => expect(printed).toMatch(/one\none\n/), 20_000);
    expect(keyboard.text).toContain("=> ");
    keyboard.type("if true\r");
    await vi.waitFor(() => expect(keyboard.text).toMatch(/J> \S*$/), 20_000);
    keyboard.type("then echo two\rfi\r");
    await vi.waitFor(() => expect(printed).toMatch(/two\n/), 20_000);
    keyboard.type("exit 3\r");
    expect(await keyboard.done).toBe(3);
  });

  test("Tab completes, the arrow goes back in the history, which the next session has too", async () => {
    keyboard.type("prin\t");
    await vi.waitFor(() => expect(keyboard.text).toContain("printenv "), 20_000);
    keyboard.type("loada\t");
    await vi.waitFor(() => expect(keyboard.text).toContain("loadaddr "), 20_000);
    keyboard.type("\r");
    await vi.waitFor(() => expect(printed).toContain("loadaddr=1000\n"), 20_000);
    keyboard.type("\u001b[A\r");
    await vi.waitFor(() => expect(printed.match(/loadaddr=1000\n/g)).toHaveLength(2), 20_000);
    keyboard.type("\u0004");
    expect(await keyboard.done).toBe(0);
    const next = new Keyboard(shell);
    next.type("\u001b[A\r");
    await vi.waitFor(() => expect(printed.match(/loadaddr=1000\n/g)).toHaveLength(3), 20_000);
    next.type("\u0004");
    await next.done;
  });

  test("Ctrl-C ends a command, or drops what was typed; Ctrl-D leaves while one runs", async () => {
    keyboard.type("sleep 1000; echo no\r");
    await new Promise((resolve) => setTimeout(resolve, 100));
    keyboard.type("\u0003");
    await vi.waitFor(() => expect(printed).toContain("<INTERRUPT>\n"), 20_000);
    keyboard.type("echo dropped\u0003echo kept\r");
    await vi.waitFor(() => expect(printed).toContain("kept\n"), 20_000);
    expect(printed).not.toMatch(/no\n|dropped/);
    keyboard.type("sleep 1000\r");
    await new Promise((resolve) => setTimeout(resolve, 100));
    keyboard.type("\u0004");
    expect(await keyboard.done).toBeTypeOf("number");
  });
});

describe("completion", () => {
  test("commands, their words, devices and variables", async () => {
    const shell = await inProcess(["-drive", `file=${image},format=raw`, "-device", "virtio-rng-pci"]);
    const words = (line: string): string[] => complete(shell.shell, line)[0];
    expect(words("vir")).toEqual(["virtio "]);
    expect(words("virtio re")).toEqual(["read ", "regs "]);
    expect(words("echo a; ls v")).toEqual(["virtio "]);
    expect(words("true && ls virtio 0")).toEqual([]);
    await shell.run("virtio scan");
    expect(words("ls virtio ")).toEqual(["0 "]);
    expect(words("virtio regs ")).toEqual(["blk0 ", "entropy0 "]);
    expect(words("virtio device ")).toEqual(["0 "]);
    expect(words("printenv load")).toEqual(["loadaddr "]);
    expect(words("md ${loada")).toEqual(["${loadaddr}"]);
    expect(words("md $loada")).toEqual(["$loadaddr"]);
    expect(words("nothing ")).toEqual([]);
    expect(words("help m")).toEqual(["md ", "mw "]);
    await shell.close();
  });
});

describe("scripts", () => {
  test("lines of a stream, with the status of the last; an endless line is an error and is not kept", async () => {
    const shell = await inProcess(["-device", "virtio-rng-pci"]);
    const stream = async (...chunks: string[]): Promise<number> => {
      const input = new PassThrough();
      const done = runStream(shell.shell, input);
      for (const chunk of chunks) input.write(chunk);
      input.end();
      return done;
    };
    expect(await stream("echo a\nfal", "se\n")).toBe(1);
    expect(await stream("false\necho b")).toBe(0);
    expect(await stream("if true; then\n", "exit 7\nfi\n", "echo never\n")).toBe(7);
    expect(await stream("if true; then\n")).toBe(1);
    expect(await stream(...Array.from({ length: 40 }, () => "x".repeat(10_000)), "\necho after\n")).toBe(0);
    expect(shell.output.endsWith("after\n")).toBe(true);
    await shell.close();
  });
});

describe("virtio shell", () => {
  /** Runs the command; gives its output and status. */
  async function virtio(
    argv: readonly string[],
    input = "",
  ): Promise<{ status: number | null; out: string; err: string }> {
    const child = spawn(process.execPath, [join(packageFolder, "bin", "virtio.js"), "shell", ...argv]);
    let out = "";
    let err = "";
    child.stdout.on("data", (data: Buffer) => (out += data.toString()));
    child.stderr.on("data", (data: Buffer) => (err += data.toString()));
    child.stdin.end(input);
    const status = await new Promise<number | null>((resolve) => child.on("close", resolve));
    return { status, out, err };
  }
  const device = ["-drive", `file=${image},format=raw`];

  test("-c, --script, standard input, and their statuses", async () => {
    const commands = "virtio info\nfalse";
    const shown =
      "Device 0: 00001af4 VirtIO Block Device\n            Type: Hard Disk\n            Capacity: 1.0 MB = 0.0 GB (2048 x 512)\n";
    const expected = { status: 1, out: shown, err: "" };
    expect(await virtio([...device, "-c", commands])).toEqual(expected);
    expect(await virtio([...device, "--script", folder.write("script", commands)])).toEqual(expected);
    expect(await virtio(device, commands)).toEqual(expected);
    expect(await virtio([...device, "-c", "echo 1 && exit 4"])).toEqual({ status: 4, out: "1\n", err: "" });
  });

  test("a reader that goes ends it", async () => {
    const argv = [...device, "-c", "while true; do md 1000 1000; done"];
    const child = spawn(process.execPath, [join(packageFolder, "bin", "virtio.js"), "shell", ...argv]);
    let err = "";
    child.stderr.on("data", (data: Buffer) => (err += data.toString()));
    child.stdout.once("data", () => child.stdout.destroy());
    const status = await new Promise<number | null>((resolve) => child.on("close", resolve));
    expect({ status, err }).toEqual({ status: 130, err: "" });
  });

  test("what is wrong with the command line is said", async () => {
    expect(await virtio([])).toMatchObject({ status: 1, out: "" });
    expect((await virtio(["--help"])).out).toMatch(/^Usage: virtio shell TARGET/);
    expect((await virtio([...device, "--qemu", "x"])).err).toMatch(/one kind of target at a time/);
    expect((await virtio(["--vhost-user", "/x"])).err).toMatch(/say what the back-end is/);
    expect((await virtio(["-drive", "file=/nowhere"])).err).toMatch(/nowhere/);
    expect((await virtio([...device, "-c", "a", "--script", "b"])).err).toMatch(/one of them/);
    expect((await virtio([...device, "--script", "/nowhere"])).err).toMatch(
      /--script: \/nowhere: no such file or directory/,
    );
  });
});
