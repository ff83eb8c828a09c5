/** A Linux guest for tests: a shell on the serial port that takes a line and answers with its output and status. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { HintWatch } from "@virtio/testkit/no-hints";
import { EmbeddedMachine, KERNEL_PARAMETERS, type MachineOptions } from "@virtio/v86";
import { readV86Wasm } from "@virtio/v86/node";

/** What `npm start` or `npm test` set up, or another place with `vmlinux` (or `vmlinuz`) and `initrd`. */
const folder =
  process.env["VIRTIO_GUEST"] ??
  join(fileURLToPath(new URL("../../../..", import.meta.url)), ".virtio", "guest");

export const guestMissing: boolean = !existsSync(join(folder, "initrd"));

/** A test title for those that need the guest. */
export function needsGuest(title: string): string {
  return `${title} (needs the guest kernel: node scripts/start.mjs --run true)`;
}

const INIT = `#!/bin/sh
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -icrnl -onlcr -icanon
echo '<ready>'
while read -r line; do eval "$line"; echo "<status $?>"; done
`;

/** Linux takes several cpio archives behind each other; this one adds a file to the initrd of the assets. */
function cpioFile(path: string, mode: number, content: string): Uint8Array {
  const entry = (name: string, entryMode: number, data: Buffer): Buffer => {
    const fields = [1, entryMode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length + 1, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${name}\0`;
    const pad = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
    return Buffer.concat([pad(Buffer.from(header)), pad(data)]);
  };
  return Buffer.concat([
    entry(path, 0o100000 | mode, Buffer.from(content)),
    entry("TRAILER!!!", 0, Buffer.alloc(0)),
  ]);
}

/** Pieces at multiples of four, where the kernel looks for the next archive. */
function concatArchives(...archives: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(archives.flatMap((archive) => [archive, Buffer.alloc(-archive.length & 3)]));
}

export class TestGuest {
  readonly machine: EmbeddedMachine;
  #output = "";
  #waiting: (() => void) | undefined;

  readonly #hints: HintWatch;

  private constructor(machine: EmbeddedMachine, hints: HintWatch) {
    this.machine = machine;
    this.#hints = hints;
    machine.onSerial((byte) => {
      this.#output += String.fromCharCode(byte);
      if (byte === 0x0a) this.#waiting?.();
    });
  }

  /** A machine that is not running yet. A hint to a driver of Linux fails the test that caused it. */
  static async create(options: Partial<MachineOptions> = {}): Promise<TestGuest> {
    const kernel = ["vmlinux", "vmlinuz"].map((name) => join(folder, name)).find((path) => existsSync(path));
    const initrd = concatArchives(readFileSync(join(folder, "initrd")), cpioFile("test-init", 0o755, INIT));
    const hints = new HintWatch(options.observer);
    const machine = await EmbeddedMachine.create({
      wasm: await readV86Wasm(),
      memorySize: 128 << 20,
      kernel: readFileSync(kernel ?? join(folder, "vmlinux")),
      initrd,
      commandLine: `console=ttyS0 quiet rdinit=/test-init ${KERNEL_PARAMETERS}`,
      ...options,
      observer: hints.observer,
    });
    return new TestGuest(machine, hints);
  }

  /** Runs until the shell is there; milliseconds. */
  async boot(): Promise<number> {
    const start = performance.now();
    this.machine.run();
    await this.#until(/<ready>\r?\n/, 90_000);
    this.#hints.check();
    return performance.now() - start;
  }

  /** Output of a command, without the last line feed. Throws when its status is not 0, and when Linux got a hint. */
  async sh(command: string, milliseconds = 20_000): Promise<string> {
    this.#output = "";
    this.machine.sendSerial(Buffer.from(`${command}\n`));
    const { before, match } = await this.#until(/<status (\d+)>\r?\n/, milliseconds);
    const output = before.replaceAll("\r", "").replace(/\n$/, "");
    if (match[1] !== "0") throw new Error(`${command}: status ${match[1]}\n${output}`);
    this.#hints.check();
    return output;
  }

  /** `milliseconds`: of processor time. A guest that gets none, because others have it, is not slow; ten times as long ends it. */
  async #until(pattern: RegExp, milliseconds: number): Promise<{ before: string; match: RegExpExecArray }> {
    const began = performance.now();
    const worked = process.cpuUsage();
    for (;;) {
      const match = pattern.exec(this.#output);
      if (match !== null) {
        const before = this.#output.slice(0, match.index);
        this.#output = this.#output.slice(match.index + match[0].length);
        return { before, match };
      }
      const { user, system } = process.cpuUsage(worked);
      const left = milliseconds - Math.max((user + system) / 1000, (performance.now() - began) / 10);
      if (left <= 0) throw new Error(`no ${pattern} from the guest; it said: ${this.#output.slice(-2000)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#waiting = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
