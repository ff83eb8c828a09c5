/** The guest of the benchmarks: our devices and v86's own in one machine, and a shell to ask. */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { CpioWriter } from "@virtio/cli/guest/cpio";
import { ModuleTree, dependencyText } from "@virtio/cli/guest/modules";
import { guestModules } from "@virtio/cli/guest/initrd";
import { EmbeddedMachine, KERNEL_PARAMETERS } from "@virtio/v86";
import { readV86Wasm } from "@virtio/v86/node";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import { ninePDevice } from "virtio/devices/9p/device";
import { BlkDevice } from "virtio/devices/blk/device";
import { ConsoleDevice } from "virtio/devices/console/device";

const here = fileURLToPath(new URL(".", import.meta.url));
const home = fileURLToPath(new URL("../../.virtio/", import.meta.url));
const DISK = 64 << 20;
const MEMORY = 256 << 20;
const COMMAND_TIME = 180_000;

/**
 * Boots the machine with v86's own disk and 9p beside ours (`part` disk), or with its console (which it only drives without
 * ACPI). `run(command)` gives a command's output, `consoleBytes()` what came through our console.
 */
export async function benchMachine(part) {
  if (!existsSync(join(home, "guest/vmlinux")))
    throw new Error("run npm start once: it fetches the guest kernel");
  const [kernel, initrd] = [readFileSync(join(home, "guest/vmlinux")), benchInitrd()];
  const machine = await EmbeddedMachine.create({
    memorySize: MEMORY,
    kernel,
    initrd,
    wasm: await readV86Wasm(),
    commandLine: `console=ttyS0 quiet bench=${part} ${KERNEL_PARAMETERS}`,
    acpi: false,
    v86Options:
      part === "disk"
        ? { hda: { buffer: new Uint8Array(DISK).fill(1).buffer }, filesystem: {} }
        : { virtio_console: true },
  });
  let received = 0;
  const counter = { write: (bytes) => ((received += bytes.length), bytes.length), attach: () => undefined };
  machine.plugPci(new ConsoleDevice({ ports: [{ kind: "console", backend: counter }] }), {
    label: "console",
  });
  machine.plugPci(new BlkDevice(new MemoryBlockBackend(new Uint8Array(DISK).fill(1))), { label: "disk" });
  const fileSystem = new MemoryFileSystem();
  machine.plugPci(ninePDevice({ tag: "ours", fileSystem }), { label: "share" });
  const shell = new SerialShell(machine);
  machine.run();
  await shell.until("GUEST READY\n", COMMAND_TIME);
  return { machine, run: (command) => shell.run(command), consoleBytes: () => received };
}

/** Asks the shell on the serial port; a marker that the command itself does not contain ends each answer. */
class SerialShell {
  #text = "";
  #wake = () => undefined;
  #count = 0;

  constructor(machine) {
    this.machine = machine;
    machine.onSerial((byte) => {
      this.#text += String.fromCharCode(byte);
      this.#wake();
    });
  }

  async run(command) {
    const marker = `END${++this.#count}`;
    this.machine.sendSerial(new TextEncoder().encode(`${command}\necho "E"ND${this.#count} $?\n`));
    const output = await this.until(new RegExp(`${marker} (\\d+)\\r?\\n`), COMMAND_TIME);
    return output.replaceAll("\r", "").trim();
  }

  async until(pattern, time) {
    const deadline = Date.now() + time;
    for (;;) {
      const normal = this.#text.replaceAll("\r\n", "\n");
      const match = typeof pattern === "string" ? normal.indexOf(pattern) : normal.search(pattern);
      if (match >= 0) {
        this.#text = "";
        return normal.slice(0, match);
      }
      if (Date.now() > deadline)
        throw new Error(`the guest does not answer; it said:\n${normal.slice(-2000)}`);
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 1000).unref();
      });
    }
  }
}

/** The command's initrd with the drivers of v86's own devices, `rr` and the benchmark's init laid over it. */
function benchInitrd() {
  const work = mkdtempSync(join(tmpdir(), "virtio-bench-"));
  try {
    const packages = join(home, "apt/packages");
    const file = readdirSync(packages).find((name) => /^linux-image-\d.*_i386\.deb$/.test(name));
    if (file === undefined)
      throw new Error("the guest kernel's package is not in .virtio; remove .virtio and npm start");
    execFileSync("dpkg-deb", ["-x", join(packages, file), work]);
    const modulesFolder = join(work, "lib/modules");
    const [release] = readdirSync(modulesFolder);
    const modules = new ModuleTree(join(modulesFolder, release)).closure([
      ...guestModules,
      "ata_piix",
      "sd_mod",
    ]);
    const archive = new CpioWriter();
    for (const module of modules) archive.file(`lib/modules/${release}/${module.path}`, module.data);
    archive.file(`lib/modules/${release}/modules.dep`, dependencyText(modules));
    archive.file("bin/rr", readFileSync(compileRr()), 0o755);
    archive.file("init", readFileSync(join(here, "init")), 0o755);
    return Buffer.concat([readFileSync(join(home, "guest/initrd")), archive.finish()]);
  } finally {
    rmSync(work, { recursive: true });
  }
}

function compileRr() {
  mkdirSync(join(home, "bench"), { recursive: true });
  const target = join(home, "bench/rr");
  const flags = "-m32 -O2 -nostdlib -static -ffreestanding -fno-pic -fno-stack-protector".split(" ");
  const result = spawnSync("gcc", [...flags, "-o", target, join(here, "rr.c")], { stdio: "inherit" });
  if (result.status !== 0) throw new Error("this benchmark needs gcc: apt-get install gcc");
  return target;
}
