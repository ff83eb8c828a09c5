import { randomBytes } from "node:crypto";
import type { Readable, Writable } from "node:stream";

import { ConsoleDevice } from "virtio/devices/console/device";

import { UserError } from "../user-error.ts";
import type { MachineDescription } from "./description.ts";
import type { Phase } from "./state-file.ts";
import { InputPort, LinePort, OutputPort } from "./ports.ts";
import { SyscallPort } from "./syscalls.ts";

/** PCI slot of the device that the agent's ports are on; the kernel command line tells it to the guest. */
export const agentSlot = 0x1d;

/** Console ports are number 0, so these begin at 1. */
const portNames = [
  "virtio.control",
  "virtio.run.stdin",
  "virtio.run.stdout",
  "virtio.run.stderr",
  "virtio.syscalls",
] as const;

/** System calls of Linux for i386. */
const linux = { open: 5, close: 6, mount: 21, mkdir: 39, ioctl: 54, clock_settime: 264 };
const O_WRONLY = 1;
const CLOCK_REALTIME = 0;
const RNDADDENTROPY = 0x40085203;
const RNDRESEEDCRNG = 0x5207;

/** How long the guest may take to write back its disks when it is told to stop. */
const offMilliseconds = 10_000;

export interface AgentEvents {
  /** Something the guest could not do, such as a mount. */
  error(message: string): void;
  /** Whoever read our output is gone. */
  outputClosed(error: Error): void;
}

/**
 * The host's end of the guest's init (`packages/cli/guest/init`): a virtio-serial device with a port for lines of control
 * and three for the standard streams of the command that is run.
 */
export class GuestAgent {
  readonly device: ConsoleDevice;
  readonly #control: LinePort;
  readonly #input: InputPort;
  readonly #output: OutputPort;
  readonly #errorOutput: OutputPort;
  readonly #syscalls: SyscallPort = new SyscallPort();
  readonly #events: AgentEvents;
  readonly #ready = deferred<string>();
  readonly #bound = deferred<undefined>();
  readonly #off = deferred<undefined>();
  readonly #exit = deferred<number>();

  constructor(stdout: Writable, stderr: Writable, events: AgentEvents) {
    this.#events = events;
    this.#control = new LinePort((line) => this.#receive(line));
    this.#input = new InputPort();
    this.#output = new OutputPort(stdout, (error) => events.outputClosed(error));
    this.#errorOutput = new OutputPort(stderr, () => undefined);
    const backends = [this.#control, this.#input, this.#output, this.#errorOutput, this.#syscalls];
    this.device = new ConsoleDevice({
      ports: backends.map((backend, index) => ({
        backend,
        kind: "serial",
        nr: index + 1,
        name: portNames[index] ?? "",
      })),
    });
  }

  /** The guest has found the control port and waits; gives its kernel's release. */
  get ready(): Promise<string> {
    return this.#ready.promise;
  }

  /** The guest stopped by itself: somebody said `poweroff` in it. */
  get off(): Promise<undefined> {
    return this.#off.promise;
  }

  /** The command, or the session's shell, ended with this status. All it wrote is written. */
  get exit(): Promise<number> {
    return this.#exit.promise;
  }

  /** Lets the guest go on: its clock, fresh entropy, then drivers and mounts. */
  async start(machine: MachineDescription): Promise<void> {
    this.#control.send("bind\n");
    await this.#refresh();
    await this.#bound.promise;
    for (const { tag, folder } of machine.mounts) await this.#mount(tag, folder);
    if (machine.root === undefined) return;
    await this.#mount(machine.root, "/newroot");
    this.#control.send("root\n");
  }

  /** As `start`, for a machine that had been started when it was saved. */
  async resume(phase: Phase): Promise<void> {
    await this.#refresh();
    // After a command its streams are made anew.
    if (phase === "idle") this.#control.send("feed\n");
  }

  /** A restored guest's clock stands still, and its random numbers would be those of every other restored one. */
  async #refresh(): Promise<void> {
    const now = Date.now();
    await this.#syscalls.call(
      linux.clock_settime,
      CLOCK_REALTIME,
      words(Math.floor(now / 1000), (now % 1000) * 1e6),
    );
    const device = await this.#syscalls.call(linux.open, "/dev/urandom", O_WRONLY);
    const entropy = Buffer.concat([words(256, 32), randomBytes(32)]);
    await this.#syscalls.call(linux.ioctl, device, RNDADDENTROPY, entropy);
    await this.#syscalls.call(linux.ioctl, device, RNDRESEEDCRNG);
    await this.#syscalls.call(linux.close, device);
  }

  async #mount(tag: string, folder: string): Promise<void> {
    await this.#syscalls.call(linux.mkdir, folder, 0o755);
    const options = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap";
    const result = await this.#syscalls.call(linux.mount, tag, folder, "9p", 0, options);
    if (result < 0) this.#events.error(`the guest cannot mount ${tag} at ${folder}: error ${-result}`);
  }

  /** Runs a command; `exit` tells of its end. */
  run(command: string, input: Readable | undefined): void {
    if (command.includes("\0")) throw new UserError("--run: the command has a NUL byte in it");
    const lines = command.split("\n");
    this.#control.send(`run ${lines.length}\n${lines.join("\n")}\n`);
    this.#input.feed(input);
  }

  /** What a restored machine's command reads goes on from here. */
  resumeInput(input: Readable | undefined): void {
    this.#input.feed(input);
  }

  /** Puts a shell on each console. */
  session(terminal: string): void {
    this.#control.send(`session ${/^[A-Za-z0-9._-]{1,32}$/.test(terminal) ? terminal : "linux"}\n`);
  }

  /** Has the guest write back its disks. A guest that does not answer in time, or has an init of its own, is not waited for. */
  async stop(): Promise<void> {
    if (!this.#control.listening) return;
    this.#control.send("off\n");
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, offMilliseconds);
    });
    await Promise.race([this.#off.promise, late]);
    clearTimeout(timer);
  }

  #receive(line: string): void {
    const space = line.indexOf(" ");
    const verb = space < 0 ? line : line.slice(0, space);
    const rest = space < 0 ? "" : line.slice(space + 1);
    if (verb === "ready") this.#ready.resolve(rest);
    else if (verb === "bound") this.#bound.resolve(undefined);
    else if (verb === "off") this.#off.resolve(undefined);
    else if (verb === "error") this.#events.error(printable(rest));
    else if (verb === "exit") void this.#finish(Number(rest) & 255);
  }

  async #finish(status: number): Promise<void> {
    await Promise.all([this.#output.drained(), this.#errorOutput.drained()]);
    this.#exit.resolve(status);
  }
}

/** The guest is not trusted: nothing of it may steer the terminal when it is shown as a message. */
export function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, "?");
}

/** 32-bit numbers as they lie in the guest's memory. */
function words(...values: readonly number[]): Uint8Array {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeUInt32LE(value >>> 0, 4 * index));
  return bytes;
}

function deferred<T>(): { readonly promise: Promise<T>; resolve(value: T): void } {
  let settle: (value: T) => void = () => undefined;
  const promise = new Promise<T>((resolve) => {
    settle = resolve;
  });
  return { promise, resolve: (value) => settle(value) };
}
