import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";

import { findProgram, needs } from "@virtio/testkit/needs";
import { until } from "@virtio/testkit/until";
import { afterEach, beforeEach, expect, test } from "vitest";

import { qemuFacts } from "@virtio/cli/qemu/facts";
import { facts } from "./facts.ts";
import { command } from "../built.ts";

const QEMU = "qemu-system-x86_64";
const qemu = findProgram(QEMU);
const title = (text: string): string => needs(QEMU, "qemu-system-x86", text);

let folder: string;
let child: ChildProcess | undefined;
let said = "";

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-test-"));
  mkdirSync(join(folder, "tmp"));
  writeFileSync(join(folder, "disk.img"), new Uint8Array(1 << 20));
  said = "";
});
afterEach(() => {
  // A test that failed leaves a QEMU behind, whose parent is killed without telling it.
  if (child !== undefined && child.exitCode === null && existsSync(join(folder, "pid")))
    process.kill(Number(readFileSync(join(folder, "pid"), "utf8")), "SIGKILL");
  child?.kill("SIGKILL");
  child = undefined;
  rmSync(folder, { recursive: true });
});

/** `virtio qemu` with QMP on its terminal; its sockets are in our folder. */
function start(argv: readonly string[]): ChildProcess {
  child = spawn(process.execPath, [command, "qemu", ...argv], {
    cwd: folder,
    env: { ...process.env, TMPDIR: join(folder, "tmp") },
  });
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (bytes: Buffer) => (said += bytes.toString()));
  return child;
}

async function ends(process: ChildProcess): Promise<unknown> {
  if (process.exitCode === null) await once(process, "exit");
  return process.exitCode;
}

const stopped = "-nodefaults -display none -S -qmp stdio -pidfile pid".split(" ");
const devices = (
  "-m 96 -drive if=none,file=disk.img,format=raw,id=d -device virtio-blk-pci,drive=d,id=d0,serial=S1 " +
  "-device virtio-rng-pci,id=r0 -netdev hubport,id=n,hubid=0 -device virtio-net-pci,netdev=n,id=n0 " +
  "-drive if=virtio,file=second.img,format=raw"
).split(" ");

test.skipIf(qemu === undefined)(title("what is written down of QEMU 7.2 is what a QEMU says"), async () => {
  const real = await qemuFacts(QEMU, undefined);
  for (const [driver, properties] of facts.drivers) {
    const has = real.drivers.get(driver);
    expect(has, driver).toBeDefined();
    for (const property of properties) expect(has?.has(property), `${driver}.${property}`).toBe(true);
  }
  expect(real).toMatchObject({ defaultMemory: 128 << 20, drivesAreVirtio: false, memoryBackend: true });
  await expect(qemuFacts("true", undefined)).rejects.toThrow("is it a qemu-system-… program?");
  await expect(qemuFacts("qemu-system-none", undefined)).rejects.toThrow(
    "qemu-system-none is not installed, or not in PATH",
  );
});

test.skipIf(qemu === undefined)(
  title("a QEMU takes the command line, talks on the terminal, and its status is ours"),
  async () => {
    writeFileSync(join(folder, "second.img"), new Uint8Array(1 << 20));
    const running = start([QEMU, ...devices, ...stopped]);
    await until(
      () => said.includes('"QMP"'),
      () => said,
    );
    for (const text of ["blk-pci,drive=d,id=d0,serial=S1", "rng-pci,id=r0", "net-pci,netdev=n,id=n0"])
      expect(said).toContain(`virtio: virtio-${text}: ours\n`);
    expect(said).toContain("virtio: -drive if=virtio,file=second.img,format=raw: ours\n");
    const sockets = readdirSync(join(folder, "tmp"), { recursive: true, encoding: "utf8" });
    expect(sockets.filter((name) => name.endsWith(".sock"))).toHaveLength(4);
    const ask = (execute: string, more: object = {}): void =>
      void running.stdin?.write(`${JSON.stringify({ execute, arguments: more })}\n`);
    ask("qmp_capabilities");
    ask("qom-list", { path: "/machine/peripheral" });
    ask("query-memdev");
    await until(
      () => said.includes('"share"'),
      () => said,
    );
    for (const type of ["vhost-user-blk-pci", "vhost-user-rng-pci", "virtio-net-pci"])
      expect(said).toContain(`child<${type}>`);
    expect(said).toMatch(/"size": 100663296.*"share": true|"share": true.*"size": 100663296/);
    ask("quit");
    expect(await ends(running)).toBe(0);
    expect(readdirSync(join(folder, "tmp"))).toEqual([]);
  },
);

test.skipIf(qemu === undefined)(
  title("a signal is passed on, a QEMU that is killed is 137, a mistake of QEMU's is its status"),
  async () => {
    writeFileSync(join(folder, "second.img"), new Uint8Array(1 << 20));
    const asked = start([QEMU, ...devices, ...stopped]);
    // It greets before it has handlers of signals.
    asked.stdin?.write('{"execute":"qmp_capabilities"}\n');
    await until(
      () => said.includes('"return"'),
      () => said,
    );
    asked.kill("SIGTERM");
    expect(await ends(asked)).toBe(0);
    expect(said).toContain("terminating on signal 15");

    said = "";
    const killed = start(["--quiet", QEMU, ...devices, ...stopped]);
    await until(
      () => said.includes('"QMP"'),
      () => said,
    );
    expect(said).not.toContain("ours");
    process.kill(Number(readFileSync(join(folder, "pid"), "utf8")), "SIGKILL");
    expect(await ends(killed)).toBe(137);

    expect(await ends(start([QEMU, ...devices, "-device", "nonesuch"]))).toBe(1);
    expect(said).toContain("'nonesuch' is not a valid device model name");
    expect(readdirSync(join(folder, "tmp"))).toEqual([]);
  },
);

test.skipIf(qemu === undefined)(
  title("what cannot be opened ends it before QEMU starts; --dry-run and questions start nothing of ours"),
  async () => {
    expect(await ends(start([QEMU, ...devices, ...stopped]))).toBe(1);
    expect(said).toMatch(/virtio: disk\d: .*second\.img/);
    expect(existsSync(join(folder, "pid"))).toBe(false);
    expect(readdirSync(join(folder, "tmp"))).toEqual([]);

    said = "";
    expect(await ends(start(["--dry-run", QEMU, ...devices]))).toBe(0);
    expect(said).toContain("virtio serve blk,id=d0,serial=S1,num-queues=1 --socket");
    expect(said).toContain(`${QEMU} -m 96 -chardev socket,id=vu0`);

    said = "";
    expect(await ends(start([QEMU, "-device", "virtio-blk-pci,help"]))).toBe(0);
    expect(said).toContain("virtio-blk-pci options:");
    expect(await ends(start([QEMU, "-daemonize"]))).toBe(1);
    expect(said).toContain("virtio: -daemonize: the devices end with this command");
    expect(await ends(start(["--dry-run"]))).toBe(1);
    expect(said).toContain("Which QEMU?");
    expect(await ends(start(["--help"]))).toBe(0);
    expect(said).toContain("Usage: virtio qemu");
  },
);

test.skipIf(qemu === undefined)(
  title("--sealed-memory: QEMU's memfd is taken and read into; a -mem-path, which can be shrunk, is refused"),
  async () => {
    const [memory, log] = [join(folder, "memory"), join(folder, "log")];
    mkdirSync(memory);
    const machine = "-m 64 -display none -qmp stdio -pidfile pid -drive if=virtio,file=disk.img,format=raw";
    const ours = ["--sealed-memory", "--log", "virtio", "--log-file", log];
    const taken = start([...ours, QEMU, ...machine.split(" ")]);
    // The firmware looks for a boot sector.
    await until(
      () => existsSync(log) && /used 0, 513 bytes written/.test(readFileSync(log, "utf8")),
      () => said,
    );
    taken.kill("SIGTERM");
    expect(await ends(taken)).toBe(0);
    const refused = start([...ours, QEMU, ...machine.split(" "), "-mem-path", memory]);
    await until(
      () => said.includes("memory region: its file can be shrunk"),
      () => said,
    );
    refused.kill("SIGTERM");
    await ends(refused);
    expect(said).not.toMatch(/ {4}at /);
    expect(await ends(start(["--sealed-memory", "--dry-run", QEMU, ...devices.slice(0, 6)]))).toBe(0);
    expect(said).toMatch(/^virtio serve blk.* --sealed-memory &$/m);
  },
);

test.skipIf(qemu === undefined).each(["SIGTERM", "SIGINT", "SIGHUP"] as const)(
  title("%s before QEMU runs ends it, and leaves no sockets"),
  async (signal) => {
    const tmp = join(folder, "tmp");
    const virtio = start([
      qemu ?? QEMU,
      "-display",
      "none",
      "-S",
      "-drive",
      "file=disk.img,format=raw,if=virtio",
    ]);
    const ended = once(virtio, "exit");
    await until(
      () => readdirSync(tmp).length > 0,
      () => said,
    );
    virtio.kill(signal);
    const [status] = (await ended) as [number | null];
    expect(status).toBe(128 + constants.signals[signal]);
    expect(readdirSync(tmp)).toEqual([]);
  },
);
